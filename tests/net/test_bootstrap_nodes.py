"""A run has as many bootstrap nodes as anybody wants: each may die, come back, or be replaced."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootstrap.found import SECRET
from protocol.identity import Identity, PeerId
from protocol.ticket import Address, Ticket, parse_ticket
from tests.net.swarm import Actor, wait_for

pytestmark = [pytest.mark.net, pytest.mark.slow, pytest.mark.timeout(300)]

RUN_TOML = """
name = "test"
[model]
dim = 16
layers = 1
heads = 1
ffn_dim = 16
context = 16
[data]
recipe = "text:{folder}/*.txt"
[membership]
policy = "invite"
"""

Start = Callable[..., Actor]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    (tmp_path / "a.txt").write_text("a line of text\n" * 6000)
    (tmp_path / "run.toml").write_text(RUN_TOML.format(folder=tmp_path))
    command = [sys.executable, "-m", "thinwire", "new", str(tmp_path / "run.toml"), "--dir"]
    subprocess.run([*command, str(tmp_path / "one")], check=True, capture_output=True)
    actors: list[Actor] = []

    def start(name: str, *arguments: str) -> Actor:
        actors.append(Actor(name, tmp_path / name, "bootstrap", *arguments))
        return actors[-1]

    yield start
    for actor in actors:
        actor.end()


def ticket_of(node: Actor) -> Ticket | None:
    path = node.folder / "ticket.txt"
    return parse_ticket(path.read_text()) if path.exists() else None


def id_of(node: Actor) -> PeerId:
    return Identity.from_libp2p((node.folder / "node.key").read_bytes()).peer_id


def address_of(node: Actor) -> Address:
    ticket = ticket_of(node)
    assert ticket is not None
    return next(address for address in ticket.addresses if address.peer_id == id_of(node))


def until_each_lists_all(*nodes: Actor) -> None:
    def each_lists_all() -> bool:
        addresses = {address_of(node) for node in nodes if ticket_of(node)}
        tickets = [ticket_of(node) for node in nodes]
        return len(addresses) == len(nodes) and all(
            ticket is not None and addresses <= set(ticket.addresses[: len(nodes)])
            for ticket in tickets
        )

    wait_for("tickets that list all nodes", each_lists_all, *nodes)


def test_nodes_find_each_other_are_replaced_and_come_back(start: Start, tmp_path: Path) -> None:
    one = start("one", str(tmp_path / "one"))
    wait_for("the ticket", lambda: "Ctrl+C" in one.log, one)
    two = start("two", str(ticket_of(one)), "--dir", str(tmp_path / "two"))
    until_each_lists_all(one, two)
    assert not (two.folder / "founder.key").exists()
    assert (two.folder / SECRET).read_text() == (one.folder / SECRET).read_text()
    wait_for("it to say so", lambda: "2 bootstrap nodes" in one.log, one, two)
    assert id_of(two) in (one.folder / "peers.json").read_text()

    was_at = address_of(one)
    one.end()
    three = start(
        "three", str(two.folder / "ticket.txt"), "--dir", str(tmp_path / "three"), "--wait", "30"
    )
    until_each_lists_all(two, three)

    again = start("one", str(tmp_path / "one"))
    until_each_lists_all(again, two, three)
    assert address_of(again) == was_at
