"""A living swarm, and people who do not belong in it: refused, said once, and nothing changes."""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from optim.codec.grains import Grains, grain_elements
from peer.method import method_of_run
from peer.net.config import WireConfig
from peer.net.directory_hivemind import HivemindDirectory
from peer.net.wire import GrpcWire
from peer.presence import Presence
from peer.run_folder import Run, read_run
from peer.train.model import layout_of_run
from protocol.card import Card
from protocol.errors import NotAvailable, RunMismatch
from protocol.identity import Identity, PeerId
from protocol.machine import BlobRef
from protocol.manifest import Manifest, sign_manifest
from protocol.messages import Answer, Member, Note, Propose, Roster
from protocol.ticket import parse_ticket
from tests.blobs import BytesSource
from tests.net.swarm import Actor, Swarm, wait_for

pytestmark = [pytest.mark.net, pytest.mark.slow, pytest.mark.timeout(600)]

STRANGER = Identity(b"s" * 32)
NUM_GARBAGE = 100


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Swarm]:
    swarm = Swarm(tmp_path, "noloco", "bf16")
    yield swarm
    swarm.end()


class Poisoner:
    """Accepts every partner, and answers with a contribution that is not finite."""

    def __init__(self, contribution: BytesSource) -> None:
        self.contribution = contribution
        self.wire: GrpcWire | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.num_served = 0

    def on_note(self, src: PeerId, note: Note) -> None:
        if isinstance(note, Propose) and self.wire:
            answer = Answer(note.fragment, note.exchange_id, accepted=True, tokens=1)
            self.tasks.add(asyncio.create_task(self.wire.send(src, answer)))

    async def blob(self, src: PeerId, ref: BlobRef) -> BytesSource:
        if ref.kind != "part":
            raise NotAvailable("poison only")
        self.num_served += 1
        return self.contribution


def poison(manifest: Manifest) -> BytesSource:
    """Returns a contribution in the right grains, of which the last value is infinite."""
    codec, size = method_of_run(manifest).codec, layout_of_run(manifest).num_elements
    grains = Grains(codec, size, grain_elements(codec, manifest.limits.chunk_bytes))
    frames = bytearray(grains.size_bytes)
    frames[-2:] = b"\x80\x7f"
    return BytesSource(bytes(frames), grain_bytes=grains.grain_bytes)


def rss_bytes(actor: Actor) -> int:
    pages = int(Path(f"/proc/{actor.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def config_of(manifest: Manifest, signature: bytes, **changes: Any) -> WireConfig:
    settings = {
        "run_id": manifest.run_id,
        "manifest_bytes": manifest.to_bytes(),
        "manifest_signature": signature,
    }
    return WireConfig(**(settings | changes))


async def throw_garbage(host: str, port: int) -> None:
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection(host, port)
        writer.write(os.urandom(4096))
        await writer.drain()
        writer.close()
        await writer.wait_closed()


async def say_hello_from_another_run(run: Run, presence: Presence, to: PeerId) -> None:
    other = run.manifest.model_copy(update={"seed": 1, "founder": STRANGER.peer_id})
    for _ in range(3):
        wire = await GrpcWire.start(
            STRANGER,
            config_of(other, sign_manifest(other, STRANGER)),
            inbox=Poisoner(BytesSource(b"")),
            addresses=presence.addresses,
        )
        with pytest.raises(RunMismatch, match=r"seed: 1 here, 0 there"):
            await wire.hello(to)
        await wire.close()


async def stay(presence: Presence, wire: GrpcWire) -> None:
    """Announces itself again and again: a card lives for half a minute, and shunning takes time."""
    while True:
        await presence.announce(Card(wire_addresses=(f"127.0.0.1:{wire.listen_port}",)))
        await asyncio.sleep(5.0)


async def test_strangers_change_nothing(swarm: Swarm) -> None:
    one, two = swarm.join("one"), swarm.join("two")
    for peer in (one, two):
        await asyncio.to_thread(
            wait_for, f"{peer.name} to land", lambda p=peer: p.round >= 2, one, two
        )
    ticket = parse_ticket(swarm.ticket)
    run = read_run(one.folder, ticket)
    assert run is not None
    directory = await HivemindDirectory.start(
        STRANGER, run.manifest.run_id, bootstrap=ticket.addresses
    )
    presence = Presence(directory, STRANGER.peer_id)
    await presence.refresh()
    card = presence.cards[PeerId(one.peer_id)]
    rss_before_bytes = rss_bytes(one)

    await say_hello_from_another_run(run, presence, PeerId(one.peer_id))

    # Garbage on both ports, many times.
    places = [card.wire_addresses[0].split(":"), card.multiaddrs[0].split("/")[2:5:2]]
    for host, port in places:
        await asyncio.gather(*(throw_garbage(host, int(port)) for _ in range(NUM_GARBAGE)))

    # A member of the run that breaks its limits, and poisons every exchange.
    inbox = Poisoner(poison(run.manifest))
    wire = await GrpcWire.start(
        STRANGER,
        config_of(run.manifest, run.signature),
        inbox=inbox,
        addresses=presence.addresses,
    )
    inbox.wire = wire
    members = tuple(Member(Identity(os.urandom(32)).peer_id, 1) for _ in range(2000))
    roster = Roster(0, 1, b"e" * 16, members, (1,) * len(members))
    for _ in range(3):
        with pytest.raises(Exception, match=r"at most|refuse"):
            await wire.send(PeerId(one.peer_id), roster)
    staying = asyncio.create_task(stay(presence, wire))

    def refused() -> bool:
        return all(peer.events("transfer_refused") for peer in (one, two))

    await asyncio.to_thread(wait_for, "poison to be refused", refused, one, two)
    staying.cancel()
    assert inbox.num_served >= 2

    # The swarm goes on, has said everything once, and is no larger for it.
    before = one.round, two.round
    await asyncio.to_thread(
        wait_for, "more rounds", lambda: one.round > before[0] + 1 and two.round > before[1] + 1
    )
    log = (one.folder / "peer.log").read_text()
    refusals = [line for line in log.splitlines() if STRANGER.peer_id in line and "refused" in line]
    assert sum("is in run" in line for line in refusals) == 1, log
    assert sum("at most" in line for line in refusals) == 1, log
    assert sum("not finite" in line or "cannot be decoded" in line for line in refusals) == 1, log
    assert rss_bytes(one) - rss_before_bytes < 64e6
    assert all(event["loss_bits_per_byte"] < 20 for event in one.events("progress")[2:])
    await wire.close()
    await directory.close()
    await asyncio.gather(*inbox.tasks, return_exceptions=True)
