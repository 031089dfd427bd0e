"""A look at a run through a real directory and a real wire, with nothing but its ticket."""

import asyncio
import io
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from bootstrap.node import serve
from peer.cli.contribution import _ask
from peer.cli.status import _look_and_show, looking
from peer.evidence import read_evidence
from peer.net.config import WireConfig
from peer.net.directory_hivemind import HivemindDirectory
from peer.net.wire import GrpcWire
from peer.ports import Source
from peer.presence import Presence
from peer.run_folder import Run, write_run
from protocol.card import Card, Kept
from protocol.errors import ConfigError, NotAvailable
from protocol.identity import Identity, PeerId
from protocol.machine import BlobRef
from protocol.manifest import manifest_from, sign_manifest
from protocol.messages import Note
from protocol.report import Contribution, Report, Waiting, Witness
from protocol.report_codec import sign_report
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
SIGNATURE = sign_manifest(RUN, FOUNDER)
CARDS = {
    TRAINS: Card(wire_addresses=(), domain="law", step=120, round=2, tokens=7000),
    KEEPS: Card(wire_addresses=(), kept=(Kept("wiki", 5, 300, is_final=True),)),
}
REPORTS = {
    TRAINS: Report(
        peer_id=TRAINS.peer_id,
        at_unix_s=1e9,
        domain="law",
        step=123,
        round=3,
        tokens=7100,
        tokens_per_s=50.0,
        loss_bits_per_byte=2.5,
        contribution=Contribution(trained_tokens=7100, used_tokens=6000, used_rounds=2),
        waits=(Waiting(name="an average", whom=KEEPS.peer_id[-6:], for_s=12.0),),
    ),
    KEEPS: Report(
        peer_id=KEEPS.peer_id,
        at_unix_s=1e9,
        witnesses=(Witness(peer_id=TRAINS.peer_id, rounds=2, tokens=5000),),
    ),
}
SHORT = TRAINS.peer_id[-6:]


class NothingToGive:
    def on_note(self, src: PeerId, note: Note) -> None:
        raise AssertionError("nobody is to send notes here")

    async def blob(self, src: PeerId, ref: BlobRef) -> Source:
        raise NotAvailable("not here")


Publish = Callable[[Ticket], Awaitable[None]]


@pytest.fixture
async def ticket(tmp_path: Path) -> AsyncIterator[Ticket]:
    """A bootstrap node's."""
    write_run(tmp_path, Run(RUN, SIGNATURE))
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
    """Lets two peers appear that answer who asks how they are, and do nothing else."""
    open_parts: list[GrpcWire | HivemindDirectory] = []

    async def publish(ticket: Ticket) -> None:
        for identity, card in CARDS.items():
            directory = await HivemindDirectory.start(
                identity, RUN.run_id, bootstrap=ticket.addresses
            )
            open_parts.insert(0, directory)
            config = WireConfig(
                run_id=RUN.run_id,
                manifest_bytes=RUN.to_bytes(),
                manifest_signature=SIGNATURE,
                num_fragments=1,
            )
            presence = Presence(directory, identity.peer_id)
            wire = await GrpcWire.start(
                identity, config, inbox=NothingToGive(), addresses=presence.addresses
            )
            open_parts.insert(0, wire)
            signed = sign_report(REPORTS[identity], RUN.run_id, identity)
            wire.answer_reports(partial(bytes, signed))
            address = f"127.0.0.1:{wire.listen_port}"
            await presence.announce(replace(card, wire_addresses=(address,)))

    yield publish
    for part in open_parts:
        await part.close()


async def test_a_reader_sees_domains_and_peers_and_is_not_seen(
    ticket: Ticket, publish: Publish, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await publish(ticket)
    screen = io.StringIO()
    console = Console(file=screen, width=120)
    await _look_and_show(ticket, console, wait_s=20.0, as_json=False, is_live=False)
    rows = {line.split()[0]: line for line in screen.getvalue().splitlines() if line.strip()}
    assert RUN.run_id[:12] in rows["experts,"]
    assert "training" in rows["law"]
    assert "waiting for a peer" in rows["math"]
    assert "done" in rows["wiki"]
    assert f"{SHORT} waits for an average from {KEEPS.peer_id[-6:]}, 12 s" in screen.getvalue()
    assert " 123 " in screen.getvalue()  # what it reports is newer than its card

    await _look_and_show(ticket, console, wait_s=20.0, as_json=True, is_live=False)
    seen = json.loads(capsys.readouterr().out)
    assert [each["state"] for each in seen["domains"]] == ["training", "waiting for a peer", "done"]
    others = {peer["peer_id"]: peer for peer in seen["peers"] if peer["role"] != "bootstrap"}
    assert others.keys() == {TRAINS.peer_id, KEEPS.peer_id}  # nor was the one who looked before
    facts = others[TRAINS.peer_id]
    assert (facts["step"], facts["tokens_per_s"], facts["attested_tokens"]) == (123, 50.0, 5000)

    told = io.StringIO()
    out = tmp_path / "evidence.json"
    console = Console(file=told, width=100)
    await _ask(TRAINS.peer_id, ticket, Contribution(), console, out=out, wait_s=20.0)
    assert "6,000 tokens (85 %), in 2 averages" in told.getvalue()  # newer than what is kept
    assert "attested: 5,000 of 6,000 used tokens, by 1 peer" in told.getvalue()
    assert read_evidence(out).reports.keys() == {each.peer_id for each in REPORTS}

    # In a terminal it goes on until Ctrl+C.
    live = io.StringIO()
    terminal = Console(file=live, width=100, height=40, force_terminal=True)
    watching = asyncio.create_task(
        _look_and_show(ticket, terminal, wait_s=20.0, as_json=False, is_live=True)
    )
    while SHORT not in live.getvalue():
        assert not watching.done()
        await asyncio.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)
    await watching


async def test_who_finds_nobody_is_told_what_to_check() -> None:
    nobody = Ticket(RUN.run_id, FOUNDER.peer_id, (Address("127.0.0.1", 9, TRAINS.peer_id),))
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:9 .* is the bootstrap node.* running"):
        async with looking(nobody, wait_s=1.0):
            pass
