from typing import Any

import numpy as np
import pytest
import torch

from peer.train.batches import BatchStream, validation_batches
from protocol.errors import ConfigError

TEXT = np.arange(5000, dtype=np.int64).astype(np.uint8)


def stream(*, run_id: str = "run", peer_id: str = "a", start_step: int = 0) -> BatchStream:
    return BatchStream(
        TEXT, batch_sequences=3, context=10, run_id=run_id, peer_id=peer_id, start_step=start_step
    )


def test_batch_k_is_a_function_of_run_peer_and_k() -> None:
    one, two = stream(), stream()
    batches = [one.next() for _ in range(5)]
    assert all(torch.equal(batch, two.next()) for batch in batches)
    assert torch.equal(stream(start_step=3).next(), batches[3])
    assert batches[0].shape == (3, 11)
    assert batches[0].dtype == torch.int64


@pytest.mark.parametrize("other", [{"peer_id": "b"}, {"run_id": "run 2"}, {"start_step": 1}])
def test_other_peers_runs_and_steps_see_other_windows(other: dict[str, Any]) -> None:
    assert not torch.equal(stream().next(), stream(**other).next())


def test_windows_are_cut_from_the_text() -> None:
    batch = stream().next()
    assert torch.equal((batch[:, 1:] - batch[:, :-1]) % 256, torch.ones(3, 10, dtype=torch.int64))


def test_first_and_last_window_can_be_drawn() -> None:
    text = np.arange(12, dtype=np.uint8)
    batches = BatchStream(text, batch_sequences=64, context=10, run_id="r", peer_id="p")
    assert set(batches.next()[:, 0].tolist()) == {0, 1}


def test_validation_windows_are_spread_and_do_not_overlap() -> None:
    batches = list(validation_batches(TEXT, context=10, max_tokens=200, batch=8))
    assert [len(batch) for batch in batches] == [8, 8, 4]
    again = list(validation_batches(TEXT, context=10, max_tokens=200, batch=8))
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))
    everything = torch.cat(
        list(validation_batches(TEXT[:200], context=10, max_tokens=999, batch=8))
    )
    predicted = everything[:, 1:].flatten().tolist()
    assert len(predicted) == len(set(predicted)) == 190


def test_a_text_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(ConfigError, match="fewer than one window"):
        BatchStream(TEXT[:10], batch_sequences=1, context=10, run_id="r", peer_id="p")
    with pytest.raises(ConfigError, match="fewer than one window"):
        next(validation_batches(TEXT[:10], context=10, max_tokens=10, batch=1))
