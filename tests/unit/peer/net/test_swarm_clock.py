from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.net.swarm_clock import LONGEST_TRIP_S, MAX_VOTES, STEP_S, VOTE_LIFE_S, SwarmClock
from protocol.identity import PeerId

TRUE_UNIX_S = 1_800_000_000.0


@dataclass
class Machine:
    """A machine whose wall clock may be wrong, and may be set at any time."""

    wrong_s: float = 0.0
    passed_s: float = 50.0

    def clock(self) -> SwarmClock:
        return SwarmClock(
            wall=lambda: TRUE_UNIX_S + self.passed_s + self.wrong_s, steady=lambda: self.passed_s
        )


def hear(clock: SwarmClock, *wrongs_s: float, trip_s: float = 0.0) -> None:
    """Lets others vote, each with a clock that is wrong by so much."""
    for number, wrong_s in enumerate(wrongs_s):
        asked_s = clock.steady_s()
        theirs = TRUE_UNIX_S + asked_s + wrong_s
        clock.learn(PeerId(str(number)), theirs, asked_s=asked_s - trip_s)


@pytest.mark.parametrize("jump_s", [300.0, -300.0, 1e9])
def test_setting_the_wall_clock_changes_nothing(jump_s: float) -> None:
    machine = Machine()
    clock = machine.clock()
    machine.wrong_s, machine.passed_s = jump_s, machine.passed_s + 7
    assert clock.now_unix_s() == clock.own_unix_s() == TRUE_UNIX_S + 57
    assert clock.error_s == 0


@given(
    st.lists(st.floats(-0.4, 0.4), min_size=3, max_size=8),
    st.lists(st.floats(-1e12, 1e12) | st.sampled_from([float("nan"), float("inf")]), max_size=3),
    st.sampled_from([-300.0, 0.0, 300.0]),
)
def test_a_majority_sets_the_time_whatever_a_minority_says(
    honest_s: list[float], liars_s: list[float], wrong_s: float
) -> None:
    liars_s = liars_s[: len(honest_s) - 2]
    clock = Machine(wrong_s).clock()
    hear(clock, *liars_s, *honest_s)
    assert abs(clock.now_unix_s() - TRUE_UNIX_S - 50) <= STEP_S + 0.4
    assert clock.own_unix_s() == TRUE_UNIX_S + 50 + wrong_s  # our vote is not what others say


def test_one_liar_does_not_move_two_who_agree() -> None:
    clock = Machine().clock()
    hear(clock, 0.1, 1e6)
    assert clock.now_unix_s() == TRUE_UNIX_S + 50


@pytest.mark.parametrize("ours_s", [0.0, 300.0])
def test_two_alone_take_the_later_time(ours_s: float) -> None:
    clock = Machine(ours_s).clock()
    hear(clock, 300.0 - ours_s)
    assert clock.now_unix_s() == TRUE_UNIX_S + 50 + 300.0
    assert clock.error_s == ours_s - 300.0


def test_one_voter_has_one_vote() -> None:
    clock = Machine().clock()
    for _ in range(5):
        hear(clock, 0.0, 0.0)
        for wrong_s in (300.0, 301.0, 302.0):
            now_s = clock.steady_s()
            clock.learn(PeerId("2"), TRUE_UNIX_S + now_s + wrong_s, asked_s=now_s)
    assert clock.error_s == 0


def test_the_way_of_an_answer_is_taken_into_account_and_a_slow_one_left_out() -> None:
    machine = Machine()
    clock = machine.clock()
    asked_s, machine.passed_s = machine.passed_s, machine.passed_s + LONGEST_TRIP_S
    assert clock.learn(PeerId("a"), TRUE_UNIX_S + asked_s + 100 + LONGEST_TRIP_S / 2, asked_s=50.0)
    assert clock.error_s == pytest.approx(-100)
    asked_s, machine.passed_s = machine.passed_s, machine.passed_s + LONGEST_TRIP_S + 0.1
    assert not clock.learn(PeerId("a"), TRUE_UNIX_S + machine.passed_s, asked_s=asked_s)
    assert clock.error_s == pytest.approx(-100)


def test_old_votes_and_too_many_are_forgotten() -> None:
    machine = Machine()
    clock = machine.clock()
    hear(clock, 300.0, 300.0, 300.0)
    assert clock.error_s == -300
    machine.passed_s += VOTE_LIFE_S + 1
    hear(clock, 0.0)
    assert clock.error_s == 0
    hear(clock, *[300.0] * MAX_VOTES, *[0.0] * MAX_VOTES)
    assert clock.error_s == 0
