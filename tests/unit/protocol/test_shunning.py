import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.identity import PeerId
from protocol.shunning import SHUN_S, Shunning

A, B = PeerId("a"), PeerId("b")
FIRST_S, LONGEST_S = SHUN_S


def pause_s(shunning: Shunning, now_s: float) -> float:
    """Returns for how long from now we do without `A`, to a tenth of a second."""
    return next(
        (tenths / 10 for tenths in range(2000) if not shunning.holds(A, now_s=now_s + tenths / 10)),
        float("inf"),
    )


@pytest.mark.parametrize("is_silent", [False, True])
def test_the_pause_doubles_up_to_the_longest_and_starts_anew_when_forgiven(is_silent: bool) -> None:
    shunning, now_s, seen = Shunning(), 0.0, []
    for _ in range(7):
        shunning.add(A, now_s=now_s, is_silent=is_silent)
        seen.append(pause_s(shunning, now_s))
        now_s += seen[-1]
    assert seen == [min(FIRST_S * 2**i, LONGEST_S) for i in range(7)]
    shunning.forgive(A)
    assert pause_s(shunning, now_s) == 0.0
    shunning.add(A, now_s=now_s)
    assert pause_s(shunning, now_s) == FIRST_S


def test_who_was_silent_is_welcome_as_soon_as_it_speaks() -> None:
    shunning = Shunning()
    shunning.add(A, now_s=0.0, is_silent=True)
    shunning.hear(B)
    assert shunning.holds(A, now_s=0.1)
    shunning.hear(A)
    assert not shunning.holds(A, now_s=0.1)


def test_who_was_more_than_silent_is_not() -> None:
    shunning = Shunning()
    shunning.add(A, now_s=0.0)
    shunning.hear(A)
    assert pause_s(shunning, 0.0) == FIRST_S


def test_a_second_silence_soon_after_is_not_ended_by_a_word() -> None:
    """One that can dial and not be dialled would draw us into one exchange after the other."""
    shunning = Shunning()
    shunning.add(A, now_s=0.0, is_silent=True)
    shunning.hear(A)
    shunning.add(A, now_s=2.0, is_silent=True)
    shunning.hear(A)
    assert pause_s(shunning, 2.0) == 2 * FIRST_S


def test_a_silence_long_ago_is_forgotten() -> None:
    shunning = Shunning()
    for now_s in (0.0, 2 * FIRST_S + 0.1):
        shunning.add(A, now_s=now_s, is_silent=True)
        shunning.hear(A)
        assert not shunning.holds(A, now_s=now_s)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 100), st.booleans()), max_size=30))
def test_only_who_let_us_down_lately_is_remembered(events: list[tuple[str, float, bool]]) -> None:
    shunning, now_s = Shunning(), 0.0
    for name, later_s, is_silent in events:
        now_s += later_s
        shunning.add(PeerId(name), now_s=now_s, is_silent=is_silent)
        assert shunning.holds(PeerId(name), now_s=now_s)
    assert len(shunning) <= 3
    shunning.add(A, now_s=now_s + 1000)
    assert len(shunning) == 1
