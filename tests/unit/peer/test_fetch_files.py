"""Fetching the run's files, over a wire in memory, from peers of all kinds."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from peer.fetch_files import fetch_files
from peer.file_window import FileWindow
from peer.net.config import WireConfig
from peer.net.wire_memory import MemoryNetwork, MemoryWire
from peer.ports import Sink, Source
from peer.run_files import GRAIN_BYTES, FilesInbox, add_files, files_folder
from protocol.card import Card
from protocol.errors import ConfigError, NotAvailable, TransportError
from protocol.identity import PeerId
from protocol.machine import BlobRef
from protocol.manifest import Manifest, RunId, manifest_from
from protocol.messages import Note
from tests.blobs import BytesSource
from tests.unit.peer.small_disk import a_small_disk, fill

RUN_ID = RunId("ab" * 32)
SIZE = 11 * GRAIN_BYTES + 77
OURS = PeerId("we")


class Inbox:
    """Serves what a test says."""

    def __init__(self, source: Callable[[BlobRef], Source]) -> None:
        self._source = source
        self.asked: list[BlobRef] = []

    def on_note(self, src: PeerId, note: Note) -> None:
        raise AssertionError("nobody sends notes for a file")

    async def blob(self, src: PeerId, ref: BlobRef) -> Source:
        self.asked.append(ref)
        return self._source(ref)


class Presence:
    """Whom we know."""

    def __init__(self) -> None:
        self.cards: dict[PeerId, Card] = {}
        self.on_refresh: Callable[[], None] = lambda: None

    async def refresh_quietly(self) -> None:
        self.on_refresh()


class FragileWire:
    """A wire on which what comes from some peers breaks off at a byte, or hardly goes on."""

    def __init__(self, wire: MemoryWire) -> None:
        self._wire = wire
        self.signs = wire.signs
        self.ping = wire.ping
        self.breaks_at: dict[str, int] = {}
        self.trickles_at: dict[str, int] = {}
        self.came: dict[str, list[int]] = {}
        """By peer, the grains that came."""

    async def fetch(self, src: PeerId, ref: BlobRef, sink: Sink) -> None:
        await self._wire.fetch(src, ref, FragileSink(self, src, sink))


class FragileSink:
    def __init__(self, wire: FragileWire, src: PeerId, sink: Sink) -> None:
        self.size_bytes, self.grain_bytes = sink.size_bytes, sink.grain_bytes
        self.is_divisible = True
        self.missing, self.begin = sink.missing, sink.begin
        self._wire, self._src, self._sink = wire, src, sink

    async def put(self, start: int, data: bytes | memoryview) -> None:
        if start >= self._wire.breaks_at.get(self._src, SIZE):
            raise TransportError("broke off")
        if start >= self._wire.trickles_at.get(self._src, SIZE):
            await asyncio.Event().wait()
        self._wire.came.setdefault(self._src, []).append(start // GRAIN_BYTES)
        await self._sink.put(start, data)


class Swarm:
    """A run with one file, and peers who give it in their ways."""

    def __init__(self, folder: Path, size_bytes: int = SIZE) -> None:
        folder.mkdir()
        self.data = os.urandom(size_bytes)
        (folder / "big").write_bytes(self.data)
        specs = add_files([str(folder / "big")], folder / "run")
        self.manifest: Manifest = manifest_from(
            {"founder": "x", "files": [spec.model_dump() for spec in specs]}
        )
        self.folder = folder
        self.presence = Presence()
        self._network = MemoryNetwork()
        self.wire = FragileWire(self.start(OURS, Inbox(self.refuse)))
        self.told: list[int] = []
        self.half = asyncio.Event()

    def refuse(self, ref: BlobRef) -> Source:
        raise NotAvailable("not here")

    def start(self, peer: PeerId, inbox: Inbox | FilesInbox) -> MemoryWire:
        config = WireConfig(run_id=RUN_ID, progress_s=5.0)
        return MemoryWire(self._network, peer, config, inbox=inbox)

    def add(self, name: str, source: Callable[[BlobRef], Source]) -> Inbox:
        inbox = Inbox(source)
        self.start(PeerId(name), inbox)
        self.presence.cards[PeerId(name)] = Card(wire_addresses=("x:1",))
        return inbox

    def honest(self, ref: BlobRef) -> Source:
        return BytesSource(self.data, grain_bytes=GRAIN_BYTES)

    def liar(self, ref: BlobRef) -> Source:
        return BytesSource(bytes(len(self.data)), grain_bytes=GRAIN_BYTES)

    async def fetch(self, folder: Path, *, wait_s: float = 5.0) -> None:
        def on_progress(name: str, here_bytes: int, size_bytes: int) -> None:
            assert (name, size_bytes) == ("big", len(self.data))
            self.told.append(here_bytes)
            if here_bytes >= 5 * GRAIN_BYTES:
                self.half.set()

        await fetch_files(
            self.manifest,
            folder,
            self.wire,  # type: ignore[arg-type]
            self.presence,  # type: ignore[arg-type]
            wait_s=wait_s,
            on_progress=on_progress,
        )

    def has_it(self, folder: Path) -> bool:
        place = files_folder(folder)
        assert [path.name for path in place.iterdir()] == ["big"], "nothing else is left"
        return (place / "big").read_bytes() == self.data


@pytest.fixture
def swarm(tmp_path: Path) -> Swarm:
    return Swarm(tmp_path / "founder")


async def test_a_file_comes_from_who_serves_it_from_a_disk(swarm: Swarm, tmp_path: Path) -> None:
    swarm.presence.cards[PeerId("node")] = Card(wire_addresses=("x:1",))
    refusing = Inbox(swarm.refuse)
    swarm.start(PeerId("node"), FilesInbox(refusing, swarm.manifest, swarm.folder / "run"))
    await swarm.fetch(tmp_path)
    assert swarm.has_it(tmp_path)
    assert swarm.told == sorted(swarm.told)
    assert swarm.told[-1] == SIZE
    assert refusing.asked == []


async def test_what_is_here_is_not_fetched_again(swarm: Swarm, tmp_path: Path) -> None:
    giver = swarm.add("a", swarm.honest)
    await swarm.fetch(tmp_path)
    giver.asked.clear()
    await swarm.fetch(tmp_path)
    assert giver.asked == []


@pytest.mark.parametrize("grains", [0, 1, 4, 7])
async def test_where_one_breaks_off_the_next_goes_on(
    swarm: Swarm, tmp_path: Path, grains: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.file_arrival.random.shuffle", lambda peers: peers.sort(reverse=True))
    swarm.add("a", swarm.honest)
    swarm.add("b", swarm.honest)
    swarm.wire.breaks_at["a"] = grains * GRAIN_BYTES
    await swarm.fetch(tmp_path)
    assert swarm.has_it(tmp_path)
    assert swarm.wire.came.get("a", []) == list(range(grains))
    assert swarm.wire.came["b"] == list(range(grains, 12))


@pytest.mark.parametrize("grains", [0, 2])
async def test_where_one_hardly_gives_anything_the_next_goes_on(
    swarm: Swarm, tmp_path: Path, grains: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.file_arrival.random.shuffle", lambda peers: peers.sort(reverse=True))
    monkeypatch.setattr("peer.file_arrival.LONGEST_S", 0.2)
    swarm.add("a", swarm.honest)
    swarm.add("b", swarm.honest)
    swarm.wire.trickles_at["a"] = grains * GRAIN_BYTES
    async with asyncio.timeout(20):
        await swarm.fetch(tmp_path)
    assert swarm.has_it(tmp_path)
    assert swarm.wire.came["b"] == list(range(grains, 12))


async def test_another_life_goes_on_where_the_last_one_stopped(
    swarm: Swarm, tmp_path: Path
) -> None:
    swarm.add("a", swarm.honest)
    swarm.wire.breaks_at["a"] = 6 * GRAIN_BYTES
    with pytest.raises(ConfigError, match="What has come is kept") as refused:
        await swarm.fetch(tmp_path, wait_s=0.0)
    assert "\n" not in str(refused.value)
    assert not (files_folder(tmp_path) / "big").exists()
    swarm.wire.breaks_at.clear()
    swarm.wire.came.clear()
    await swarm.fetch(tmp_path)
    assert swarm.has_it(tmp_path)
    assert swarm.wire.came["a"] == list(range(6, 12))


async def test_who_is_told_to_leave_keeps_what_has_come(swarm: Swarm, tmp_path: Path) -> None:
    slow = BytesSource(swarm.data, grain_bytes=GRAIN_BYTES, made_bytes=5 * GRAIN_BYTES)
    swarm.add("a", lambda ref: slow)
    fetching = asyncio.create_task(swarm.fetch(tmp_path))
    await asyncio.wait_for(swarm.half.wait(), 30)
    fetching.cancel()
    await asyncio.gather(fetching, return_exceptions=True)
    part = (files_folder(tmp_path) / "big.part").read_bytes()
    assert part == swarm.data[: 5 * GRAIN_BYTES]


async def test_who_gives_another_file_is_asked_no_more(
    swarm: Swarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.file_arrival.random.shuffle", lambda peers: peers.sort(reverse=True))
    swarm.add("a", swarm.liar)
    swarm.add("b", swarm.honest)
    await swarm.fetch(tmp_path)
    assert swarm.has_it(tmp_path)


async def test_a_file_of_two_peers_that_is_wrong_comes_from_one_alone(
    swarm: Swarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.file_arrival.random.shuffle", lambda peers: peers.sort(reverse=True))
    swarm.add("a", swarm.liar)
    swarm.add("b", swarm.honest)
    swarm.wire.breaks_at["a"] = 5 * GRAIN_BYTES
    await swarm.fetch(tmp_path)
    assert swarm.has_it(tmp_path)
    assert swarm.wire.came["b"][-12:] == list(range(12))


async def test_a_damaged_rest_of_a_former_life_blames_nobody(swarm: Swarm, tmp_path: Path) -> None:
    files_folder(tmp_path).mkdir()
    (files_folder(tmp_path) / "big.part").write_bytes(bytes(3 * GRAIN_BYTES + 9))
    swarm.add("a", swarm.honest)
    await swarm.fetch(tmp_path)
    assert swarm.has_it(tmp_path)


async def test_a_file_that_was_altered_here_is_replaced(swarm: Swarm, tmp_path: Path) -> None:
    files_folder(tmp_path).mkdir()
    (files_folder(tmp_path) / "big").write_bytes(bytes(SIZE))
    (files_folder(tmp_path) / "big.part").write_bytes(bytes(SIZE + 1))
    swarm.add("a", swarm.honest)
    await swarm.fetch(tmp_path)
    assert swarm.has_it(tmp_path)


async def test_only_liars_are_one_clear_line(swarm: Swarm, tmp_path: Path) -> None:
    swarm.add("a", swarm.liar)
    swarm.add("b", swarm.liar)
    with pytest.raises(ConfigError, match="is not the file that the manifest names") as refused:
        await swarm.fetch(tmp_path, wait_s=0.5)
    assert "\n" not in str(refused.value)


async def test_a_file_of_another_size_is_refused_before_it_comes(
    swarm: Swarm, tmp_path: Path
) -> None:
    longer = swarm.data + bytes(1 << 20)
    swarm.add("a", lambda ref: BytesSource(longer, grain_bytes=GRAIN_BYTES))
    with pytest.raises(ConfigError, match="expected"):
        await swarm.fetch(tmp_path, wait_s=0.0)
    assert not list(files_folder(tmp_path).iterdir())


async def test_nobody_there_is_one_clear_line(swarm: Swarm, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nobody gave us the run's file big within 0 s"):
        await swarm.fetch(tmp_path, wait_s=0.0)


async def test_somebody_who_comes_later_is_asked(swarm: Swarm, tmp_path: Path) -> None:
    swarm.presence.on_refresh = lambda: swarm.add("late", swarm.honest) and None
    await swarm.fetch(tmp_path)
    assert swarm.has_it(tmp_path)


async def test_a_full_disk_is_one_clear_line_and_what_came_is_kept(tmp_path: Path) -> None:
    with a_small_disk(tmp_path / "disk") as disk:
        swarm = Swarm(tmp_path / "founder", 3 * GRAIN_BYTES)

        async def fill_it() -> None:
            fill(disk, 64 * 1024)

        swarm.add("a", lambda ref: _Disturbed(swarm.data, fill_it))
        with pytest.raises(ConfigError, match="free some disk space") as full:
            await swarm.fetch(disk)
        assert "\n" not in str(full.value)
        (disk / "filler").unlink()
        swarm.add("a", swarm.honest)
        await swarm.fetch(disk)
        assert swarm.has_it(disk)


async def test_a_disk_without_room_is_said_before_anything_comes(tmp_path: Path) -> None:
    with a_small_disk(tmp_path / "disk") as disk:
        swarm = Swarm(tmp_path / "founder", 8 * GRAIN_BYTES)
        giver = swarm.add("a", swarm.honest)
        with pytest.raises(ConfigError, match=r"no room for .*big: 2.1 MB of it"):
            await swarm.fetch(disk)
        assert giver.asked == []


class _Disturbed(BytesSource):
    """Something happens before its last grain, once."""

    def __init__(self, data: bytes, disturb: Callable[[], Awaitable[None]]) -> None:
        super().__init__(data, grain_bytes=GRAIN_BYTES)
        self._disturb = disturb

    async def read(self, start: int, stop: int) -> bytes:
        if start == 2 * GRAIN_BYTES:
            await self._disturb()
        return await super().read(start, stop)


async def test_a_window_takes_grains_in_any_order_and_knows_its_beginning() -> None:
    told: list[int] = []
    start, stop = 2 * GRAIN_BYTES, 6 * GRAIN_BYTES
    window = FileWindow(9 * GRAIN_BYTES, start, stop, on_bytes=told.append)
    assert window.missing() == [(start, stop)]
    for grain in (4, 2):
        await window.put(grain * GRAIN_BYTES, bytes([grain]) * GRAIN_BYTES)
    assert window.missing() == [(3 * GRAIN_BYTES, 4 * GRAIN_BYTES), (5 * GRAIN_BYTES, stop)]
    assert bytes(window.prefix) == bytes([2]) * GRAIN_BYTES
    await window.put(3 * GRAIN_BYTES, bytes([3]) * GRAIN_BYTES)
    assert bytes(window.prefix) == b"".join(bytes([i]) * GRAIN_BYTES for i in (2, 3, 4))
    assert told == [3 * GRAIN_BYTES, 4 * GRAIN_BYTES, 5 * GRAIN_BYTES]
