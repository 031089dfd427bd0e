"""The doctor's visit to a run, through a real directory and a real wire."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from bootstrap.node import serve
from peer.doctor import visit
from peer.doctor.finding import Finding
from peer.doctor.machine import Disk, Machine, Torch
from peer.doctor.ports import ports_of
from peer.run_folder import Run, write_run
from protocol.identity import Identity
from protocol.manifest import RunId, manifest_from, sign_manifest
from protocol.ticket import Address, Ticket

pytestmark = pytest.mark.net

FOUNDER = Identity(b"f" * 32)
MODEL = {"dim": 64, "layers": 2, "heads": 2, "ffn_dim": 128, "context": 32}
RUN = manifest_from(
    {"founder": FOUNDER.peer_id, "model": MODEL, "data": {"recipe": "stdlib:json/*.py"}}
)
STAGES = ["knocking", "entering", "looking", "asking", "pinging", "asking", "measuring"]


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


async def visited(ticket: Ticket) -> tuple[dict[str, Finding], list[str]]:
    """Returns what was found by subject, and the first words of what was being done."""
    said: list[str] = []
    machine = Machine(
        torch=Torch(version="2", built_for="CPU"),
        free_memory_bytes=16 << 30,
        disk=Disk(place=Path("/"), free_bytes=16 << 30),
        ports=ports_of("127.0.0.1", 0),
    )
    visit_ = visit.Visit(machine, ticket, step_s=0.1, say=said.append)
    await visit_.make()
    return {each.subject: each for each in visit_.findings}, [words.split()[0] for words in said]


async def test_a_visit_measures_the_way_into_a_run_and_says_where_it_ends(
    ticket: Ticket, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, said = await visited(ticket)
    assert said == STAGES
    assert {each.verdict for each in found.values()} <= {"good", "unknown"}
    measured = {"clock", "run", "manifest", "round trip", "dialling back", "NAT", "utilisation"}
    assert {name for name in measured if found[name].verdict == "good"} == measured
    assert "bit/s" in found["bandwidth up"].found
    assert "bit/s" in found["bandwidth down"].found
    assert "nobody" not in found["utilisation"].found
    assert "no peer trains now" in found["ways to peers"].found

    # A ticket of another run: the door is there, but nobody behind it is of that run.
    monkeypatch.setattr(visit, "LISTED_S", 0.1)
    found, said = await visited(replace(ticket, run_id=RunId("5e" * 32)))
    assert said == STAGES[:3]
    assert found["run"].verdict == "fatal"
    assert "nobody in it is in run 5e5e5e5e5e5e" in found["run"].found


async def test_a_stranger_at_the_tickets_address_is_not_taken_for_the_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    place = Address("127.0.0.1", server.sockets[0].getsockname()[1], FOUNDER.peer_id)
    monkeypatch.setattr(visit, "ENTER_S", 0.1)
    async with server:
        found, said = await visited(Ticket(RUN.run_id, FOUNDER.peer_id, (place,)))
    assert said == STAGES[:2]
    assert found["directory"].verdict == "fatal"
    assert "another program has that port" in found["directory"].why
