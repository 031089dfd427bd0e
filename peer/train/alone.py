"""Training without a swarm: the same replica, stream and steps, and no exchanges."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from peer.train.config import EVALUATION_BYTES
from peer.train.data import Corpus
from peer.train.lines import Evaluated, Progress
from peer.train.meter import Meter
from peer.train.model import initial_anchor
from peer.train.replica import Replica
from peer.train.run_text import text_of_run
from protocol.manifest import Manifest


@dataclass(frozen=True, slots=True, eq=False)
class Alone:
    """What came out of training alone."""

    replica: Replica
    losses: list[float]
    """Training loss of each step, in nats for a token."""


def train_alone(
    manifest: Manifest,
    steps: int,
    *,
    peer_id: str = "alone",
    device: torch.device | str = "cpu",
    corpus: Corpus | None = None,
    files: Path | None = None,
    evaluate_every_steps: int = 0,
    evaluation_bytes: int = EVALUATION_BYTES,
    on_report: Callable[[Progress | Evaluated], None] = lambda report: None,
) -> Alone:
    """Return a replica trained from theta_0 with the run's inner optimizer on one peer's stream.

    Args:
        manifest: The run.
        steps: Inner steps.
        peer_id: Whose stream of batches.
        device: Where to train.
        corpus: The text; None loads what the manifest names.
        files: Where the run's files are, if theta_0 or the tokenizer is one of them.
        evaluate_every_steps: Evaluate after so many steps, and after the last; 0 never.
        evaluation_bytes: Validation text read by one evaluation.
        on_report: Called with `Progress` at most about four times a second and after the last step,
            and with each `Evaluated`, whose `round` is 0.

    Raises:
        ConfigError: the manifest's text is not here, or theta_0 is not.
        ThinwireError: the loss is not finite.
    """
    if corpus is None:
        corpus = text_of_run(manifest, files)
    replica = Replica(manifest, corpus, peer_id=peer_id, device=torch.device(device))
    replica.load(initial_anchor(manifest, files))
    meter = Meter(replica.device)
    losses = []
    while replica.step < steps:
        losses.append(replica.train_step())
        meter.add_step(losses[-1], replica.step_tokens)
        is_done = replica.step == steps
        if is_done or meter.is_due():
            on_report(meter.report(replica.step, replica.tokens, is_done=is_done))
        if evaluate_every_steps and (is_done or replica.step % evaluate_every_steps == 0):
            on_report(_evaluate(replica, meter, evaluation_bytes))
    return Alone(replica, torch.stack(losses).tolist() if losses else [])


def _evaluate(replica: Replica, meter: Meter, evaluation_bytes: int) -> Evaluated:
    with meter.aside(is_overhead=False) as aside:
        bits = replica.evaluate(None, max_bytes=evaluation_bytes)
    return Evaluated(round=0, step=replica.step, bits_per_byte=bits, took_s=aside.took_s)
