"""A scripted peer under a virtual clock: who is silent is given up soon, who is slow is not."""

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest

from peer.ports import Sink
from peer.signs import Signs
from peer.sim.clock import VirtualClock
from peer.sim.loop import VirtualLoop, host_context
from peer.sim.network import LinkSpec, VirtualHost
from peer.vigil import AGAIN_S, IDLE_S, PATIENCE_S, TRIPS, Vigil, failure_of
from protocol.errors import MalformedMessage, NotAvailable, PeerSilent, RemoteError, TransportError
from protocol.exchange import Failure
from protocol.identity import PeerId
from protocol.machine import BlobRef
from protocol.messages import Note, Ready
from tests.blobs import KeptSink

SRC, OTHER = PeerId("src"), PeerId("other")
REF = BlobRef("part", 0, b"e" * 16, 1)
NOTE = Ready(fragment=0, round=3, tokens=7, anchor_digest=b"d" * 32)
PROGRESS_S = 3.0


class ScriptedWire:
    """A wire on which nothing comes but what the test says; implements `peer.ports.Wire`."""

    up_bps = down_bps = 0.0

    def __init__(self) -> None:
        self.signs = Signs()
        self.signs.answer(SRC, 0.01, 0.0)
        self.answers_after_s: float | None = None
        """A ping; None: never."""
        self.refusals: list[Exception] = []
        """Of the next pings."""
        self.pings: list[float] = []
        self.num_pinging = self.most_pinging = 0
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.num_cancelled = 0

    async def fetch(self, src: PeerId, ref: BlobRef, sink: Sink) -> None:
        await self._wait()

    async def send(self, dst: PeerId, note: Note) -> None:
        await self._wait()

    async def _wait(self) -> None:
        try:
            await asyncio.shield(self.end)
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise

    async def ping(self, dst: PeerId, *, wait_s: float) -> None:
        loop = asyncio.get_running_loop()
        self.pings.append(loop.time())
        self.num_pinging += 1
        self.most_pinging = max(self.most_pinging, self.num_pinging)
        try:
            if self.refusals:
                raise self.refusals.pop(0)
            trip_s = self.answers_after_s
            if trip_s is None or trip_s > wait_s:
                await asyncio.sleep(wait_s)
                raise TransportError(f"no answer for {wait_s:g} s")
            await asyncio.sleep(trip_s)
            self.signs.answer(dst, trip_s, loop.time())
        finally:
            self.num_pinging -= 1

    async def close(self) -> None:
        raise AssertionError

    def hear_at(self, *times_s: float) -> None:
        loop = asyncio.get_running_loop()
        for time_s in times_s:
            loop.call_at(time_s, self.signs.hear, SRC, time_s)

    def end_at(self, time_s: float, error: Exception | None = None) -> None:
        how = self.end.set_result if error is None else self.end.set_exception
        asyncio.get_running_loop().call_at(time_s, how, error)


