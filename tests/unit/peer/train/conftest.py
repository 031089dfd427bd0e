from collections.abc import Iterator

import numpy as np
import pytest
import torch

from peer.train.data import Corpus
from protocol.manifest import Manifest, manifest_from


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def manifest() -> Manifest:
    return manifest_from(
        {
            "founder": "nobody",
            "seed": 7,
            "model": {"dim": 16, "layers": 2, "heads": 2, "ffn_dim": 24, "context": 16},
            "inner": {"warmup_steps": 2, "total_steps": 50, "batch_sequences": 2, "lr": 1e-2},
            "method": {"schedule": {"interval_steps": 4, "fragments": 2, "overlap_steps": 0}},
        }
    )


@pytest.fixture
def corpus() -> Corpus:
    text = np.frombuffer(b"the wire is thin, the model is one. " * 200, dtype=np.uint8)
    return Corpus(text[:6000], text[6000:], "a small text")
