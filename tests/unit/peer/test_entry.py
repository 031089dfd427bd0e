"""Whom a newcomer asks for the run's state."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from optim.codec.codec import codec_named
from optim.layout import layout_of
from optim.outer.copy import Outer
from optim.outer.noloco import NoLoCo
from peer.catch_up import MAX_DONORS, CatchingUp
from peer.config import PeerConfig
from peer.entry import SLACK_FRAC, fetch_state, find_run
from peer.mixing import Mixing
from peer.ports import Sink
from peer.presence import Presence
from peer.run_folder import Run
from peer.signs import Signs
from peer.sim.clock import VirtualClock
from peer.sim.loop import VirtualLoop
from protocol.card import MAX_COUNT, Card
from protocol.errors import ConfigError, RunMismatch, ThinwireError, TransportError
from protocol.identity import Identity, PeerId
from protocol.machine import BlobRef
from protocol.manifest import Manifest, manifest_from, sign_manifest
from protocol.messages import Note
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

    def holders(self) -> tuple[PeerId, ...]:
        return ()

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
    async def fetched(*_: object) -> list[int]:
        return []

    steps = {peer: 1000 + number for number, peer in enumerate(ROUNDS)} | {liar: MAX_COUNT - 1}
    directory = Directory()
    cards = {peer: Card(wire_addresses=(), round=FAR, step=steps[peer]) for peer in ROUNDS}
    monkeypatch.setattr(directory, "cards", cards)
    monkeypatch.setattr("peer.entry._fetch_from", fetched)
    mixing, presence = cast("Mixing", Outers()), cast("Presence", directory)
    donor, step = await fetch_state(
        mixing, cast("CatchingUp", None), presence, manifest_of("all"), wait_s=0.0
    )
    assert donor in ROUNDS
    assert 1000 <= step < 1000 + len(ROUNDS)


class Outers:
    """Stands for a mixing of one fragment."""

    outer = (None,)


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
