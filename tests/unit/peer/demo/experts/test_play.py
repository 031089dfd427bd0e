from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from peer.demo.experts.play import Play
from peer.demo.experts.watch import MemberView
from protocol.manifest import Manifest

Write = Callable[[str, list[dict[str, Any]]], MemberView]


def young(manifest: Manifest, write_peer: Write, *, step: int, copy_step: int) -> Play:
    """A play before the death: peer-2 alone in manual, of which peer-1 keeps a copy."""
    play = Play(1000.0, manifest)
    at = {"t_unix_s": 1001.0}
    for name, domain in (("peer-1", "python"), ("peer-2", "manual"), ("peer-3", "cpp")):
        here = at | {"domain": domain}
        events = [here | {"event": "domain_chosen"}, here | {"event": "joined", "step": 0}]
        if name == "peer-2":
            events.append(here | {"event": "progress", "step": step})
        if name == "peer-1" and copy_step:
            copied = {"event": "domain_copied", "of": "manual", "is_final": False, "round": 1}
            events.append(here | copied | {"step": copy_step})
        play.peers[name] = write_peer(name, events)
    return play


@pytest.mark.parametrize(
    ("step", "copy_step", "is_due"),
    [(80, 60, True), (79, 60, False), (80, 0, False), (200, 60, False)],
    ids=["far enough", "too early", "without a copy", "after the last step"],
)
def test_who_can_be_killed(
    manifest: Manifest, write_peer: Write, step: int, copy_step: int, is_due: bool
) -> None:
    victim = young(manifest, write_peer, step=step, copy_step=copy_step).victim()
    assert (victim is not None) == is_due
    if victim:
        assert (victim.domain, victim.peers, victim.copy_step) == ("manual", ("peer-2",), copy_step)


def test_a_domain_with_two_peers_loses_none(manifest: Manifest, write_peer: Write) -> None:
    play = young(manifest, write_peer, step=80, copy_step=60)
    at = {"t_unix_s": 1001.0, "domain": "manual"}
    events = [at | {"event": "domain_chosen"}, at | {"event": "joined", "step": 0}]
    play.peers["peer-4"] = write_peer("peer-4", events)
    assert play.victim() is None


def test_the_dead_peer_is_nowhere(play: Play) -> None:
    assert play.survivors.keys() == {"peer-1", "peer-3", "peer-4"}
    assert all(standing.is_done and not standing.peers for standing in play.standings)
    assert play.complete() == ["peer-1", "peer-3", "peer-4"]


def test_the_rescue(play: Play) -> None:
    rescue = play.rescue()
    assert rescue is not None
    assert (rescue.peer, rescue.step, rescue.elapsed_s) == ("peer-4", 80, 40.0)
    assert rescue.rounds_landed == 6  # at 100, 120, ..., 200


def test_who_was_there_before_is_no_rescue(play: Play) -> None:
    assert play.kill is not None
    play.kill = replace(play.kill, elapsed_s=41.0)
    assert play.rescue() is None


def test_a_play_that_has_not_begun() -> None:
    play = Play(1000.0)
    assert (play.standings, play.complete(), play.victim(), play.rescue()) == ((), [], None, None)
