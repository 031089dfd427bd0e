"""Two processes with one identity, in a directory in memory, by clocks that the test sets."""

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any, cast

import pytest

from peer.birth import Birth
from peer.life import AnotherLife, Life, Parts
from peer.net.directory_memory import MemoryBoard, MemoryDirectory
from peer.net.record_rules import RecordRules
from peer.presence import REFRESH_S, Presence
from peer.sim.clock import VirtualClock
from peer.sim.loop import VirtualLoop
from peer.status import PeerStatus
from protocol.card import LIFE_BYTES, Card
from protocol.identity import Identity
from protocol.manifest import RunId

RUN_ID = RunId("ab" * 32)
NOW_UNIX_S = 1_800_000_000.0
OURS, THEIRS = Identity(bytes(32)), Identity(bytes([1]) * 32)


class Events:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def write(self, event: str, **fields: object) -> None:
        self.seen.append(event)


class World:
    """One board; its clock, on which records expire, goes with the loop's."""

    def __init__(self) -> None:
        self.loop = VirtualLoop(VirtualClock())  # type: ignore[abstract]
        rules = RecordRules(RUN_ID)
        self.board = MemoryBoard(rules, lambda: NOW_UNIX_S + self.loop.time())

    def presence(self, identity: Identity = OURS) -> Presence:
        return Presence(MemoryDirectory(identity, self.board), identity.peer_id)

    def live(self, number: int, *, clock_s: float = 0.0) -> "Running":
        return Running(self, number, clock_s)

    def role_seen(self) -> list[tuple[str, str]]:
        """As others see us: role and life."""
        presence = self.presence(THEIRS)
        self.loop.run_until_complete(presence.refresh())
        return [(card.role, card.life) for card in presence.cards.values()]


class Running:
    """One life, which does nothing but keep its card in the directory."""

    def __init__(self, world: World, number: int, clock_s: float) -> None:
        self.birth = Birth(f"{number:016x}", NOW_UNIX_S + world.loop.time() + clock_s)
        self.presence = world.presence()
        self.life = Life(
            Parts(
                our_id=OURS.peer_id,
                birth=self.birth,
                manifest=cast("Any", None),
                mixing=cast("Any", None),
                driver=cast("Any", _driver()),
                trainer=cast("Any", None),
                wire=cast("Any", SimpleNamespace(up_bps=0.0, down_bps=0.0)),
                presence=self.presence,
                status=PeerStatus(),
                events=Events(),
                addresses=lambda: (),
                clock=world.loop.time,
            ),
            evaluate_every_rounds=0,
        )
        self.task = world.loop.create_task(self._live())

    async def _live(self) -> None:
        await self.presence.refresh_quietly()
        await self.life.train(asyncio.get_running_loop().create_future())  # type: ignore[arg-type]

    @property
    def error(self) -> BaseException | None:
        if not self.task.done() or self.task.cancelled():
            return None
        error = self.task.exception()
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        return error

    async def crash(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


def _driver() -> SimpleNamespace:
    async def wait() -> None:
        await asyncio.get_running_loop().create_future()

    return SimpleNamespace(
        begin=lambda trainer, wire: None,
        wait=wait,
        on_members=lambda *members: None,
        has_nothing_to_give=False,
    )


@pytest.mark.parametrize("clock_s", [-250.0, -2.0, 0.0, 2.0, 250.0])
@pytest.mark.parametrize("phase_s", [0.0, 0.5, 0.999])
def test_the_later_life_stays_and_the_earlier_one_ends(clock_s: float, phase_s: float) -> None:
    """Whatever the clocks say: the later one sees the earlier one's card when it enters."""
    world = World()
    earlier = world.live(9)
    world.loop.run_until(60 + phase_s * REFRESH_S)
    later = world.live(1, clock_s=clock_s)
    world.loop.run_until(80)
    assert isinstance(earlier.error, AnotherLife)
    assert len(str(earlier.error).splitlines()) == 1
    assert later.error is None
    assert world.role_seen() == [("peer", later.birth.life)]
    world.loop.close()


def test_of_two_that_came_at_once_one_stays() -> None:
    world = World()
    low, high = world.live(1), world.live(2)
    world.loop.run_until(30)
    assert isinstance(low.error, AnotherLife)
    assert high.error is None
    world.loop.close()


def test_one_that_slept_meanwhile_ends_before_it_is_seen_again() -> None:
    world = World()
    earlier = world.live(9)
    world.loop.run_until(20)
    card = earlier.life.card()
    world.loop.run_until_complete(earlier.crash())  # frozen: its card expires
    world.loop.run_until(200)
    later = world.live(1)
    world.loop.run_until(220)
    thawed, seen = world.presence(), list[Card]()
    thawed.on_own = seen.append
    world.loop.run_until_complete(thawed.refresh())
    birth = Birth(card.life, card.began_unix_s)
    assert [birth.gives_way_to(card) for card in seen] == [True]
    assert later.error is None
    world.loop.close()


def test_a_crash_is_followed_by_a_life_that_does_not_mind_the_card_of_the_one_before() -> None:
    world = World()
    former = world.live(9, clock_s=250.0)  # its clock was wrong
    world.loop.run_until(20)
    world.loop.run_until_complete(former.crash())
    ours = world.live(1)
    world.loop.run_until(120)
    assert ours.error is None
    assert world.role_seen() == [("peer", ours.birth.life)]
    world.loop.close()


def test_a_goodbye_of_the_life_before_does_not_outlive_the_next_ones_card() -> None:
    world = World()
    former = world.live(9)
    world.loop.run_until(20)
    world.loop.run_until_complete(former.life.say_goodbye())
    world.loop.run_until_complete(former.crash())
    assert world.role_seen() == [("left", former.birth.life)]
    ours = world.live(1)
    world.loop.run_until(21)
    assert world.role_seen() == [("peer", ours.birth.life)]
    assert ours.error is None
    world.loop.close()


def test_a_card_says_whose_life_it_is() -> None:
    world = World()
    running = world.live(3)
    world.loop.run_until(1)
    card = running.life.card()
    assert (card.life, card.began_unix_s) == (running.birth.life, running.birth.began_unix_s)
    assert len(bytes.fromhex(card.life)) == LIFE_BYTES
    world.loop.close()
