"""A peer's time is at work or lost to a cause, and all of it together is the time there was."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.sim.ledger import CAUSES, Ledger


def kept(*steps: tuple[float, float, float]) -> Ledger:
    """A ledger from second 10, with steps that begin, take of their own, and take."""
    ledger = Ledger(10.0)
    for step in steps:
        ledger.begin_step(*step)
    return ledger


def account(
    ledger: Ledger,
    now_s: float,
    *,
    ended_at_s: float | None = None,
    is_dead: bool = False,
    frozen_s: float = 0.0,
) -> dict[str, float]:
    busy_s, lost_s = ledger.account(
        now_s, ended_at_s=ended_at_s, is_dead=is_dead, frozen_s=frozen_s
    )
    return {"busy": busy_s} | {cause: s for cause, s in lost_s.items() if s}


def test_a_peer_that_never_began_was_entering() -> None:
    assert account(kept(), 30.0) == {"busy": 0.0, "entering": 20.0}


def test_a_peer_at_work_is_busy_to_this_moment() -> None:
    ledger = kept((12.0, 1.0, 1.0), (13.0, 1.0, 1.0))
    assert account(ledger, 13.25) == {"busy": 1.25, "entering": 2.0}
    assert ledger.num_steps == 1


def test_a_slow_step_is_busy_as_long_as_a_usual_one() -> None:
    ledger = kept((10.0, 1.0, 4.0), (14.0, 1.0, 4.0))
    assert account(ledger, 16.0) == {"busy": 1.5, "slow": 4.5}


def test_what_a_frozen_peer_is_late_is_lost_to_that() -> None:
    ledger = kept((10.0, 1.0, 1.0), (14.0, 1.0, 1.0))
    assert account(ledger, 15.0, frozen_s=5.0) == {"busy": 2.0, "frozen": 3.0}


def test_a_peer_that_is_late_for_no_reason_has_waited() -> None:
    ledger = kept((10.0, 1.0, 1.0), (14.0, 1.0, 1.0))
    assert account(ledger, 15.0, frozen_s=1.0) == {"busy": 2.0, "frozen": 1.0, "waiting": 2.0}


def test_a_crash_costs_all_the_time_that_follows() -> None:
    ledger = kept((10.0, 1.0, 1.0))
    assert account(ledger, 20.0, ended_at_s=10.5, is_dead=True) == {"busy": 0.5, "dead": 9.5}


def test_who_left_has_lost_the_last_step_and_nothing_after_it() -> None:
    ledger = kept((10.0, 1.0, 1.0), (11.0, 1.0, 1.0))
    assert account(ledger, 20.0, ended_at_s=11.5) == {"busy": 1.0, "leaving": 0.5}


@given(
    st.lists(
        st.tuples(st.floats(0.1, 10), st.floats(1, 5), st.floats(0, 10)), min_size=1, max_size=20
    ),
    st.floats(0, 30),
    st.booleans(),
    st.booleans(),
    st.floats(0, 50),
)
def test_all_causes_and_the_work_are_the_time_since_the_start(
    steps: list[tuple[float, float, float]],
    since_s: float,
    has_ended: bool,
    is_dead: bool,
    frozen_s: float,
) -> None:
    ledger, at_s, last_s = Ledger(0.0), 3.0, 0.0
    for own_s, times, late_s in steps:
        ledger.begin_step(at_s, own_s, own_s * times)
        last_s, at_s = at_s, at_s + own_s * times + late_s
    ended_at_s = last_s + since_s / 2 if has_ended else None
    now_s = last_s + since_s
    is_dead = has_ended and is_dead
    busy_s, lost_s = ledger.account(
        now_s, ended_at_s=ended_at_s, is_dead=is_dead, frozen_s=frozen_s
    )
    until_s = ended_at_s if ended_at_s is not None and not is_dead else now_s
    assert set(lost_s) == set(CAUSES)
    assert min(busy_s, *lost_s.values()) >= -1e-9
    assert busy_s + sum(lost_s.values()) == pytest.approx(until_s)
