"""Wider codecs behind those of the run, and a peer that is far from its partner."""

from collections.abc import Iterator

import pytest
import torch

from optim.codec.codec import Codec, codec_named
from optim.codec.distance import Distance
from optim.codec.modulo import Modulo
from optim.outer.noloco import NoLoCo
from peer.mixing import Mixing
from peer.widening import Widening
from protocol.machine import BlobRef, Fetch, Land, Offer, Reduce
from protocol.terms import Terms
from tests.unit.peer.test_mixing import (
    NUM_ELEMENTS,
    SOMEBODY,
    collect,
    frames_of,
    mixing_of,
    nothing,
    offered,
)

TOO_FAR, NEAR = Distance(1.0, 1.0), Distance(1.0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads only slow tensors of this size down."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def codecs_of(*names: str) -> list[Codec]:
    return [codec_named(name) for name in names]


@pytest.mark.parametrize("names", [("mod4",), ("bf16", "mod8", "mod4"), ("bf16", "mod8")])
def test_the_wider_codecs_are_the_cheapest_one_with_more_reach(names: tuple[str, ...]) -> None:
    widening = Widening(codecs_of(*names), 1)
    own, wider = widening.codecs[: len(names)], widening.codecs[len(names) :]
    assert [codec.name for codec in own] == [*names]
    reach = own[-1].reach if isinstance(own[-1], Modulo) else 0
    assert wider
    for codec in wider:
        assert isinstance(codec, Modulo)
        assert codec.name == names[-1]
        assert codec.frame_bytes(10_000) == own[-1].frame_bytes(10_000)
        assert codec.reach > reach
        reach = codec.reach


@pytest.mark.parametrize("names", [("fp32",), ("fp32", "bf16")])
def test_codecs_that_decode_anywhere_have_none(names: tuple[str, ...]) -> None:
    widening = Widening(codecs_of(*names), 1)
    assert [codec.name for codec in widening.codecs] == [*names]
    widening.on_landed(0, len(names) - 1, Distance())
    assert [widening.wanted(0, of_link) for of_link in range(len(names))] == [*range(len(names))]


def test_whoever_is_far_wants_a_wider_one_for_that_fragment_until_it_is_near() -> None:
    widening = Widening(codecs_of("bf16", "mod8", "mod4"), 2)
    assert [widening.wanted(0, of_link) for of_link in range(3)] == [0, 1, 2]
    widening.on_landed(0, 1, TOO_FAR)  # in mod8: the link would carry it
    assert widening.heard(0) is TOO_FAR
    assert {widening.wanted(0, of_link) for of_link in range(3)} == {3}
    widening.on_landed(0, 3, TOO_FAR)
    assert widening.wanted(0, 0) == 4
    assert widening.wanted(1, 1) == 1
    for then in (3, 0, 0):
        widening.on_landed(0, widening.wanted(0, 0), NEAR)
        assert widening.wanted(0, 0) == then


def test_none_is_wider_than_the_widest() -> None:
    widening = Widening(codecs_of("mod4"), 1)
    for _ in range(20):
        widening.on_landed(0, widening.wanted(0, 0), TOO_FAR)
    assert widening.wanted(0, 0) == len(widening.codecs) - 1


def meet(members: list[Mixing], thetas: list[torch.Tensor], number: int) -> None:
    """Let two members exchange, in the codec that they agree on, and land."""
    codec = max(member.widening.wanted(0, 0) for member in members)
    id, terms = bytes([number]) * 16, Terms(codec=codec)
    ref = BlobRef("part", 0, id)
    for member, theta in zip(members, thetas, strict=True):
        offered(member, Offer(0, number, id, terms, (SOMEBODY,)), theta)
    for member, partner in (members, members[::-1]):
        collect(member, Fetch(SOMEBODY, ref, terms, 100), frames_of(partner, ref))
    for member, theta in zip(members, thetas, strict=True):
        member.reduce(Reduce(BlobRef("average", 0, id), 100, is_shared=False), nothing)
        member.land(Land(0, number, id, terms))
        theta.copy_(member.outer[0].anchor)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_pair_that_is_far_apart_first_keeps_its_own_and_then_comes_together(bits: int) -> None:
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(NUM_ELEMENTS, generator=generator) for _ in range(2)]
    codec = Modulo(bits, block=8)
    members = [mixing_of(rule=NoLoCo(), codec=codec, anchor=start) for start in starts]
    thetas = [start + 0.003 for start in starts]
    apart = float((thetas[0] - thetas[1]).norm())
    meet(members, thetas, 0)
    assert all(member.widening.heard(0).is_noticeable for member in members)
    for theta, start in zip(thetas, starts, strict=True):
        assert (theta - start).abs().max() < 0.02  # its own step, and nobody else's
    for number in range(1, 16):
        for theta in thetas:
            theta += 0.003
        meet(members, thetas, number)
    assert float((thetas[0] - thetas[1]).norm()) < 0.05 * apart
