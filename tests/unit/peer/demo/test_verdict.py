from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from peer.demo import script
from peer.demo.play import Play, Played
from peer.demo.report import Scores, report_of
from peer.demo.verdict import problems_of
from peer.demo.watch import PeerView

Write = Callable[[str, list[dict[str, Any]]], PeerView]


def problems(play: Play, scores: Scores) -> str:
    report = report_of(play, scores, method="diloco", seed=0, took_s=99.0)
    return "\n".join(problems_of(report, play))


def test_a_play_that_went_well_has_none(play: Play, scores: Scores) -> None:
    assert problems(play, scores) == ""


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"alone": 2.2}, "is not better than the replica"),
        ({"start": 2.3}, "hardly learned"),
        ({"peers": {"peer-1": float("nan")}}, "left no checkpoint"),
        ({"alone": float("nan")}, "did not get to its last step"),
        ({"parameters": 100_000}, "only 27 times fewer bytes"),
    ],
    ids=["no better than alone", "hardly better than start", "no checkpoint", "alone", "bytes"],
)
def test_figures(play: Play, scores: Scores, changes: dict[str, Any], sentence: str) -> None:
    assert sentence in problems(play, replace(scores, **changes))


def test_a_cue_that_was_not_played(play: Play, scores: Scores) -> None:
    play.played = play.played[:2]
    told = problems(play, scores)
    assert told == "it did not happen that the bootstrap node was killed with SIGKILL"


def test_a_cue_that_came_too_late(play: Play, scores: Scores) -> None:
    play.played[0] = Played(script.KILL_PEER.name, 600, 1060.0, 80.0)
    assert "only after the last step" in problems(play, scores)


def test_a_newcomer_that_gives_nothing(play: Play, scores: Scores, write_peer: Write) -> None:
    play.peers["peer-4"] = write_peer(
        "late", [{"event": "progress", "step": 600, "is_done": True, "t_unix_s": 1060.0}]
    )
    assert "nothing landed that contains its work" in problems(play, scores)


@pytest.mark.parametrize(
    ("t_unix_s", "partners", "is_blamed"),
    [(1037.0, ["id-peer-3"], True), (1037.0, ["id-peer-2"], False), (1036.0, [], False)],
    ids=["among the living", "with the killed peer", "before the death"],
)
def test_failures_after_the_bootstrap_nodes_death(
    play: Play,
    scores: Scores,
    write_peer: Write,
    t_unix_s: float,
    partners: list[str],
    is_blamed: bool,
) -> None:
    failure = {"event": "exchange_failed", "exchange_id": "y", "reason": "silence"}
    event = failure | {"t_unix_s": t_unix_s, "partners": partners}
    play.peers["peer-1"] = write_peer("peer-1", [event])
    told = problems(play, scores)
    assert ("an exchange failed (peer-1: silence)" in told) == is_blamed
    assert bool(told) == is_blamed


def test_a_survivor_must_land_after_the_death(play: Play, scores: Scores) -> None:
    play.played[2] = replace(play.played[2], t_unix_s=1065.0)
    assert problems(play, scores).count("landed no round that began after") == 3


def test_exit_codes(play: Play, scores: Scores) -> None:
    play.exit_codes = {"peer-1": 1, "peer-3": None, "peer-4": 0}
    told = problems(play, scores)
    assert told == "peer-1 left with exit code 1\npeer-3 did not leave within 15 s of Ctrl+C"
