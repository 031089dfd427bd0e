from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from peer.demo.experts.play import Play
from peer.demo.experts.report import Judged, Report, report_of
from peer.demo.experts.verdict import problems_of
from peer.demo.experts.watch import MemberView

Write = Callable[[str, list[dict[str, Any]]], MemberView]


def make(play: Play, judged: list[Judged]) -> Report:
    return report_of(
        play, judged, {}, method="diloco", seed=0, evaluation_bytes=1024, took_s=60.0, cpu_s=90.0
    )


def problems(play: Play, judged: list[Judged]) -> str:
    return "\n".join(problems_of(make(play, judged), play))


def test_a_play_that_went_well_has_none(play: Play, judged: list[Judged]) -> None:
    assert problems(play, judged) == ""


def test_nobody_was_killed(play: Play, judged: list[Judged]) -> None:
    play.kill = None
    del play.peers["peer-2"]
    assert problems(play, judged).startswith("nobody was killed")


def test_nobody_came(play: Play, judged: list[Judged]) -> None:
    assert play.kill is not None
    play.kill = replace(play.kill, elapsed_s=41.0)
    assert problems(play, judged) == "nobody took manual over after peer-2 was killed"


@pytest.mark.parametrize(
    ("step", "contributed", "sentence"),
    [
        (0, True, "peer-4 began manual anew, instead of from a copy"),
        (80, False, "peer-4 took manual over, but nothing landed there with its work"),
    ],
    ids=["anew", "no work"],
)
def test_a_rescue_that_is_none(
    play: Play,
    judged: list[Judged],
    tmp_path: Path,
    step: int,
    contributed: bool,
    sentence: str,
) -> None:
    for event in play.peers["peer-4"].events:
        if event.get("domain") == "manual":
            if event["event"] == "joined":
                event["step"] = step
            if event["event"] == "landed":
                event["contributed"] = contributed
    assert problems(play, judged) == sentence


def test_a_domain_that_is_not_done(
    play: Play, judged: list[Judged], tmp_path: Path, write_peer: Write
) -> None:
    for name in ("peer-1", "peer-3", "peer-4"):
        del play.peers[name].kept["manual"]
    told = problems(play, judged)
    assert told == "manual did not reach its budget: it was at step 0 of 200 when time was up"


def test_experts_that_are_missing(play: Play, judged: list[Judged]) -> None:
    del play.peers["peer-3"].kept["manual"]
    assert problems(play, judged) == "experts were missing when time was up, at peer-3"


def test_exit_codes(play: Play, judged: list[Judged]) -> None:
    play.exit_codes |= {"peer-1": 1, "peer-3": None}
    told = problems(play, judged)
    assert told == "peer-1 left with exit code 1\npeer-3 did not leave within 15 s of Ctrl+C"


def test_an_ensemble_that_is_no_better(play: Play, judged: list[Judged]) -> None:
    judged[-1] = replace(judged[-1], mean=3.4)
    told = problems(play, judged)
    assert told == (
        "the ensemble with estimated prior (3.400 bits/byte on average) is not better than the "
        "expert of python alone (3.333)"
    )


def test_experts_that_nobody_measured(play: Play) -> None:
    assert problems(play, []) == "not every expert could be measured"
