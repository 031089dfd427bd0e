"""Real processes on loopback: a peer that dies, sleeps or leaves comes back as the same peer."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from peer.presence import CARD_LIFETIME_S
from tests.net.swarm import Actor, Swarm, descendants, wait_for
from tests.net.unhurried import RESTING_WORKER

pytestmark = [pytest.mark.net, pytest.mark.slow, pytest.mark.timeout(600)]

SLEEP_S = CARD_LIFETIME_S + 5.0
"""Whoever sleeps so long has no card any more."""
LEAVE_S = 45.0
"""What leaving takes at most, on a very busy machine."""
MARKS = {"entering": "identity.key", "loading": "trainer.json", "fetching": "events.jsonl"}
"""What a peer's folder has as soon as it has come so far."""


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Swarm]:
    swarm = Swarm(tmp_path, "diloco", "int8")
    yield swarm
    swarm.end()


def trainer_of(peer: Actor) -> int:
    for pid in descendants(peer.process.pid):
        if RESTING_WORKER.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise AssertionError("no trainer")


def goes_on(*peers: Actor, rounds: int = 2) -> None:
    before = {peer.name: peer.round for peer in peers}
    for peer in peers:
        goal = before[peer.name] + rounds
        wait_for(f"{peer.name} to land", lambda: peer.round >= goal, *peers)  # noqa: B023


def test_a_peer_survives_its_trainer_its_crash_and_its_copy(swarm: Swarm) -> None:
    one, two = swarm.join("one"), swarm.join("two", "--checkpoint-every", "2")
    wait_for("a checkpoint", lambda: two.round >= 1 and two.events("checkpoint"), one, two)

    # Its trainer is killed: it comes back in the same process.
    os.kill(trainer_of(two), signal.SIGKILL)
    wait_for("its second life", lambda: len(two.events("joined")) == 2, one, two)
    (died,) = two.events("trainer_died")
    assert "SIGKILL" in died["reason"]
    assert died["exit_code"] == -signal.SIGKILL
    first, second = two.events("joined")
    assert first["peer_id"] == second["peer_id"]
    assert second["step"] >= died["checkpoint_step"] > 0
    goes_on(one, two)

    # All of it is killed: it comes back with nothing but its folder, without being told to.
    two.signal(signal.SIGKILL)
    two.process.wait()
    two = swarm.come_back(two)
    wait_for("its third life", lambda: len(two.events("joined")) == 3, one, two)
    assert two.events("joined")[2]["peer_id"] == first["peer_id"]
    assert two.events("joined")[2]["step"] >= second["step"]
    goes_on(one, two)

    # Its folder was copied: the copy began later and stays.
    shutil.copytree(two.folder, swarm.folder / "twin", ignore=shutil.ignore_patterns("*.jsonl"))
    twin = swarm.join("twin")
    wait_for("the twin", lambda: twin.events("joined"), one, twin)
    assert two.process.wait(timeout=60) == 2
    assert "another peer runs with this identity since" in two.log
    assert "Traceback" not in two.log
    wait_for("the twin's work to land", lambda: twin.events("landed"), one, twin)
    assert twin.peer_id == first["peer_id"]
    goes_on(one, twin)

    began_s = time.monotonic()
    twin.process.send_signal(signal.SIGTERM)
    assert twin.process.wait(timeout=60) == 0, twin.log
    assert time.monotonic() - began_s < LEAVE_S
    goes_on(one)

    # And once more, anew.
    twin = swarm.come_back(twin, "--fresh")
    wait_for("its fresh life", lambda: len(twin.events("joined")) == 2, one, twin)
    joined = twin.events("joined")[1]
    assert joined["peer_id"] == first["peer_id"]
    assert joined["donor"] == one.peer_id
    goes_on(one, twin)


def test_a_peer_that_slept_is_back_without_a_restart(swarm: Swarm) -> None:
    one, two, three = everybody = tuple(swarm.join(name) for name in ("one", "two", "three"))
    goes_on(*everybody)
    three.signal(signal.SIGSTOP)
    time.sleep(SLEEP_S)
    goes_on(one, two)
    three.signal(signal.SIGCONT)
    asleep_at = three.round
    wait_for("it to be where the others are", lambda: three.round >= one.round - 1, *everybody)
    assert three.round > asleep_at
    landed = len(contributions(three))
    wait_for("its work to land", lambda: len(contributions(three)) > landed, *everybody)
    assert len(three.events("joined")) == 1
    goes_on(*everybody)


def test_leaving_is_possible_at_any_time(swarm: Swarm) -> None:
    one = swarm.join("one")
    goes_on(one)
    for name, mark in MARKS.items():
        late = swarm.join(name)
        wait_for(name, (late.folder / mark).exists, one, late, every_s=0.01)
        began_s = time.monotonic()
        late.process.send_signal(signal.SIGINT)
        assert late.process.wait(timeout=60) == 0, late.log
        assert time.monotonic() - began_s < LEAVE_S
        assert "Traceback" not in late.log
    goes_on(one)


def contributions(peer: Actor) -> list[object]:
    return [event for event in peer.events("landed") if event["contributed"]]
