"""The local sockets behind which tunnels begin, with relays that the test makes."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peer.net import doors as doors_module
from peer.net.config import WireConfig
from peer.net.counters import ByteCounters
from peer.net.doors import Doors
from peer.net.pace import NO_CAP, Pace
from peer.net.switchboard import Switchboard
from peer.net.tunnel import SocketEnd
from protocol.errors import TransportError
from protocol.identity import PeerId
from protocol.manifest import RunId

pytestmark = pytest.mark.net

US, DST, OTHER = PeerId("us"), PeerId("dst"), PeerId("other")
RELAYS = tuple(PeerId(name) for name in ("r", "s", "t"))


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as place:  # a socket's path must be short
        yield Path(place)


@pytest.fixture
def doors(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Doors:
    """To peers that listen at `RELAYS`; a tunnel passes one piece on, and then breaks off."""

    async def carry(link: Any, opening: Any, end: SocketEnd) -> None:
        await end.write(b"hello")
        raise TransportError("the relay closed it")

    monkeypatch.setattr(doors_module, "carry", carry)
    config = WireConfig(run_id=RunId("ab" * 32))
    return Doors(
        US,
        folder,
        switchboard=Switchboard(US, config, ByteCounters(), up=Pace(NO_CAP)),
        link=lambda relay: None,  # type: ignore[arg-type, return-value]
        addresses=lambda relay: ("192.0.2.1:1",),
        relays=lambda dst: RELAYS,
    )


async def addresses(doors: Doors, dst: PeerId = DST) -> list[str]:
    return [candidate.address for candidate in await doors.candidates(dst)]


def sockets(folder: Path) -> set[str]:
    return {f"unix:{path}" for path in folder.iterdir()}


async def pass_through(address: str) -> None:
    reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
    async with asyncio.timeout(10):
        while await reader.read(100):
            pass
    writer.close()


async def test_all_who_look_at_once_find_the_same_doors(doors: Doors, folder: Path) -> None:
    found = await asyncio.gather(*(addresses(doors) for _ in range(3)))
    assert found == [found[0]] * 3
    assert sockets(folder) == set(found[0])
    await doors.close()


async def test_nothing_is_left_of_a_door_to_a_forgotten_peer(doors: Doors, folder: Path) -> None:
    gone, kept = await addresses(doors), await addresses(doors, OTHER)
    await doors.forget(DST)
    assert sockets(folder) == set(kept)
    with pytest.raises(FileNotFoundError):
        await pass_through(gone[0])
    await doors.close()
    assert sockets(folder) == set()


async def test_other_relays_come_before_one_that_broke_off(doors: Doors) -> None:
    first, second = await addresses(doors)
    await pass_through(first)
    after = await addresses(doors)
    assert first not in after
    assert after[0] == second
    await doors.close()


async def test_a_relay_that_closed_an_idle_tunnel_has_not_failed(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors_module, "RELAY_IDLE_S", 0.0)
    before = await addresses(doors)
    await pass_through(before[0])
    assert await addresses(doors) == before
    await doors.close()
