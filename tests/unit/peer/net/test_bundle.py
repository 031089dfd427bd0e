"""Connections for bulk data: opened when used, closed when they are wanted no more."""

import asyncio
from typing import Any

from peer.net.bundle import Bundle
from peer.net.width import Width


class FakeLink:
    def __init__(self) -> None:
        self.opened: list[object] = []
        self.open: set[object] = set()

    async def another_channel(self) -> object:
        await asyncio.sleep(0)
        channel = object()
        self.opened.append(channel)
        self.open.add(channel)
        return channel

    async def release(self, channel: object) -> None:
        assert channel in self.open, "none is closed twice"
        self.open.discard(channel)
        await asyncio.sleep(0)

    def is_open(self, channel: object) -> bool:
        return channel in self.open


class Scene:
    def __init__(self, wanted: int) -> None:
        self.link: Any = FakeLink()
        self.width = Width()
        self.width.wanted = wanted
        self.bundle = Bundle(self.link, self.width)
        self.may_end = asyncio.Event()

    async def transfer(self, number: int, may_end: asyncio.Event | None = None) -> None:
        async with self.bundle.transfer(number):
            await self.bundle.channel(number)
            await (may_end or self.may_end).wait()

    async def begin(self, *numbers: int) -> "asyncio.Future[list[None]]":
        group = asyncio.gather(*(self.transfer(number) for number in numbers))
        await self.settled()
        return group

    async def settled(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


async def test_a_connection_is_kept_for_the_next_transfer() -> None:
    scene = Scene(wanted=2)
    scene.may_end.set()
    for _ in range(3):
        await (await scene.begin(0, 1))
    assert len(scene.link.opened) == len(scene.link.open) == 2
    assert scene.bundle.num_in_use == 0


async def test_connections_that_are_wanted_no_more_are_closed_after_use() -> None:
    scene = Scene(wanted=4)
    group = await scene.begin(0, 1, 2, 3)
    assert scene.bundle.num_in_use == len(scene.link.open) == 4
    scene.width.wanted = 2
    await scene.settled()
    assert len(scene.link.open) == 4  # something is still under way
    scene.may_end.set()
    await group
    assert scene.link.open == set(scene.link.opened[:2])


async def test_idle_connections_that_are_wanted_no_more_are_closed_too() -> None:
    scene = Scene(wanted=4)
    scene.may_end.set()
    await (await scene.begin(0, 1, 2, 3))
    scene.width.wanted = 1
    await (await scene.begin(0))
    assert scene.link.open == {scene.link.opened[0]}


async def test_a_connection_that_another_transfer_uses_stays() -> None:
    scene, until = Scene(wanted=2), asyncio.Event()
    other = asyncio.create_task(scene.transfer(1, until))
    group = await scene.begin(0, 1)
    scene.width.wanted = 1
    scene.may_end.set()
    await group
    assert len(scene.link.open) == 2
    until.set()
    await other
    assert scene.link.open == {scene.link.opened[1]}  # 1 was opened first


async def test_who_is_cancelled_gives_its_connection_back() -> None:
    scene = Scene(wanted=2)
    tasks = [asyncio.create_task(scene.transfer(number)) for number in (0, 1)]
    await scene.settled()
    scene.width.wanted = 1
    tasks[1].cancel()
    await asyncio.gather(tasks[1], return_exceptions=True)
    assert len(scene.link.open) == 1
    tasks[0].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert scene.bundle.num_in_use == 0


async def test_one_that_broke_is_opened_again() -> None:
    scene = Scene(wanted=1)
    scene.may_end.set()
    await (await scene.begin(0))
    scene.link.open.clear()
    await (await scene.begin(0))
    assert len(scene.link.opened) == 2
