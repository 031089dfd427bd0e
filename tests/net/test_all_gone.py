"""Real processes on loopback: all of a run dies at once, and any checkpoint brings it back."""

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peer.train.checkpoint import OUTER, committed
from tests.net.swarm import Actor, Swarm, descendants, wait_for

pytestmark = [pytest.mark.net, pytest.mark.slow, pytest.mark.timeout(600)]

OFTEN = ("--checkpoint-every", "1")
MOVES = ("landed", "caught_up", "merged")
"""What gives a peer another anchor."""


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Swarm]:
    swarm = Swarm(tmp_path, "diloco", "int8")
    yield swarm
    swarm.end()


def newest(peer: Actor) -> dict[str, Any]:
    """Returns what the newest checkpoint says of itself."""
    return info_of(checkpoints(peer)[-1])


def info_of(checkpoint: Path) -> dict[str, Any]:
    info: dict[str, Any] = json.loads((checkpoint / "checkpoint.json").read_text())["info"]
    return info


def checkpoints(peer: Actor) -> list[Path]:
    return committed(peer.folder / "checkpoints")


def has_saved(peer: Actor, round: int) -> bool:
    with contextlib.suppress(FileNotFoundError, IndexError):  # it was just removed, or none yet
        return bool(newest(peer)["rounds"][0] >= round)
    return False


def kill(*actors: Actor) -> None:
    """Ends all their processes at once, and sees that none is left."""
    pids = [pid for actor in actors for pid in (actor.process.pid, *descendants(actor.process.pid))]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it died with its parent
            os.kill(pid, signal.SIGKILL)
    for actor in actors:
        assert actor.process.wait() == -signal.SIGKILL, actor.log
    wait_for("all to be gone", lambda: not any(map(is_alive, pids)))


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def life(peer: Actor) -> list[dict[str, Any]]:
    """Returns the events of its last life, from when it joined."""
    events = peer.events()
    last = max(place for place, event in enumerate(events) if event["event"] == "joined")
    return events[last:]


def moves(peer: Actor) -> list[dict[str, Any]]:
    return [event for event in life(peer) if event["event"] in MOVES]


def has_joined(peer: Actor, times: int) -> bool:
    return len(peer.events("joined")) == times


def together(*peers: Actor) -> list[tuple[int, str]]:
    """Returns round and digest of each landing of this life that all of them brought work to."""
    landings = [
        {
            event["exchange_id"]: (event["round"], event["digest"])
            for event in life(peer)
            if event["event"] == "landed" and event["contributed"]
        }
        for peer in peers
    ]
    common = landings[0].keys() & set.intersection(*(set(landing) for landing in landings))
    for landing in landings[1:]:
        assert all(landing[id] == landings[0][id] for id in common), landings
    return sorted(landings[0][id] for id in common)


def assert_take_part(*peers: Actor, landings: int = 2) -> int:
    """All land exchanges in which all are, each with one result; returns the first one's round."""
    wait_for("landings of all", lambda: len(together(*peers)) >= landings, *peers)
    for peer in peers:
        assert "Traceback" not in peer.log
        print(
            peer.name, [(move["event"], move["round"], move.get("weights")) for move in moves(peer)]
        )
    return together(*peers)[0][0]


def test_any_checkpoint_holder_restarts_a_run_of_which_nothing_is_left(swarm: Swarm) -> None:
    one, two, old = everybody = tuple(swarm.join(n, *OFTEN) for n in ("one", "two", "old"))
    wait_for("a checkpoint", lambda: has_saved(old, 1), *everybody)
    kill(old)
    saved = newest(old)
    beyond = saved["rounds"][0] + 3
    wait_for("newer ones", lambda: all(has_saved(p, beyond) for p in (one, two)), one, two)
    kill(swarm.bootstrap, one, two)
    names = [peer.peer_id for peer in everybody]
    farthest = max(newest(peer)["rounds"][0] for peer in (one, two))

    # The one whose checkpoint is the oldest comes back alone, and finds nobody.
    old = swarm.resume(old)
    wait_for("its return", lambda: has_joined(old, 2), old)
    joined = life(old)[0]
    assert joined["peer_id"] == names[2]
    assert (joined["donor"], joined["members"]) == (None, [])
    assert joined["round"] == saved["rounds"][0]
    assert joined["step"] >= saved["step"]
    wait_for("a step", lambda: old.step > joined["step"], old)

    # So do the others: they find it, and each other, though nobody has told them where.
    one, two = swarm.resume(one), swarm.resume(two)
    everybody = (one, two, old)
    first = assert_take_part(*everybody)
    assert first > farthest
    assert [life(peer)[0]["peer_id"] for peer in everybody] == names
    # What was landed after its checkpoint is in the old one's anchor, taken over or averaged in.
    assert max(move["weights"][1] for move in moves(old) if move["event"] != "landed") > 0


def test_a_damaged_newest_checkpoint_is_passed_over_and_the_others_make_it_good(
    swarm: Swarm,
) -> None:
    good, hurt = swarm.join("good", *OFTEN), swarm.join("hurt", "--checkpoint-every", "4")

    def rounds() -> list[int]:
        return [info_of(path)["rounds"][0] for path in checkpoints(hurt)[-2:]]

    def has_two() -> bool:
        with contextlib.suppress(FileNotFoundError, ValueError):  # an old one was just removed
            before, newest = rounds()
            return before < newest and has_saved(good, newest)
        return False

    wait_for("two checkpoints of two rounds", has_two, good, hurt)
    kill(swarm.bootstrap, good, hurt)
    before, damaged = checkpoints(hurt)[-2:]
    _, beyond = rounds()
    flip_a_byte(damaged / OUTER)

    good = swarm.resume(good)
    wait_for("its return", lambda: has_joined(good, 2), good)
    hurt = swarm.resume(hurt)
    wait_for("the other's anchor", lambda: has_joined(hurt, 2) and moves(hurt), good, hurt)
    assert f"{damaged / OUTER} is damaged" in hurt.log.replace("\n", "")
    assert f"going on from the checkpoint before it, {before.name}" in hurt.log
    joined, taken = life(hurt)[0], moves(hurt)[0]
    assert joined["round"] == info_of(before)["rounds"][0]
    assert info_of(before)["step"] <= joined["step"] < info_of(damaged)["step"]
    assert taken["event"] == "caught_up"
    assert taken["src"] == good.peer_id
    assert taken["weights"] == [0.0, 1.0]
    assert taken["round"] >= beyond
    assert_take_part(good, hurt)
    assert damaged.exists()  # somebody may want to look at it

    # A newcomer's ticket is that of one who came back.
    late = swarm.join("late", ticket=(hurt.folder / "ticket.txt").read_text().strip())
    wait_for("it to join", lambda: late.events("joined"), good, hurt, late)
    joined = late.events("joined")[0]
    assert joined["donor"] in (good.peer_id, hurt.peer_id)
    assert joined["round"] >= taken["round"]
    assert_take_part(good, hurt, late, landings=1)


def flip_a_byte(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
