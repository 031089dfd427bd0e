import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ladder import choose_codec

FRAMES = (1000, 250, 125)  # 8, 2 and 1 kbit


@pytest.mark.parametrize(
    ("rate_bps", "budget_s", "codec"),
    [
        (8000, 1.0, 0),
        (7999, 1.0, 1),
        (800, 10.0, 0),
        (2000, 1.0, 1),
        (1999, 1.0, 2),
        (1000, 1.0, 2),
        (999, 1.0, 2),
        (1, 1.0, 2),
        (0, 1.0, 0),
        (0, 0.0, 0),
        (8000, 0.0, 2),
    ],
)
def test_the_first_that_fits(rate_bps: float, budget_s: float, codec: int) -> None:
    assert choose_codec(FRAMES, rate_bps=rate_bps, budget_s=budget_s) == codec


def test_with_one_codec_there_is_no_choice() -> None:
    assert choose_codec([1 << 30], rate_bps=1.0, budget_s=1.0) == 0


@given(
    frames=st.lists(st.integers(1, 1 << 40), min_size=1, max_size=5),
    slow=st.floats(1, 1e12),
    fast=st.floats(1, 1e12),
    budget_s=st.floats(0, 1e6),
)
def test_a_faster_link_never_takes_a_cheaper_codec(
    frames: list[int], slow: float, fast: float, budget_s: float
) -> None:
    slow, fast = sorted((slow, fast))
    chosen = [choose_codec(frames, rate_bps=rate, budget_s=budget_s) for rate in (slow, fast)]
    assert chosen[1] <= chosen[0] < len(frames)
