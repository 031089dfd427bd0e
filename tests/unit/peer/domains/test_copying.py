"""Peers that keep each other's domains, over wires in memory and under a virtual clock."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest

from peer.blobs import BytesSource
from peer.domains import kept
from peer.domains.copying import Copying
from peer.domains.desk import Desk
from peer.domains.kept import DomainState, FragmentState, KeptStates
from peer.net.config import WireConfig
from peer.net.wire_memory import MemoryNetwork, MemoryWire
from peer.ports import Directory, Source
from peer.presence import Presence
from peer.sim.clock import VirtualClock
from peer.sim.loop import VirtualLoop
from peer.waits import Waits
from protocol.card import MAX_COUNT, Card, Kept
from protocol.domains import domain_manifest
from protocol.errors import ConfigError, NotAvailable
from protocol.identity import Identity, PeerId
from protocol.machine import BlobRef
from protocol.messages import Note
from protocol.placement import keepers
from protocol.standings import standings
from tests.unit.peer.domains.small_run import (
    COPY_EVERY_S,
    INTERVAL_STEPS,
    RUN,
    TOTAL_STEPS,
    bits_of,
    final_state,
    state_at,
)

IDS = [Identity(bytes([n]) * 32).peer_id for n in range(1, 20)]
HOUR_S = 3600.0
HERE = ("10.0.0.1:4000",)


@dataclass
class Trained:
    """Stands for a driver: it gives the state of its domain of now."""

    folder: Path
    domain: str
    states: KeptStates = field(init=False)

    def __post_init__(self) -> None:
        self.states = KeptStates(self.folder, RUN)

    def on_note(self, src: PeerId, note: Note) -> None:
        raise AssertionError("nobody says anything here")

    async def blob(self, src: PeerId, ref: BlobRef) -> Source:
        return await self.states.blob(replace(ref, domain=self.domain))


class Node:
    """One peer: what it keeps, where it trains, and what its card says."""

    def __init__(self, town: "Town", number: int, domain: str) -> None:
        self.id, self.domain, self.town = IDS[number], domain, town
        self.role, self.state = "peer", cast("DomainState | None", None)
        self.boast: Callable[[Card], Card] = lambda card: card
        folder = town.folder / str(number)
        folder.mkdir()
        self.kept = KeptStates(folder, RUN)
        self.trained = Trained(folder / "trained", domain) if domain else None
        self.presence = Presence(cast("Directory", Silence()), self.id)
        self.presence.domain = domain
        self.events: list[dict[str, Any]] = []
        schedule = domain_manifest(RUN, domain or "law").method.schedule
        config = WireConfig(
            run_id=RUN.run_id,
            domain=domain,
            progress_s=2.0,
            num_fragments=schedule.fragments,
        )
        desk = Desk(domain, self.trained, self.kept)
        self.wire = MemoryWire(town.network, self.id, config, inbox=desk)
        self.copying = Copying(
            *(RUN, self.kept, self.presence, self.wire),
            events=self,
            waits=Waits(town.loop.time),
            our_card=self.card,
        )

    def write(self, event: str, **fields: Any) -> None:
        self.events.append({"at_s": self.town.loop.time(), "event": event, **fields})

    def card(self) -> Card:
        step, round = (self.state.step, self.state.round) if self.state else (0, 0)
        card = Card(wire_addresses=HERE, domain=self.domain, role=self.role, step=step, round=round)
        return self.boast(replace(card, kept=self.kept.cards()))

    def train(self, step: int, draw: int = 0) -> None:
        """Is at this step from now on."""
        assert self.trained is not None
        self.state = state_at(self.domain, step, draw=draw)
        if not self.trained.folder.exists():
            self.trained.folder.mkdir()
        self.town.do(self.trained.states.keep(self.domain, self.state))

    def keep(self, domain: str, state: DomainState) -> None:
        self.town.do(self.kept.keep(domain, state))

    def copies(self, **fields: Any) -> list[dict[str, Any]]:
        """What it copied, as its events tell."""
        of_all = [event for event in self.events if event["event"] == "domain_copied"]
        return [event for event in of_all if event.items() >= fields.items()]


class Silence:
    """A directory of which nothing is wanted."""

    on_reunion: Callable[[], None]


class Town:
    """Peers who see each other's cards every second."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loop = VirtualLoop(VirtualClock())  # type: ignore[abstract]
        self.network = MemoryNetwork()
        self.nodes: dict[str, Node] = {}
        self.tasks: list[asyncio.Task[None]] = []
        self.strangers: dict[PeerId, Card] = {}
        self.do(self._noop())

    async def _noop(self) -> None:
        """Does nothing."""

    def do(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def add(self, name: str, domain: str = "", *, is_copying: bool = False) -> Node:
        node = self.nodes[name] = Node(self, len(self.nodes), domain)
        if is_copying:
            self.tasks.append(self.loop.create_task(node.copying.run()))
        return node

    def go(self, seconds: float, every_s: float = 1.0) -> None:
        """Lets time pass."""
        until_s = self.loop.time() + seconds
        while self.loop.time() < until_s:
            self.look()
            self.loop.run_until(self.loop.time() + every_s)
        for task in self.tasks:
            assert not task.done(), task

    def look(self) -> None:
        cards = {node.id: node.card() for node in self.nodes.values()} | self.strangers
        for node in self.nodes.values():
            node.presence.cards = {p: card for p, card in cards.items() if p != node.id}

    def vanish(self, name: str) -> None:
        self.do(self.nodes.pop(name).wire.close())


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    made = Town(tmp_path)
    yield made
    made.loop.close()
    assert not made.loop.problems


def test_a_domain_of_few_is_copied_by_those_who_are_drawn(town: Town) -> None:
    town.add("alone", "law").train(100)
    crowd = [town.add(f"m{n}", "math", is_copying=True) for n in range(4)]
    crowd.append(town.add("idle", is_copying=True))
    town.go(10)
    cards = {node.id: node.card() for node in town.nodes.values()}
    law = next(each for each in standings(RUN, cards) if each.domain == "law")
    drawn = keepers(law, RUN, cards)
    assert len(drawn) == 2
    assert {node.id for node in crowd if node.kept.step("law")} == set(drawn)
    for node in crowd:
        if node.id in drawn:
            copy = town.do(node.kept.load("law"))
            assert bits_of(copy) == bits_of(state_at("law", 100))
    assert not any(node.kept.step("math") for node in crowd), "they train that themselves"


def test_copies_are_renewed_no_more_often_than_the_run_says(town: Town) -> None:
    alone = town.add("alone", "law")
    keeper = town.add("keeper", "math", is_copying=True)
    for step in range(20, 300, 10):
        alone.train(step)
        town.go(5)
    times = [event["at_s"] for event in keeper.copies(of="law")]
    assert len(times) >= 4
    assert all(b - a >= COPY_EVERY_S for a, b in pairwise(times))
    steps = [event["step"] for event in keeper.copies(of="law")]
    assert steps == sorted(set(steps))
    assert keeper.kept.step("law") >= 290 - 2 * COPY_EVERY_S
    num_copies = len(times)
    town.go(4 * COPY_EVERY_S)  # nothing new
    assert len(keeper.copies()) <= num_copies + 1


def test_a_domain_of_many_is_copied_when_it_is_done_and_then_once(town: Town) -> None:
    many = [town.add(f"l{n}", "law", is_copying=True) for n in range(3)]
    others = [town.add(f"m{n}", "math", is_copying=True) for n in range(4)]
    for node in many:
        node.train(200)
    town.go(2 * COPY_EVERY_S)
    assert not any(node.kept.cards() for node in town.nodes.values())
    many[0].keep("law", final_state("law"))
    town.go(3 * COPY_EVERY_S)
    copies = [node.copies(of="law", is_final=True) for node in others]
    assert sorted(map(len, copies)) == [0, 0, 1, 1]
    assert [len(node.copies()) for node in many] == [0, 1, 1], "who trained it wants to see it"


def test_who_has_nothing_to_train_fetches_every_expert_that_is_done(town: Town) -> None:
    holder, reader = town.add("holder"), town.add("reader", is_copying=True)
    others = [town.add(f"m{n}", "math") for n in range(6)]
    holder.keep("seed", final_state("seed"))
    for domain in ("law", "wiki"):
        holder.keep(domain, final_state(domain))
    others[0].train(100)
    reader.copying.wants_all = True
    town.go(20)
    for domain in ("law", "wiki"):
        copy = town.do(reader.kept.load(domain))
        assert bits_of(copy) == bits_of(final_state(domain))
        assert len(reader.copies(of=domain)) == 1


class Lying:
    """Answers as the node would, but for one kind of blob."""

    def __init__(self, node: Node, kind: str, lie: Callable[[bytes], bytes | None]) -> None:
        assert node.trained is not None
        self.honest, self.kind, self.lie = node.trained, kind, lie

    def on_note(self, src: PeerId, note: Note) -> None:
        raise AssertionError

    async def blob(self, src: PeerId, ref: BlobRef) -> Source:
        source = await self.honest.blob(src, ref)
        if ref.kind != self.kind:
            return source
        told = self.lie(await source.read(0, source.size_bytes))
        if told is None:
            raise NotAvailable("no")
        return BytesSource(told, round=1)


LIES: dict[str, tuple[str, Callable[[bytes], bytes | None]]] = {
    "no index": ("index", lambda data: None),
    "an index of garbage": ("index", lambda data: b"\xff" * len(data)),
    "an index too short": ("index", lambda data: data[:-1]),
    "no state": ("state", lambda data: None),
    "another state": ("state", lambda data: bytes(len(data))),
    "half a state": ("state", lambda data: data[: len(data) // 2]),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_donor_that_lies_gives_nothing_and_ends_nothing(lie: str, town: Town) -> None:
    liar = town.add("liar", "law")
    liar.train(100)
    keeper = town.add("keeper", "math", is_copying=True)
    serving = liar.wire._serving
    serving._inbox = Desk("law", Lying(liar, *LIES[lie]), liar.kept)
    town.go(COPY_EVERY_S / 2)
    assert keeper.kept.cards() == ()
    honest = town.add("honest", "law")
    honest.train(120)
    town.go(3 * COPY_EVERY_S)
    fragments = bits_of(town.do(keeper.kept.load("law")))[2]
    assert fragments == bits_of(state_at("law", 120))[2]


def test_a_state_that_is_not_finite_is_not_kept(town: Town) -> None:
    sick = town.add("sick", "law")
    sick.train(100)
    assert sick.trained is not None
    state = state_at("law", 120)
    (first,) = state.fragments
    first.vectors[1][3] = float("nan")
    town.do(sick.trained.states.keep("law", state))
    sick.state = state
    keeper = town.add("keeper", "math", is_copying=True)
    town.go(2 * COPY_EVERY_S)
    assert keeper.kept.cards() == ()
    sick.train(140)
    town.go(2 * COPY_EVERY_S)
    assert keeper.kept.step("law") == 140


def test_a_donor_that_vanishes_ends_nothing_and_the_next_one_is_asked(town: Town) -> None:
    alone = town.add("alone", "law")
    alone.train(100)
    keeper = town.add("keeper", "math", is_copying=True)
    town.do(alone.wire.close())  # its card is still there
    town.go(2 * COPY_EVERY_S)
    assert keeper.kept.cards() == ()
    town.add("next", "law").train(60)
    town.go(3 * COPY_EVERY_S)
    assert bits_of(town.do(keeper.kept.load("law"))) == bits_of(state_at("law", 60))


STRANGE = [
    Kept("cooking", 3, 200, is_final=True),
    Kept("", 0, 0, is_final=True),
    Kept("law", MAX_COUNT - 1, MAX_COUNT - 1, is_final=False),
    Kept("law", 1, 20, is_final=False),
    Kept("law", 0, 0, is_final=True),
    Kept("wiki", 5, TOTAL_STEPS, is_final=True),
]


@pytest.mark.parametrize("role", ["peer", "holder", "coming", "bootstrap", "left"])
def test_no_card_of_a_stranger_ends_anything_or_keeps_the_honest_out(role: str, town: Town) -> None:
    town.add("alone", "law").train(100)
    others = [town.add(f"m{n}", "math", is_copying=True) for n in range(4)]
    for number, domain in enumerate(("law", "math"), 10):
        town.strangers[IDS[number]] = Card(
            wire_addresses=HERE,
            role=role,
            domain=domain,
            step=MAX_COUNT - 1,
            round=MAX_COUNT - 1,
            kept=tuple(STRANGE),
        )
    others[0].copying.wants_all = True
    town.go(2 * COPY_EVERY_S)
    copies = [node for node in others if node.kept.cards()]
    assert 1 <= len(copies) <= 2, "a stranger may be drawn, but not both"
    for node in copies:
        assert bits_of(town.do(node.kept.load("law"))) == bits_of(state_at("law", 100))


def test_no_single_donor_says_how_far_a_domain_is(town: Town) -> None:
    honest = [town.add(f"l{n}", "law") for n in range(2)]
    for node in honest:
        node.train(100)
    keeper = town.add("keeper", "math", is_copying=True)
    honest[1].boast = lambda card: replace(card, step=MAX_COUNT - 1)
    town.go(5)
    assert keeper.kept.step("law") == 100
    honest[1].boast = lambda card: card
    honest[0].boast = lambda card: replace(card, step=MAX_COUNT - 1)
    for node in honest:
        node.train(200)
    town.vanish("l1")
    town.go(2 * COPY_EVERY_S)
    assert keeper.kept.step("law") == TOTAL_STEPS, "alone it is believed, but not beyond reason"
    assert not keeper.kept.is_final("law")


def test_of_two_states_that_of_most_is_taken(town: Town) -> None:
    for number, draw in enumerate((7, 0)):
        town.add(f"l{number}", "law").train(100, draw)
    keeper = town.add("keeper", "math")
    two = town.nodes["l0"], town.nodes["l1"]
    three = town.add("l2", "wiki")  # keeps what most have
    three.keep("law", state_at("law", 100))
    town.look()
    keeper.presence.cards[three.id] = replace(three.card(), domain="law", round=5, step=100)
    assert {node.card().round for node in two} == {100 // INTERVAL_STEPS}
    law = next(s for s in standings(RUN, keeper.presence.cards) if s.domain == "law")
    assert town.do(keeper.copying.fetch(law))
    assert bits_of(town.do(keeper.kept.load("law"))) == bits_of(state_at("law", 100))


@pytest.mark.parametrize("is_final", [False, True])
def test_a_full_disk_neither_ends_the_copying_nor_makes_it_fetch_for_ever(
    is_final: bool, town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = town.add("alone", "" if is_final else "law")
    if is_final:
        alone.keep("law", final_state("law"))
    else:
        alone.train(100)
    keeper = town.add("keeper", "math", is_copying=True)

    class FullDisk:
        def __init__(self, *_: object) -> None:
            raise ConfigError("cannot write: No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(kept, "TensorFile", FullDisk)
        town.go(10 * COPY_EVERY_S)
        fetches = [event for event in keeper.events if event["event"] == "state_fetched"]
        assert 3 <= len(fetches) <= 20
    assert keeper.kept.cards() == ()
    town.go(2 * COPY_EVERY_S)
    assert keeper.kept.step("law") == (TOTAL_STEPS if is_final else 100)


def test_an_hour_without_donors_ends_nothing(town: Town) -> None:
    keeper = town.add("keeper", "math", is_copying=True)
    keeper.copying.wants_all = True
    town.strangers[IDS[9]] = Card(
        wire_addresses=HERE, kept=(Kept("law", 15, TOTAL_STEPS, is_final=True),)
    )
    town.go(HOUR_S, every_s=600.0)
    assert keeper.kept.cards() == ()


@pytest.mark.parametrize("is_reached", [False, True])
def test_who_cannot_be_called_at_all_yet_is_not_asked(is_reached: bool, town: Town) -> None:
    """Its wire is not open yet; but who can be called through others is as good as any."""
    holder, reader = town.add("holder"), town.add("reader", "math", is_copying=True)
    holder.keep("law", final_state("law"))
    relays = (IDS[9],) if is_reached else ()
    holder.boast = lambda card: replace(card, role="coming", wire_addresses=(), relays=relays)
    town.go(30.0)
    assert reader.kept.is_final("law") == is_reached
    if not is_reached:
        assert reader.events == []
        holder.boast = lambda card: card
        town.go(COPY_EVERY_S + 2.0)
        assert reader.kept.is_final("law")


def test_what_nobody_asks_for_is_let_go_of(town: Town) -> None:
    keeper = town.add("keeper", is_copying=True)
    keeper.keep("law", final_state("law"))
    town.do(keeper.kept.blob(BlobRef("index", domain="law")))
    assert keeper.kept._served
    town.go(200)
    assert not keeper.kept._served


def test_fragments_of_different_rounds_make_a_state_of_the_lowest(town: Town) -> None:
    alone = town.add("alone", "math")
    alone.train(160)
    late, early = state_at("math", 200), state_at("math", 160)
    fragments: list[FragmentState] = [early.fragments[0], *late.fragments[1:]]
    mixed = DomainState(210, False, fragments)
    assert alone.trained is not None
    town.do(alone.trained.states.keep("math", mixed))
    keeper = town.add("keeper", "law", is_copying=True)
    town.go(5)
    assert keeper.kept.cards()[0].round == early.round
    assert bits_of(town.do(keeper.kept.load("math")))[2] == bits_of(mixed)[2]
