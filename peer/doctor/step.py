"""How long an inner step of a run's model takes on this machine."""

import statistics
import time

import numpy as np
import torch

from peer.domains.capability import flops_per_s
from peer.experts.flops import flops_per_token
from peer.train.data import Corpus
from peer.train.model import initial_anchor
from peer.train.replica import Replica
from protocol.manifest import Manifest
from protocol.models import ModelSpec

LONGEST_S = 2.0
"""A longer step is not tried, but computed from the machine's speed, which is then the floor."""
WARM_STEPS, STEPS = 1, 3
_TEXT_BYTES = 1 << 20


def step_s(manifest: Manifest, device: str) -> float:
    """Return the seconds of an inner step, measured where that is quick; 0 where nobody knows.

    Args:
        manifest: Without domains.
        device: Where to train.
    """
    spec = manifest.model
    if not isinstance(spec, ModelSpec) or manifest.data.tokenizer != "bytes":
        return 0.0
    where = torch.device(device)
    tokens = manifest.inner.batch_sequences * spec.context
    predicted_s = flops_per_token(spec) * tokens / flops_per_s(where)
    if predicted_s > LONGEST_S:
        return predicted_s
    text = np.random.default_rng(0).integers(0, 256, max(_TEXT_BYTES, 2 * spec.context), np.uint8)
    corpus = Corpus(text, text, "noise")
    replica = Replica(manifest, corpus, peer_id="doctor", device=where)
    replica.load(initial_anchor(manifest))
    durations_s = []
    for _ in range(WARM_STEPS + STEPS):
        began_s = time.perf_counter()
        replica.train_step().item()  # waits for the device
        durations_s.append(time.perf_counter() - began_s)
    return statistics.median(durations_s[WARM_STEPS:])
