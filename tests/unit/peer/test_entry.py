"""Whom a newcomer asks for the run's state."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from optim.codec.codec import codec_named
from optim.layout import layout_of
from optim.outer.copy import Outer
from optim.outer.noloco import NoLoCo
from peer.blobs import StateSink
from peer.catch_up import MAX_DONORS, CatchingUp, Survey
from peer.config import PeerConfig
from peer.entry import SLACK_FRAC, check_run, fetch_fragments, fetch_state, find_run
from peer.mixing import Mixing
from peer.ports import Sink
from peer.presence import Presence
from peer.run_folder import Run
from peer.signs import Signs
from peer.sim.clock import VirtualClock
from peer.sim.loop import VirtualLoop
from protocol.card import MAX_COUNT, Card
from protocol.errors import (
    ConfigError,
    MalformedMessage,
    RunMismatch,
    ThinwireError,
    TransportError,
)
from protocol.identity import Identity, PeerId
from protocol.lineage import EMPTY
from protocol.machine import BlobRef
from protocol.manifest import Manifest, manifest_from, sign_manifest
from protocol.messages import Note
from protocol.state_index import StateIndex
from protocol.ticket import Address, Ticket

FOUNDER = Identity(b"f" * 32)
FAR = 100
NEAR = [PeerId(f"near {i}") for i in range(20)]
FARTHEST, BEHIND = PeerId("farthest"), PeerId("behind")
ROUNDS = dict.fromkeys(NEAR, round(FAR * (1 - SLACK_FRAC / 2))) | {FARTHEST: FAR, BEHIND: FAR // 2}


class Directory:
    """Knows peers at these rounds."""

    our_id = PeerId("we")
    cards = {peer: Card(wire_addresses=(), round=at) for peer, at in ROUNDS.items()}  # noqa: RUF012

    def members(self) -> tuple[PeerId, ...]:
        return tuple(self.cards)

    def progress(self) -> tuple[dict[PeerId, int], dict[PeerId, int]]:
        cards = self.cards.items()
        return {peer: card.round for peer, card in cards}, {p: card.step for p, card in cards}

    async def refresh_quietly(self) -> None:
        await asyncio.sleep(0)


@dataclass
class NobodyAnswers:
    """Notes who is asked, in order."""

    asked: list[PeerId] = field(default_factory=list)
    up_bps = 0.0
    signs = Signs()

    async def send(self, dst: PeerId, note: Note) -> None:
        raise AssertionError("a newcomer says nothing yet")

    async def fetch(self, src: PeerId, ref: BlobRef, sink: Sink) -> None:
        self.asked.append(src)
        raise TransportError("out of reach")

    def write(self, event: str, **fields: object) -> None:
        assert event == "donor_dropped"

    async def ping(self, dst: PeerId, *, wait_s: float) -> None:
        raise AssertionError("nobody is waited for")

    async def close(self) -> None:
        raise AssertionError


def manifest_of(mixing: str) -> Manifest:
    outer = {"rule": "noloco"} if mixing != "all" else {"rule": "nesterov"}
    return manifest_from({"founder": FOUNDER.peer_id, "method": {"mixing": mixing, "outer": outer}})


async def asked_by_newcomer(mixing: str) -> list[PeerId]:
    layout = layout_of({"b.0": (8,)}, num_fragments=1)
    ours = Mixing(
        *(layout, Outer(NoLoCo()), (codec_named("fp32"),), torch.zeros(8)),
        our_id=PeerId("we"),
        is_common=mixing == "all",
    )
    wire = NobodyAnswers()
    presence = cast("Presence", Directory())
    catching_up = CatchingUp(ours, wire, progress_s=1.0, events=cast("Any", wire))
    outcome = await fetch_state(ours, catching_up, presence, manifest_of(mixing), wait_s=0.0)
    assert outcome == (None, 0)
    return wire.asked


@pytest.mark.parametrize("mixing", ["pairs", "groups"])
async def test_without_a_common_anchor_all_who_are_about_as_far_are_as_good(mixing: str) -> None:
    asked = await asked_by_newcomer(mixing)
    assert sorted(asked) == sorted(ROUNDS)
    assert asked[-1] == BEHIND
    assert asked[0] != FARTHEST  # one of 21, as drawn for us


@pytest.mark.parametrize("liar", [FARTHEST, NEAR[0]])
async def test_no_single_donor_says_at_which_step_the_run_is(
    liar: PeerId, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fetched(*_: object, **__: object) -> list[int]:
        return []

    steps = {peer: 1000 + number for number, peer in enumerate(ROUNDS)} | {liar: MAX_COUNT - 1}
    directory = Directory()
    cards = {peer: Card(wire_addresses=(), round=FAR, step=steps[peer]) for peer in ROUNDS}
    monkeypatch.setattr(directory, "cards", cards)
    monkeypatch.setattr("peer.entry.fetch_fragments", fetched)
    mixing, presence = cast("Mixing", Outers()), cast("Presence", directory)
    donor, step = await fetch_state(
        mixing, cast("CatchingUp", None), presence, manifest_of("all"), wait_s=0.0
    )
    assert donor in ROUNDS
    assert 1000 <= step < 1000 + len(ROUNDS)


class Outers:
    """Stands for a mixing of one fragment."""

    outer = (None,)
    is_common = True

    def round_of(self, fragment: int) -> int:
        return 0


RUN = manifest_of("all")


@dataclass
class Doorway:
    """Peers that answer a stranger in their own ways."""

    answers: dict[PeerId, ThinwireError | None]
    asked: list[PeerId] = field(default_factory=list)
    takes_s: float = 0.0

    @property
    def cards(self) -> dict[PeerId, Card]:
        return {peer: Card(wire_addresses=()) for peer in self.answers}

    async def refresh_quietly(self) -> None:
        await asyncio.sleep(0)

    async def fetch_manifest(self, identity: Identity, peer: PeerId, *_: Any, **__: Any) -> Any:
        self.asked.append(peer)
        await asyncio.sleep(self.takes_s)
        if error := self.answers[peer]:
            raise error
        return RUN.to_bytes(), sign_manifest(RUN, FOUNDER)

    async def find(self, monkeypatch: pytest.MonkeyPatch, wait_s: float = 5.0) -> Run:
        monkeypatch.setattr("peer.entry.fetch_manifest", self.fetch_manifest)
        ticket = Ticket(RUN.run_id, FOUNDER.peer_id, (Address("10.0.0.1", 1, FOUNDER.peer_id),))
        config = PeerConfig(ticket=ticket, directory=Path("mine"), wait_s=wait_s)
        return await find_run(FOUNDER, config, cast("Presence", self))


async def test_one_peer_that_refuses_us_does_not_keep_us_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = {peer: RunMismatch("another run") for peer in NEAR[:7]}
    for _ in range(5):
        run = await Doorway({**refused, NEAR[8]: None}).find(monkeypatch)
        assert run.manifest == RUN


async def test_who_is_refused_by_all_is_told_why_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Doorway({peer: RunMismatch("you need an invitation") for peer in NEAR[:7]})
    with pytest.raises(ConfigError, match=r"^you need an invitation$"):
        await door.find(monkeypatch, wait_s=1e6)
    assert sorted(door.asked) == sorted(NEAR[:7])


def test_strangers_are_asked_in_no_order_and_no_longer_than_we_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = VirtualLoop(VirtualClock())  # type: ignore[abstract]
    doors = [Doorway(dict.fromkeys(NEAR, TransportError("gone")), takes_s=4.0) for _ in range(4)]
    for door in doors:
        with pytest.raises(ConfigError, match="gone"):
            loop.run_until_complete(door.find(monkeypatch, wait_s=10.0))
        assert len(door.asked) == 3
    assert len({tuple(door.asked) for door in doors}) > 1


async def test_with_a_common_anchor_the_farthest_are_asked_at_once() -> None:
    asked = await asked_by_newcomer("all")
    assert asked[0] == FARTHEST
    assert len(set(asked)) == len(asked) == MAX_DONORS
    assert BEHIND not in asked


class Fetched:
    """Stands for catching up: each donor's answer to each fragment."""

    def __init__(self, broken: dict[int, set[PeerId]]) -> None:
        self.broken = broken
        self.asked: list[tuple[int, tuple[PeerId, ...]]] = []

    async def survey(self, fragment: int, donors: Sequence[PeerId]) -> Survey:
        self.asked.append((fragment, tuple(donors)))
        index = StateIndex(fragment, b"d" * 32, EMPTY, ())
        found = [(d, index) for d in donors if d not in self.broken.get(fragment, ())]
        if not found:
            raise TransportError("nobody could say")
        return found

    async def fetch(self, fragment: int, survey: Survey) -> StateSink:
        await asyncio.sleep(1.0)
        return StateSink([0], survey[0][1])


