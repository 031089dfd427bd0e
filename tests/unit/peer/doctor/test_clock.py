"""The clock is judged by what others' clocks say, not by the time that the swarm agreed on."""

import pytest

from peer.doctor.clock import FIXES, WatchedClock, clock
from peer.doctor.finding import Finding
from protocol.identity import PeerId

DAY_S = 86400.0


def judged(*ahead_s: float, system: str = "linux") -> Finding:
    (finding,) = clock(ahead_s, system)
    return finding


@pytest.mark.parametrize(
    ("ahead_s", "verdict"),
    [
        (0.0, "good"),
        (9.0, "good"),
        (-9.0, "good"),
        (11.0, "poor"),
        (-3600.0, "poor"),
        (-1.1 * DAY_S, "fatal"),
        (1.1 * DAY_S, "poor"),
        (7.1 * DAY_S, "fatal"),
    ],
)
def test_a_wrong_clock_is_poor_and_fails_where_certificates_do(
    ahead_s: float, verdict: str
) -> None:
    finding = judged(ahead_s)
    assert finding.verdict == verdict
    assert (finding.fix == "sudo timedatectl set-ntp true") == (verdict != "good")


def test_the_side_is_told() -> None:
    assert "1 min ahead of" in judged(60.0).found
    assert "1 min behind" in judged(-60.0).found


def test_one_node_with_a_wrong_clock_does_not_make_ours_wrong() -> None:
    assert judged(0.1, 3600.0, -0.2).verdict == "good"


@pytest.mark.parametrize("system", FIXES)
def test_each_system_has_its_command(system: str) -> None:
    assert judged(60.0, system=system).fix == FIXES[system]


def test_without_votes_nothing_is_said() -> None:
    assert judged().verdict == "unknown"


def test_the_votes_are_kept_though_the_swarms_time_hides_them() -> None:
    watched = WatchedClock()
    asked_s = watched.steady_s()
    own = watched.own_unix_s()
    watched.learn(PeerId("a"), own - 3600, asked_s=asked_s)
    assert watched.error_s == 0.0  # of two clocks the later one counts
    assert watched.ahead_s == (pytest.approx(3600, abs=1.0),)


def test_an_answer_that_took_too_long_is_no_vote() -> None:
    watched = WatchedClock()
    watched.learn(PeerId("a"), watched.own_unix_s(), asked_s=watched.steady_s() - 60)
    assert watched.ahead_s == ()
