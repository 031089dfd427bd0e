"""Real processes on loopback: no process is special, and no fault costs another peer a step."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.ticket import Ticket, parse_ticket
from tests.net.swarm import INTERVAL_STEPS, PROGRESS_S, Actor, Swarm, wait_for

pytestmark = [pytest.mark.net, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(params=[("diloco", "int8"), ("noloco", "bf16")], ids=["diloco", "noloco"])
def swarm(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Swarm]:
    swarm = Swarm(tmp_path, *request.param)
    yield swarm
    swarm.end()


def stop_in_mid_exchange(victim: Actor) -> str:
    """Freezes a peer between the beginning and the end of an exchange; returns the exchange."""
    for _ in range(200):
        wait_for("an exchange", victim.open_exchange, victim, every_s=0.001)
        victim.signal(signal.SIGSTOP)
        if exchange_id := victim.open_exchange():
            return exchange_id
        victim.signal(signal.SIGCONT)  # it was over before the signal came
    raise AssertionError("never hit an exchange")


def assert_goes_on(*peers: Actor, rounds: int = 3) -> None:
    """All land `rounds` more rounds, and their steps go on meanwhile."""
    before = {peer.name: (peer.round, peer.step) for peer in peers}
    for peer in peers:
        goal = before[peer.name][0] + rounds
        wait_for(f"{peer.name} to reach round {goal}", lambda p=peer, g=goal: p.round >= g, *peers)
        wait_for(f"{peer.name} to step on", lambda p=peer: p.step > before[p.name][1], *peers)


def assert_leave_in_order(*peers: Actor) -> None:
    """Ctrl+C: a last checkpoint, exit code 0."""
    began_s = time.monotonic()
    for peer in peers:
        peer.process.send_signal(signal.SIGINT)
    for peer in peers:
        assert peer.process.wait(timeout=60) == 0, peer.log
        assert peer.events("checkpoint"), peer.log
        assert "Traceback" not in peer.log
    print(f"left in {time.monotonic() - began_s:.1f} s")


def join_through(swarm: Swarm, one: Actor, three: Actor) -> Actor:
    """A stranger joins with a ticket that lists nobody but a living peer."""
    ticket = parse_ticket((one.folder / "ticket.txt").read_text())
    only_one = tuple(address for address in ticket.addresses if address.peer_id == one.peer_id)
    assert len(only_one) == 1
    late = swarm.join("late", ticket=str(Ticket(ticket.run_id, ticket.founder, only_one)))
    wait_for("the late peer's work to land", lambda: late.events("landed"), one, three, late)
    joined = late.events("joined")[0]
    assert joined["donor"] in (one.peer_id, three.peer_id)
    assert joined["round"] > 0
    assert joined["step"] >= INTERVAL_STEPS * joined["round"]
    assert_goes_on(one, three, late)
    return late


def come_back(swarm: Swarm, late: Actor, *others: Actor) -> Actor:
    """It leaves and returns as the same peer, though the node that all began with is dead."""
    assert_leave_in_order(late)
    late = swarm.resume(late)
    wait_for("its return", lambda: len(late.events("joined")) == 2, *others, late)
    first, second = late.events("joined")
    assert first["peer_id"] == second["peer_id"]
    assert second["step"] >= first["step"]
    assert_goes_on(*others, late)
    return late


def assert_nobody_waited(*peers: Actor) -> None:
    """No step was lost, and no trainer stood still until somebody gave a transfer up."""
    for peer in peers:
        steps = [event["step"] for event in peer.events("progress")]
        assert steps == sorted(steps)
        last = peer.events("progress")[-1]
        print(f"{peer.name}: waited {last['waited_s']:.3f} s", end=", ")
        print(f"longest time between two steps {last['longest_gap_s']:.3f} s")
        assert last["waited_s"] < PROGRESS_S
    # Three was frozen itself.
    assert peers[0].events("progress")[-1]["longest_gap_s"] < PROGRESS_S


def test_faults_cost_nobody_else_a_step(swarm: Swarm) -> None:
    one, two, three = (swarm.join(name) for name in ("one", "two", "three"))
    everybody = (one, two, three)
    for peer in everybody:
        wait_for(f"{peer.name} to land", lambda p=peer: p.round >= 2, *everybody)

    # A peer that freezes in mid-exchange, and thaws when the others are ahead.
    frozen_exchange = stop_in_mid_exchange(three)
    assert three.open_exchange() == frozen_exchange
    assert_goes_on(one, two)
    assert three.open_exchange() == frozen_exchange  # it really stood still
    three.signal(signal.SIGCONT)
    assert_goes_on(*everybody)

    # A peer that dies in mid-exchange.
    killed_exchange = stop_in_mid_exchange(two)
    two.signal(signal.SIGKILL)
    two.process.wait()
    assert two.open_exchange() == killed_exchange
    assert_goes_on(one, three)

    # The bootstrap node dies: no exchange fails for it.
    failed_before = [len(peer.events("exchange_failed")) for peer in (one, three)]
    swarm.bootstrap.signal(signal.SIGKILL)
    swarm.bootstrap.process.wait()
    assert_goes_on(one, three)
    assert [len(peer.events("exchange_failed")) for peer in (one, three)] == failed_before

    late = join_through(swarm, one, three)
    late = come_back(swarm, late, one, three)
    assert_nobody_waited(one, three)
    assert_leave_in_order(one, three, late)