def fetch_all(
    broken: dict[int, set[PeerId]], *, is_common: bool, refuses: int | None = None
) -> tuple[list[int], list[int], Fetched, float]:
    """Fetches four fragments; returns what is missing, what was taken, and how long it took."""
    taken: list[int] = []

    async def take(fragment: int, vectors: list[torch.Tensor], index: StateIndex) -> None:
        if fragment == refuses:
            raise MalformedMessage("not finite")
        assert index.round == fragment
        taken.append(fragment)

    async def fetch() -> list[int]:
        return await fetch_fragments(
            NEAR[:3], range(4), cast("CatchingUp", fetched), take, is_common=is_common
        )

    fetched, loop = Fetched(broken), VirtualLoop(VirtualClock())  # type: ignore[abstract]
    missing = loop.run_until_complete(fetch())
    return missing, sorted(taken), fetched, loop.time()


def test_where_anchors_are_common_all_donors_give_one_fragment_after_the_other() -> None:
    missing, taken, fetched, took_s = fetch_all({1: {NEAR[0]}, 2: set(NEAR)}, is_common=True)
    assert (missing, taken) == ([2], [0, 1, 3])
    assert [donors for _, donors in fetched.asked] == [tuple(NEAR[:3])] * 4
    assert took_s == pytest.approx(3.0)


