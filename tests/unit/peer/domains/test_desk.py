"""Who answers what, in a run with domains."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from peer.blobs import BytesSource
from peer.domains.desk import Desk
from peer.domains.kept import KeptStates
from peer.net.config import WireConfig
from peer.net.wire_memory import MemoryNetwork, MemoryWire
from peer.ports import Source
from protocol.errors import NotAvailable, RemoteError
from protocol.identity import PeerId
from protocol.machine import BlobRef
from protocol.manifest import RunId
from protocol.messages import Note, Ready
from protocol.state_index import parse_index
from tests.unit.peer.domains.small_run import RUN, data_of, state_at

SRC = PeerId("src")
READY = Ready(fragment=0, round=3, tokens=100, anchor_digest=b"d" * 32)


@dataclass
class Trained:
    """Stands for a driver: what it is asked, and what it has."""

    has: dict[BlobRef, bytes] = field(default_factory=dict)
    asked: list[BlobRef] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def on_note(self, src: PeerId, note: Note) -> None:
        self.notes.append(note)

    async def blob(self, src: PeerId, ref: BlobRef) -> Source:
        self.asked.append(ref)
        if ref not in self.has:
            raise NotAvailable("that state is not here any more")
        return BytesSource(self.has[ref], round=9)


async def index_of(states: KeptStates, domain: str) -> bytes:
    return await data_of(await states.blob(BlobRef("index", domain=domain)))


async def test_our_domain_is_answered_by_who_trains_it_and_all_others_from_the_disk(
    tmp_path: Path,
) -> None:
    states = KeptStates(tmp_path, RUN)
    await states.keep("law", state_at("law", 20))
    await states.keep("wiki", state_at("wiki", 40))
    trained = Trained({BlobRef("index"): b"of the anchor of now", BlobRef("part"): b"part"})
    desk = Desk("law", trained, states)
    ours = await desk.blob(SRC, BlobRef("index", domain="law"))
    assert await data_of(ours) == b"of the anchor of now"
    assert await data_of(await desk.blob(SRC, BlobRef("part", domain="law"))) == b"part"
    theirs = await desk.blob(SRC, BlobRef("index", domain="wiki"))
    assert await data_of(theirs) == await index_of(states, "wiki")
    assert trained.asked == [BlobRef("index"), BlobRef("part")]
    for ref in (BlobRef("part", domain="wiki"), BlobRef("index"), BlobRef("index", domain="math")):
        with pytest.raises(NotAvailable):
            await desk.blob(SRC, ref)
    assert len(trained.asked) == 2


async def test_who_began_to_fetch_our_copy_goes_on_when_we_train_from_it(tmp_path: Path) -> None:
    states, state = KeptStates(tmp_path, RUN), state_at("law", 20)
    await states.keep("law", state)
    index = parse_index(await index_of(states, "law"))
    desk = Desk("law", Trained(), states)
    rest = await desk.blob(SRC, BlobRef("state", 0, index.name, domain="law"))
    (fragment,) = state.fragments
    assert await data_of(rest) == b"".join(v.numpy().tobytes() for v in fragment.vectors)
    for ref in (BlobRef("index", domain="law"), BlobRef("state", 0, b"n" * 16, domain="law")):
        with pytest.raises(NotAvailable):
            await desk.blob(SRC, ref)


async def test_who_trains_nowhere_gives_what_it_keeps_and_hears_nothing(tmp_path: Path) -> None:
    states = KeptStates(tmp_path, RUN)
    await states.keep("law", state_at("law", 20))
    desk = Desk("", None, states)
    desk.on_note(SRC, READY)
    source = await desk.blob(SRC, BlobRef("index", domain="law"))
    assert await data_of(source) == await index_of(states, "law")
    for ref in (BlobRef("index"), BlobRef("part"), BlobRef("index", domain="math")):
        with pytest.raises(NotAvailable):
            await desk.blob(SRC, ref)


@pytest.mark.parametrize(
    ("theirs", "ours", "is_taken"),
    [
        ("law", "law", True),
        ("", "", True),  # a run without domains
        ("law", "math", False),
        ("law", "", False),
        ("", "law", False),
    ],
)
async def test_notes_reach_only_who_trains_in_that_domain(
    theirs: str, ours: str, is_taken: bool, tmp_path: Path
) -> None:
    network, trained, run_id = MemoryNetwork(), Trained(), RunId("ab" * 32)
    desk = Desk(ours, trained, KeptStates(tmp_path, RUN))
    MemoryWire(network, PeerId("we"), WireConfig(run_id=run_id, domain=ours), inbox=desk)
    wire = MemoryWire(network, SRC, WireConfig(run_id=run_id, domain=theirs), inbox=Trained())
    if is_taken:
        await wire.send(PeerId("we"), READY)
    else:
        with pytest.raises(RemoteError, match="does not train in that domain"):
            await wire.send(PeerId("we"), READY)
    assert trained.notes == [READY] * is_taken
