"""A driver among peers that lie, are gone, or are far ahead, and at its own end."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import torch

from peer.blobs import StateSource
from peer.mixing import Mixing, digest_of
from peer.net.wire_memory import MemoryNetwork, MemoryWire
from peer.ports import Source
from peer.train import lines
from protocol.errors import NotAvailable, PeerGone, TransportError
from protocol.group_exchange import GroupExchange
from protocol.identity import PeerId
from protocol.lineage import EMPTY
from protocol.machine import BlobRef, Fetch
from protocol.messages import Answer, Committed, Note, Propose, Ready
from protocol.state_index import StateIndex, index_bytes
from tests.blobs import BytesSource
from tests.unit.peer.test_driver import (
    IDS,
    START,
    Node,
    a_round,
    drift,
    introduce,
    manifest_of,
    nodes,
    wire_config,
)
from tests.unit.peer.test_scripted_trainer import NUM_ELEMENTS, PATIENCE_S, settle

# ---- hostile and absent peers


class Hostile:
    """Takes part in word, and serves garbage."""

    def __init__(self, mixing: Mixing, fragment_bytes: int) -> None:
        self.wire: MemoryWire | None = None
        self.served: list[BlobRef] = []
        self._digest = mixing.outer[0].digest
        self._garbage = b"\xff" * fragment_bytes

    def on_note(self, src: PeerId, note: Note) -> None:
        assert self.wire is not None
        if isinstance(note, Propose):
            reply = Answer(note.fragment, note.exchange_id, True, 1000)
            self._task = asyncio.ensure_future(self.wire.send(src, reply))

    async def blob(self, src: PeerId, ref: BlobRef) -> BytesSource:
        self.served.append(ref)
        return BytesSource(self._garbage)

    async def say_ready(self, members: list[Node]) -> None:
        assert self.wire is not None
        for node in members:
            await self.wire.send(node.peer_id, Ready(0, 0, 1000, self._digest))


async def test_garbage_in_an_exchange_of_all_costs_the_others_a_try_and_no_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Fewer tries for the sake of time: the average of the hostile peer is nowhere.
    monkeypatch.setattr("protocol.gathering.MAX_VAIN_TRIES", 2)
    network, manifest = MemoryNetwork(), manifest_of()
    async with nodes(manifest, tmp_path, 2, network) as members:
        hostile = Hostile(members[0].mixing, 1 << 16)
        hostile.wire = MemoryWire(network, IDS[2], wire_config(manifest), inbox=hostile)
        introduce(members, IDS[2])
        await hostile.say_ready(members)
        for place, node in enumerate(members):
            node.trainer.train(drift(place))
            node.trainer.depart()
        for node in members:
            (landed,) = await node.events.until("landed")
            assert landed["contributed"]
        assert members[0].digests() == members[1].digests()
        assert hostile.served  # the fault fired
        expected = START + 0.7 * 1.9 * (drift(0) + drift(1)) / 2
        torch.testing.assert_close(members[0].anchor(), expected)
        refused = [seen for node in members for seen in node.events.of("transfer_refused")]
        assert {seen["src"] for seen in refused} == {IDS[2]}
        assert len(refused) > len(members)
    said = [record for record in caplog.records if "refused" in record.message]
    assert len(said) == len(members)  # once by each, however often it happens


@pytest.mark.parametrize("size", [5, None, 1 << 16], ids=["short", "as long", "far too long"])
async def test_garbage_from_a_partner_sends_a_pair_to_the_next_one(
    tmp_path: Path, size: int | None
) -> None:
    network, manifest = MemoryNetwork(), manifest_of("pairs")
    async with nodes(manifest, tmp_path, 2, network) as members:
        (right_size,) = members[0].mixing.contribution_bytes(0)
        hostile = Hostile(members[0].mixing, size or right_size)
        hostile.wire = MemoryWire(network, IDS[2], wire_config(manifest), inbox=hostile)
        for node in members:  # so that everybody asks the hostile one first
            node.driver.on_members((IDS[2],))
            node.trainer.train(1.0)
            node.trainer.depart()
        for node in members:
            await node.events.until("exchange_failed")
            refused = node.events.of("transfer_refused")
            # Who has too little just has not what we asked for.
            assert len(refused) >= 1 or size == 5
            assert all((seen["src"], seen["blob"]) == (IDS[2], "part") for seen in refused)
            assert node.status.exchanges_failed >= 1
        assert hostile.served
        introduce(members)
        for node in members:
            await node.events.until("landed")
            assert set(node.status.partners) <= set(IDS[:2])


async def test_a_note_to_somebody_who_is_gone_is_told_and_ends_nothing(tmp_path: Path) -> None:
    async with nodes(manifest_of(), tmp_path, 2) as members:
        introduce(members, IDS[3])
        for node in members:
            node.trainer.train(1.0)
            node.trainer.depart()
        for node in members:
            await node.events.until("landed")  # two of three are a quorum
            assert {seen["to"] for seen in node.events.of("note_lost")} == {IDS[3]}


@pytest.mark.parametrize("kind", [TransportError, PeerGone])
async def test_only_who_is_known_to_be_gone_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[TransportError]
) -> None:
    async with nodes(manifest_of(), tmp_path, 2) as members:
        for node in members:
            send = node.wire.send

            async def lose(
                dst: PeerId, note: Note, send: Callable[..., Awaitable[None]] = send
            ) -> None:
                if dst in IDS[2:4]:
                    raise kind("refused")
                await send(dst, note)

            monkeypatch.setattr(node.wire, "send", lose)
        introduce(members, *IDS[2:4])
        for node in members:
            node.trainer.train(1.0)
            node.trainer.depart()
        await members[0].events.until("note_lost", 2)
        if kind is PeerGone:  # the other two are all that there are
            for node in members:
                await node.events.until("landed")
            assert members[0].digests() == members[1].digests()
        else:
            await settle()
            assert not any(node.events.of("exchange_begins") for node in members)


async def test_somebody_unknown_is_reported_and_has_no_say(tmp_path: Path) -> None:
    async with nodes(manifest_of(), tmp_path, 2) as (first, second):
        strangers: list[PeerId] = []
        second.driver.on_stranger = strangers.append
        await first.wire.send(second.peer_id, Committed(0, 7, bytes(32)))
        await settle()
        assert strangers == [first.peer_id]
        assert second.events.seen == []
        introduce([first, second])
        await a_round([first, second], 0)


async def test_who_serves_half_and_dies_is_no_more_than_a_lost_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its first answers break off after a grain; what came stays, and each grain counts once.
    async with nodes(manifest_of(), tmp_path, 2) as (first, second):
        introduce([first, second])
        broken: list[BlobRef] = []
        collect = first.mixing.collect

        def break_once(effect: Fetch, grain: int, frame: bytes) -> None:
            collect(effect, grain, frame)
            if effect.ref.kind == "part" and effect.ref not in broken:
                broken.append(effect.ref)
                raise TransportError("it broke off")

        monkeypatch.setattr(first.mixing, "collect", break_once)
        await a_round([first, second], 0)
        assert broken  # the fault fired
        assert first.events.of("transfer_failed")
        assert first.digests() == second.digests()
        expected = START + 0.7 * 1.9 * (drift(0) * 100 + drift(1) * 200) / 300
        torch.testing.assert_close(first.anchor(), expected)


# ---- catching up


@pytest.mark.parametrize("has_snapshot", [True, False], ids=["ready", "between two departures"])
async def test_who_is_far_behind_takes_over_the_state_and_keeps_its_work(
    tmp_path: Path, has_snapshot: bool
) -> None:
    manifest = manifest_of()
    network = MemoryNetwork()
    ahead, behind = (Node(peer_id, manifest, tmp_path) for peer_id in IDS[:2])
    state = {"momentum": drift(7)}
    ahead.mixing.load_state(0, START + 5, state, {}, 3)
    async with contextlib.AsyncExitStack() as stack:
        for node in (ahead, behind):
            await node.start(network)
            stack.push_async_callback(node.close)
        introduce([ahead, behind])
        behind.trainer.train(drift(1))
        if has_snapshot:
            behind.trainer.depart()
            behind.trainer.train(drift(2))
        else:
            ahead.trainer.train(1.0)
            ahead.trainer.depart()
        (caught_up,) = await behind.events.until("caught_up")
        assert (caught_up["round"], caught_up["src"]) == (3, ahead.peer_id)
        assert behind.digests() == ahead.digests()
        assert torch.equal(behind.mixing.outer[0].copy.state["momentum"], drift(7))
        work = drift(1) + drift(2) if has_snapshot else drift(1)
        torch.testing.assert_close(behind.trainer.theta, START + 5 + work)
        land = next(line for line in behind.trainer.received if isinstance(line, lines.Land))
        assert land.tokens == 0
        assert not land.is_planned
        assert behind.status.contributions == 0
        assert behind.status.round == 3
        # And its work goes out with the next round.
        for node in (ahead, behind):
            node.trainer.depart()
        for node in (ahead, behind):
            (landed,) = await node.events.until("landed")
            assert (landed["round"], landed["contributed"]) == (4, True)
        assert behind.digests() == ahead.digests()


async def test_who_missed_one_round_replays_it_and_keeps_its_work(tmp_path: Path) -> None:
    async with nodes(manifest_of(), tmp_path, 3) as members:
        *pair, late = members
        introduce(members)
        for node in pair:
            node.trainer.train(1.0)
            node.trainer.depart()
        for node in pair:
            await node.events.until("landed")
        late.trainer.train(drift(1))
        late.trainer.depart()
        (landed,) = await late.events.until("landed")
        assert (landed["round"], landed["contributed"]) == (1, False)
        assert len({tuple(node.digests()) for node in members}) == 1
        torch.testing.assert_close(late.trainer.theta, late.anchor() + drift(1))
        assert late.status.contributions == 0


async def test_who_comes_when_the_averages_are_gone_takes_the_state_and_keeps_its_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protocol.gathering.MAX_VAIN_TRIES", 1)  # for the sake of time
    async with nodes(manifest_of(fragments=2), tmp_path, 3) as members:
        *pair, late = members
        introduce(pair)
        for fragment in (0, 1):
            for node in pair:
                node.trainer.train(1.0)
                node.trainer.depart(fragment)
            for node in pair:
                await node.events.until("landed", fragment + 1)
        for node in pair:
            (gone,) = [key for key in node.mixing._benches if key[0] == 0]
            node.mixing.drop(*gone)
        introduce(members)
        late.trainer.train(drift(1))
        late.trainer.depart(0)
        (caught_up,) = await late.events.until("caught_up")
        assert (caught_up["fragment"], caught_up["round"]) == (0, 1)
        assert late.events.of("replay_begins")
        late.trainer.depart(1)  # the averages of this one are still there
        (landed,) = await late.events.until("landed")
        assert (landed["fragment"], landed["contributed"]) == (1, False)
        assert len({tuple(node.digests()) for node in members}) == 1
        torch.testing.assert_close(late.trainer.theta, late.anchor() + drift(1))


class Giver:
    """Says that it has one state, and gives another one."""

    def __init__(self, says: torch.Tensor, gives: torch.Tensor) -> None:
        self.wire: MemoryWire | None = None
        self.served: list[str] = []
        blocks = StateSource([says], 7).blocks()
        self.index = StateIndex(7, b"d" * 32, EMPTY.landed(7, b"d" * 32, 10), blocks)
        self._gives = StateSource([gives], 7)

    def on_note(self, src: PeerId, note: Note) -> None:
        """Nobody is answered."""

    async def blob(self, src: PeerId, ref: BlobRef) -> Source:
        self.served.append(ref.kind)
        return BytesSource(self.index.to_bytes(), 7) if ref.kind == "index" else self._gives


class Dawdler(Giver):
    """Says what it has, and gives it when it is told to."""

    def __init__(self, has: torch.Tensor) -> None:
        super().__init__(has, has)
        self.may_give = asyncio.Event()

    async def blob(self, src: PeerId, ref: BlobRef) -> Source:
        if ref.kind == "state":
            await self.may_give.wait()
        return await super().blob(src, ref)


async def test_catching_up_has_an_end_and_the_next_attempt_goes_on(tmp_path: Path) -> None:
    network, manifest = MemoryNetwork(), manifest_of()
    round = manifest.round.model_copy(update={"exchange_s": 0.3})
    short = manifest.model_copy(update={"round": round})
    async with nodes(short, tmp_path, 1, network) as (node,):
        donor = Dawdler(RIGHT)
        donor.wire = MemoryWire(network, IDS[2], wire_config(short), inbox=donor)
        introduce([node], IDS[2])
        before = node.mixing.outer[0]
        (machine,) = node.driver._machines
        await donor.wire.send(node.peer_id, Committed(0, 1, b"d" * 32))
        (failed, *_) = await node.events.until("catching_up_failed")
        assert (failed["src"], failed["reason"]) == (IDS[2], "took too long")
        assert node.mixing.outer[0] is before
        assert not machine.is_using_snapshot  # nothing is held up by it
        donor.may_give.set()
        other = Giver(RIGHT, RIGHT)
        other.wire = MemoryWire(network, IDS[3], wire_config(short), inbox=other)
        introduce([node], IDS[2], IDS[3])
        await other.wire.send(node.peer_id, Committed(0, 1, b"d" * 32))
        (caught_up,) = await node.events.until("caught_up")
        assert (caught_up["round"], caught_up["src"]) == (7, IDS[3])
        assert torch.equal(node.anchor(), RIGHT[:NUM_ELEMENTS])


RIGHT, WRONG = torch.ones(2 * NUM_ELEMENTS), torch.zeros(2 * NUM_ELEMENTS)
NO_NUMBERS = torch.full((2 * NUM_ELEMENTS,), torch.nan)


@pytest.mark.parametrize(
    ("says", "gives", "is_named"),
    [(RIGHT, WRONG, True), (RIGHT, RIGHT[1:], True), (NO_NUMBERS, NO_NUMBERS, False)],
    ids=["another state", "a shorter one", "no numbers"],
)
async def test_a_state_that_is_not_what_it_should_be_is_not_taken(
    tmp_path: Path, says: torch.Tensor, gives: torch.Tensor, is_named: bool
) -> None:
    network, manifest = MemoryNetwork(), manifest_of()
    async with nodes(manifest, tmp_path, 1, network) as (node,):
        donor = Giver(says, gives)
        donor.wire = MemoryWire(network, IDS[2], wire_config(manifest), inbox=donor)
        introduce([node], IDS[2])
        before = node.mixing.outer[0]
        await donor.wire.send(node.peer_id, Committed(0, 7, b"d" * 32))
        (failed, *_) = await node.events.until("catching_up_failed")
        assert failed["src"] == IDS[2]
        assert set(donor.served) == {"index", "state"}
        dropped = [seen["src"] for seen in node.events.of("donor_dropped")]
        assert dropped == ([IDS[2]] if is_named else [])
        assert node.mixing.outer[0] is before
        assert lines.Land not in node.trainer.kinds()
        # And an honest state is taken all the same, once there is one.
        honest = Giver(RIGHT, RIGHT)
        honest.wire = MemoryWire(network, IDS[3], wire_config(manifest), inbox=honest)
        introduce([node], IDS[2], IDS[3])
        await honest.wire.send(node.peer_id, Committed(0, 7, b"d" * 32))
        (caught_up,) = await node.events.until("caught_up")
        assert (caught_up["round"], caught_up["src"]) == (7, IDS[3])
        assert torch.equal(node.anchor(), RIGHT[:NUM_ELEMENTS])


@pytest.mark.parametrize("more", [0, -1, 1, -4, 4], ids=str)
async def test_catching_up_with_garbage_leaves_us_where_we_are(tmp_path: Path, more: int) -> None:
    network, manifest = MemoryNetwork(), manifest_of()
    async with nodes(manifest, tmp_path, 1, network) as (node,):
        right_size = index_bytes(4 * 2 * NUM_ELEMENTS)  # but no index
        hostile = Hostile(node.mixing, right_size + more)
        hostile.wire = MemoryWire(network, IDS[2], wire_config(manifest), inbox=hostile)
        introduce([node], IDS[2])
        before = node.digests()
        await hostile.wire.send(node.peer_id, Committed(0, 7, bytes(32)))
        (failed, *_) = await node.events.until("catching_up_failed")
        assert failed["src"] == IDS[2]
        assert node.digests() == before
        assert node.mixing.outer[0].round == 0
        assert lines.Land not in node.trainer.kinds()


# ---- what nobody foresaw, and the end


async def test_an_unforeseen_exception_in_a_task_surfaces(tmp_path: Path) -> None:
    async with nodes(manifest_of(), tmp_path) as (node,):

        def fail(effect: object) -> None:
            raise ZeroDivisionError("nobody foresaw this")

        node.mixing.land = fail  # type: ignore[assignment, method-assign]
        node.trainer.train(1.0)
        node.trainer.depart()
        with pytest.raises(ZeroDivisionError, match="foresaw"):
            await asyncio.wait_for(node.driver.wait(), PATIENCE_S)


async def test_an_unforeseen_exception_in_a_timer_surfaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(manifest_of(), tmp_path) as (node,):
        introduce([node], IDS[3])
        fired = []

        def fail(self: GroupExchange, *, now_s: float) -> None:
            fired.append(now_s)
            raise ZeroDivisionError("nobody foresaw this")

        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        monkeypatch.setattr(GroupExchange, "on_timer", fail)
        monkeypatch.setattr(GroupExchange, "next_deadline_s", lambda self: 0.0)
        node.driver.on_note(IDS[3], Ready(0, 0, 0, digest_of(START + 1)))
        async with asyncio.timeout(PATIENCE_S):
            while not fired:
                await settle()
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(node.driver.wait(), 0.2)


async def test_closing_in_the_middle_of_everything_leaves_nothing_behind(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    async with nodes(manifest_of(), tmp_path, 3) as members:
        introduce(members, IDS[3])  # somebody who never comes: notes are lost, timers are armed
        for node in members:
            node.trainer.held = {lines.Land}
            node.trainer.train(1.0)
            node.trainer.depart()
        for node in members:
            await node.trainer.next(lines.Land)
            waiting = asyncio.create_task(node.driver.wait())
            await settle()
            await node.driver.close()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            node.driver.on_members(())
            node.driver.on_note(IDS[3], Ready(0, 0, 1, bytes(32)))
            node.driver.on_departed(lines.Departed(fragment=0, step=9, tokens=9))
            with pytest.raises(NotAvailable):
                await node.driver.blob(IDS[3], BlobRef("state"))
            assert not node.events.of("landed")
    assert asyncio.all_tasks() == before