def test_elsewhere_each_donor_gives_another_fragment_and_the_next_is_asked_for_what_fails() -> None:
    missing, taken, fetched, took_s = fetch_all({1: {NEAR[1]}, 2: set(NEAR)}, is_common=False)
    assert (missing, taken) == ([2], [0, 1, 3])
    asked = {f: [d for g, (d,) in fetched.asked if g == f] for f in range(4)}
    assert [asked[fragment][0] for fragment in range(4)] == [NEAR[0], NEAR[1], NEAR[2], NEAR[0]]
    assert asked[1] == [NEAR[1], NEAR[2]]
    assert sorted(asked[2]) == sorted(NEAR[:3])
    assert took_s < 3.0


@pytest.mark.parametrize("is_common", [False, True])
def test_what_is_refused_when_it_is_here_is_missing(is_common: bool) -> None:
    missing, taken, _, _ = fetch_all({}, is_common=is_common, refuses=3)
    assert (missing, taken) == ([3], [0, 1, 2])


@pytest.mark.parametrize("recipe", ["text:/home/*/*.txt", "mix:stdlib + text:/home/*/*.txt"])
def test_an_operators_files_need_consent_but_in_a_run_with_domains_only_where_it_trains(
    recipe: str,
) -> None:
    settings = {"founder": FOUNDER.peer_id, "data": {"recipe": recipe}}
    plain = manifest_from(settings)
    with_domains = manifest_from({**settings, "domains": [{"name": "law"}]})
    ticket = Ticket(RUN.run_id, FOUNDER.peer_id, ())
    config = PeerConfig(ticket=ticket, directory=Path("mine"))
    with pytest.raises(ConfigError, match=r"'/home/\*/\*\.txt'.*--allow-text") as refused:
        check_run(Run(plain, b""), config)
    assert "\n" not in str(refused.value)
    check_run(Run(plain, b""), replace(config, allow_text_recipe=True))
    check_run(Run(with_domains, b""), config)