class World:
    """A virtual loop, and a host on it that may freeze."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.loop = VirtualLoop(self.clock)  # type: ignore[abstract]
        self.host = VirtualHost(PeerId("we"), LinkSpec(), self.clock)

    def run(self, scenario: Coroutine[Any, Any, None]) -> None:
        try:
            self.loop.run_until_complete(
                self.loop.create_task(scenario, context=host_context(self.host))
            )
            assert not self.loop.problems
        finally:
            self.loop.close()


@pytest.fixture
def world() -> World:
    return World()


async def nobody_is_left() -> None:
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def silent_at_s(vigil: Vigil, src: PeerId = SRC) -> float:
    """Fetches in vain, and returns when that was over."""
    with pytest.raises(PeerSilent, match="ping"):
        await vigil.fetch(src, REF, KeptSink(1))
    return asyncio.get_running_loop().time()


def test_who_is_silent_is_given_up_soon_after_its_last_sign_of_life(world: World) -> None:
    async def scenario() -> None:
        wire = ScriptedWire()
        wire.hear_at(0.3, 0.6, 0.95)
        assert await silent_at_s(Vigil(wire, progress_s=PROGRESS_S)) == pytest.approx(
            0.95 + IDLE_S + PATIENCE_S
        )
        assert wire.num_cancelled == 1
        await nobody_is_left()

    world.run(scenario())
    assert IDLE_S + PATIENCE_S < 1.6


def test_a_note_is_given_up_as_soon(world: World) -> None:
    async def scenario() -> None:
        wire = ScriptedWire()
        with pytest.raises(PeerSilent):
            await Vigil(wire, progress_s=PROGRESS_S).send(SRC, NOTE)
        assert asyncio.get_running_loop().time() == pytest.approx(IDLE_S + PATIENCE_S)

    world.run(scenario())


def test_who_answers_is_waited_for_however_long_nothing_else_comes(world: World) -> None:
    async def scenario() -> None:
        wire = ScriptedWire()
        wire.answers_after_s = 0.2
        wire.end_at(30.0)
        await Vigil(wire, progress_s=PROGRESS_S).fetch(SRC, REF, KeptSink(1))
        assert len(wire.pings) == pytest.approx(30.0 / (IDLE_S + 0.2), abs=2)
        await nobody_is_left()

    world.run(scenario())


def test_while_anything_comes_nobody_is_pinged(world: World) -> None:
    async def scenario() -> None:
        wire = ScriptedWire()
        wire.hear_at(*(0.9 * IDLE_S * i for i in range(100)))
        wire.end_at(0.9 * IDLE_S * 99)
        await Vigil(wire, progress_s=PROGRESS_S).fetch(SRC, REF, KeptSink(1))
        assert not wire.pings

    world.run(scenario())


@pytest.mark.parametrize("frac", [0.01, 0.5, 0.99])
def test_what_comes_while_a_ping_is_under_way_is_a_sign_as_well(world: World, frac: float) -> None:
    async def scenario() -> None:
        wire = ScriptedWire()
        last_s = IDLE_S + frac * PATIENCE_S
        wire.hear_at(last_s)
        ended_s = await silent_at_s(Vigil(wire, progress_s=PROGRESS_S))
        assert ended_s == pytest.approx(last_s + IDLE_S + PATIENCE_S)

    world.run(scenario())


def test_all_that_wait_for_a_peer_share_one_ping_and_end_together(world: World) -> None:
    async def scenario() -> None:
        wire = ScriptedWire()
        vigil = Vigil(wire, progress_s=PROGRESS_S)
        ends = await asyncio.gather(*(silent_at_s(vigil) for _ in range(20)))
        assert wire.most_pinging == 1
        assert ends == pytest.approx([IDLE_S + PATIENCE_S] * 20)
        assert wire.num_cancelled == 20
        await nobody_is_left()

    world.run(scenario())


def test_one_that_ends_leaves_the_others_watched(world: World) -> None:
    async def scenario() -> None:
        wire = ScriptedWire()
        vigil = Vigil(wire, progress_s=PROGRESS_S)
        first = asyncio.create_task(vigil.fetch(SRC, REF, KeptSink(1)))
        second = asyncio.create_task(silent_at_s(vigil))
        await asyncio.sleep(1.0)
        first.cancel()
        assert await second == pytest.approx(IDLE_S + PATIENCE_S)
        assert first.cancelled()
        await nobody_is_left()

    world.run(scenario())


def test_who_was_silent_is_watched_anew_the_next_time(world: World) -> None:
    async def scenario() -> None:
        wire = ScriptedWire()
        vigil = Vigil(wire, progress_s=PROGRESS_S)
        first_s = await silent_at_s(vigil)
        assert await silent_at_s(vigil) == pytest.approx(2 * first_s)

    world.run(scenario())


@pytest.mark.parametrize("trip_s", [0.1, 0.6, 0.9])
def test_who_is_far_away_has_more_patience_but_no_more_than_progress_has(
    world: World, trip_s: float
) -> None:
    async def scenario() -> None:
        wire = ScriptedWire()
        for _ in range(50):
            wire.signs.answer(SRC, trip_s, 0.0)
        patience_s = min(PROGRESS_S, max(PATIENCE_S, TRIPS * trip_s))
        ended_s = await silent_at_s(Vigil(wire, progress_s=PROGRESS_S))
        assert ended_s == pytest.approx(IDLE_S + patience_s)

    world.run(scenario())


def test_who_was_never_heard_is_dialled_as_long_as_progress_may_take(world: World) -> None:
    async def scenario() -> None:
        ended_s = await silent_at_s(Vigil(ScriptedWire(), progress_s=PROGRESS_S), OTHER)
        assert ended_s == pytest.approx(IDLE_S + PROGRESS_S)

    world.run(scenario())


def test_a_refused_ping_is_repeated_and_then_the_peer_is_silent_all_the_same(world: World) -> None:
    async def scenario() -> None:
        wire = ScriptedWire()
        wire.refusals = [TransportError("connection refused")] * 1000
        ended_s = await silent_at_s(Vigil(wire, progress_s=PROGRESS_S))
        assert ended_s == pytest.approx(IDLE_S + PATIENCE_S)
        assert len(wire.pings) == pytest.approx(PATIENCE_S / AGAIN_S, abs=1)

    world.run(scenario())


@pytest.mark.parametrize(
    "refusals", [[TransportError("the connection broke off")], [RemoteError("say hello first")]]
)
def test_a_connection_that_broke_or_a_refusal_is_no_silence(
    world: World, refusals: list[Exception]
) -> None:
    async def scenario() -> None:
        wire = ScriptedWire()
        wire.answers_after_s, wire.refusals = 0.01, refusals
        wire.end_at(5.0)
        await Vigil(wire, progress_s=PROGRESS_S).fetch(SRC, REF, KeptSink(1))
        assert len(wire.pings) > 2

    world.run(scenario())


@pytest.mark.parametrize("seed", range(20))
def test_it_is_not_the_peer_that_is_silent_when_we_were_frozen(world: World, seed: int) -> None:
    """Its answer lies there when we wake up, but our timers are read first."""

    async def scenario() -> None:
        wire, rng = ScriptedWire(), random.Random(seed)
        wire.answers_after_s = 0.3
        wire.end_at(60.0)
        for _ in range(5):
            world.clock.at(rng.uniform(0, 50), lambda: world.host.freeze(rng.uniform(1.5, 5)))
        await Vigil(wire, progress_s=PROGRESS_S).fetch(SRC, REF, KeptSink(1))

    world.run(scenario())


@pytest.mark.parametrize("error", [NotAvailable("not yet"), MalformedMessage("nonsense")])
def test_what_the_wire_says_is_passed_on(world: World, error: Exception) -> None:
    async def scenario() -> None:
        wire = ScriptedWire()
        wire.end_at(0.1, error)
        with pytest.raises(type(error), match=str(error)):
            await Vigil(wire, progress_s=PROGRESS_S).fetch(SRC, REF, KeptSink(1))
        await nobody_is_left()

    world.run(scenario())


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (NotAvailable("not yet"), Failure.ABSENT),
        (PeerSilent("not a sound"), Failure.SILENT),
        (TransportError("broke off"), Failure.BROKEN),
        (RemoteError("nonsense"), Failure.BROKEN),
    ],
)
def test_the_machines_learn_the_difference(error: Exception, failure: Failure) -> None:
    assert failure_of(error) is failure  # type: ignore[arg-type]
