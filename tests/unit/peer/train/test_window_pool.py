import itertools
import threading
from collections import Counter
from collections.abc import Generator

import numpy as np
import pytest

from peer.train.data import Text
from peer.train.window_pool import MOST_USES, WindowPool
from protocol.errors import ConfigError, ThinwireError


def numbers(lengths: tuple[int, ...] = (3, 50, 7), stop: int | None = None) -> Generator[Text]:
    start = 0
    for length in itertools.cycle(lengths):
        yield np.arange(start, start + length, dtype=np.uint32)
        start += length
        if stop is not None and start >= stop:
            return


def pool_of(blocks: Generator[Text], **changes: int | float) -> WindowPool:
    settings = {"batch_sequences": 4, "context": 9, "capacity": 64, "wait_s": 20.0}
    return WindowPool(blocks, owner="me", **settings | changes)  # type: ignore[arg-type]


def test_windows_are_cut_from_the_stream_without_gaps() -> None:
    pool = pool_of(numbers())
    firsts = set()
    for step in range(200):
        assert pool.step == step
        batch = pool.next().numpy()
        assert batch.shape == (4, 10)
        assert (batch[:, 0] % 10 == 0).all()  # windows do not overlap
        assert (np.diff(batch, axis=1) == 1).all()  # nothing is lost between blocks
        firsts.update(batch[:, 0].tolist())
    pool.close()
    assert len(firsts) >= 800 // MOST_USES


def test_each_window_is_used_once_before_any_is_used_again() -> None:
    pool = pool_of(numbers((64,), stop=640))
    pool._thread.join()  # all of it has come
    epoch = Counter(window for _ in range(16) for window in pool.next()[:, 0].tolist())
    pool.close()
    assert epoch == Counter(range(0, 640, 10))


def test_a_stream_that_stands_still_is_used_again_but_not_for_ever() -> None:
    gate = threading.Event()

    def slow() -> Generator[Text]:
        yield np.arange(320, dtype=np.uint32)  # 32 windows, and then nothing
        gate.wait(60)
        yield from numbers()

    pool = pool_of(slow(), wait_s=0.5)
    for _ in range(32 * MOST_USES // 4):
        pool.next()
    with pytest.raises(ThinwireError, match=r"no text came to train on within 0.5 s"):
        pool.next()
    gate.set()
    pool_wait = pool.next  # and goes on as soon as there is something new
    assert pool_wait().shape == (4, 10)
    pool.close()


def test_what_breaks_the_stream_reaches_the_trainer() -> None:
    def broken() -> Generator[Text]:
        raise ConfigError("no such dataset")
        yield

    pool = pool_of(broken())
    with pytest.raises(ConfigError, match="no such dataset"):
        pool.next()
    pool.close()
    ended = pool_of(numbers(stop=20))
    with pytest.raises(ThinwireError, match="the stream has ended"):
        ended.next()
    ended.close()


def test_a_batch_has_no_window_twice_and_the_order_is_the_owner_s() -> None:
    batches = []
    for owner in ("a", "a", "b"):
        pool = WindowPool(
            numbers((640,), stop=640), batch_sequences=8, context=9, owner=owner, capacity=64
        )
        batches.append(pool.next()[:, 0].tolist())
        pool.close()
    assert all(len(set(batch)) == 8 for batch in batches)
