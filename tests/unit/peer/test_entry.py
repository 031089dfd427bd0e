"""Whom a newcomer asks for the run's state."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import torch

from optim.codec.codec import codec_named
from optim.layout import layout_of
from optim.outer.copy import Outer
from optim.outer.noloco import NoLoCo
from peer.catch_up import MAX_DONORS, CatchingUp
from peer.entry import SLACK_FRAC, fetch_state
from peer.mixing import Mixing
from peer.ports import Sink
from peer.presence import Presence
from peer.signs import Signs
from protocol.card import Card
from protocol.errors import TransportError
from protocol.identity import PeerId, peer_id_of
from protocol.machine import BlobRef
from protocol.manifest import Manifest, manifest_from
from protocol.messages import Note

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
    return manifest_from(
        {"founder": peer_id_of(bytes(32)), "method": {"mixing": mixing, "outer": outer}}
    )


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


async def test_with_a_common_anchor_the_farthest_are_asked_at_once() -> None:
    asked = await asked_by_newcomer("all")
    assert asked[0] == FARTHEST
    assert len(set(asked)) == len(asked) == MAX_DONORS
    assert BEHIND not in asked
