"""A torchrun group and a process with the whole model, in one real swarm."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

import thinwire
from examples.fsdp_peer import Reader
from tests.net.swarm import Actor, wait_for

pytestmark = [pytest.mark.net, pytest.mark.slow, pytest.mark.timeout(400)]

EXAMPLE = "examples.fsdp_peer"
METHOD = {"preset": "diloco", "schedule": {"interval_steps": 10}, "codec": {"name": "int8"}}
LOW_LOSS_BITS = 5.0
"""Of 8 at first; what a byte's frequency alone tells is about as much."""
LEAVE_S = 60.0


@pytest.fixture
def actors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Actor]]:
    monkeypatch.setitem(os.environ, "GLOO_SOCKET_IFNAME", "lo")
    with torch.random.fork_rng():
        thinwire.found(Reader(), tmp_path / "run", name="test", method=METHOD)
    ticket = tmp_path / "run" / "ticket.txt"
    started: dict[str, Actor] = {}
    with ExitStack() as stack:

        def start(name: str, *arguments: str, module: str) -> Actor:
            actor = started[name] = Actor(name, tmp_path / name, *arguments, module=module)
            stack.callback(actor.end)
            return actor

        node = start("node", "bootstrap", str(tmp_path / "run"), module="thinwire")
        wait_for("the ticket", ticket.exists, node)
        joining = (str(ticket), "--steps", "1000000", "--dir")
        start("alone", *joining, str(tmp_path / "alone"), module=EXAMPLE)
        torchrun = ("--standalone", "--nproc-per-node", "2", "--module", EXAMPLE)
        group = (*torchrun, *joining, str(tmp_path / "group"))
        start("group", *group, module="torch.distributed.run")
        yield started


def _landed(actor: Actor) -> dict[str, str]:
    """Digests of the anchors that the actor's own contributions are in, by exchange."""
    events = actor.events("landed")
    return {event["exchange_id"]: event["digest"] for event in events if event["contributed"]}


def _loss_bits(actor: Actor) -> float:
    losses = [event["loss_bits_per_byte"] for event in actor.events("progress")]
    return next((loss for loss in reversed(losses) if loss is not None), 8.0)


def test_a_group_trains_with_a_peer_that_has_the_whole_model_until_ctrl_c(
    actors: dict[str, Actor],
) -> None:
    alone, group = actors["alone"], actors["group"]
    wait_for(
        "three rounds together",
        lambda: len(_landed(alone).keys() & _landed(group).keys()) > 2,
        *actors.values(),
    )
    wait_for("the loss falls", lambda: _loss_bits(group) < LOW_LOSS_BITS, *actors.values())

    group.process.send_signal(signal.SIGINT)
    group.process.wait(LEAVE_S)
    assert "[rank" not in group.log  # nothing that torch says of a rank that raised
    (checkpoint,) = group.events("checkpoint")
    (left,) = group.events("left")
    assert checkpoint["step"] == left["step"]
    assert left["contributed_tokens"] > 0

    ours, theirs = _landed(group), _landed(alone)
    assert all(ours[exchange] == theirs[exchange] for exchange in ours.keys() & theirs.keys())
    step = alone.step
    wait_for("the other goes on", lambda: alone.step > step + 10, alone)
