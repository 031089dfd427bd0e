"""A look at a run through a real directory, with nothing but its ticket."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from bootstrap.node import serve
from peer.cli.status import _look_and_show
from peer.domains.look import look
from peer.net.directory_hivemind import HivemindDirectory
from peer.presence import Presence
from peer.run_folder import Run, write_run
from protocol.card import Card, Kept
from protocol.errors import ConfigError
from protocol.identity import Identity
from protocol.manifest import manifest_from, sign_manifest
from protocol.ticket import Address, Ticket

pytestmark = pytest.mark.net

FOUNDER = Identity(b"f" * 32)
TRAINS, KEEPS = Identity(b"t" * 32), Identity(b"k" * 32)
NAMES = ("law", "math", "wiki")
RUN = manifest_from(
    {
        "founder": FOUNDER.peer_id,
        "name": "experts",
        "domains": [{"name": name, "inner": {"total_steps": 300}} for name in NAMES],
    }
)
CARDS = {
    TRAINS: Card(wire_addresses=(), domain="law", step=120, round=2, tokens=7000),
    KEEPS: Card(wire_addresses=(), kept=(Kept("wiki", 5, 300, is_final=True),)),
}

Publish = Callable[[Ticket], Awaitable[None]]


@pytest.fixture
async def ticket(tmp_path: Path) -> AsyncIterator[Ticket]:
    """A bootstrap node's."""
    write_run(tmp_path, Run(RUN, sign_manifest(RUN, FOUNDER)))
    ready: asyncio.Future[Ticket] = asyncio.get_running_loop().create_future()
    node = asyncio.create_task(
        serve(
            tmp_path,
            listen_host="127.0.0.1",
            listen_port=0,
            announce_host=None,
            on_ready=ready.set_result,
            on_refresh=lambda presence: None,
            on_notice=lambda notice: None,
        )
    )
    yield await ready
    node.cancel()
    await asyncio.gather(node, return_exceptions=True)


@pytest.fixture
async def publish() -> AsyncIterator[Publish]:
    directories: list[HivemindDirectory] = []

    async def publish(ticket: Ticket) -> None:
        for identity, card in CARDS.items():
            directory = await HivemindDirectory.start(
                identity, RUN.run_id, bootstrap=ticket.addresses
            )
            directories.append(directory)
            await Presence(directory, identity.peer_id).announce(card)

    yield publish
    for directory in directories:
        await directory.close()


async def test_a_reader_sees_domains_and_peers_and_is_not_seen(
    ticket: Ticket, publish: Publish, capsys: pytest.CaptureFixture[str]
) -> None:
    await publish(ticket)
    await _look_and_show(ticket, wait_s=20.0, as_json=False)
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert RUN.run_id[:12] in rows["experts,"]
    assert "training" in rows["law"]
    assert "waiting for a peer" in rows["math"]
    assert "done" in rows["wiki"]
    assert " law " in rows[TRAINS.peer_id[-6:]]

    await _look_and_show(ticket, wait_s=20.0, as_json=True)
    output = capsys.readouterr()
    seen = json.loads(output.out)
    assert [each["state"] for each in seen["domains"]] == ["training", "waiting for a peer", "done"]
    others = {peer["peer_id"] for peer in seen["peers"] if peer["role"] != "bootstrap"}
    assert others == {TRAINS.peer_id, KEEPS.peer_id}  # nor was the one who looked before


async def test_who_finds_nobody_is_told_what_to_check() -> None:
    nobody = Ticket(RUN.run_id, FOUNDER.peer_id, (Address("127.0.0.1", 9, TRAINS.peer_id),))
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:9 .* is the bootstrap node .* running"):
        await look(nobody, wait_s=1.0)
