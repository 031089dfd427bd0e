"""Every method through `Mixing`: as in `optim.swarm`, equal on all members, and nothing lost.

Where a test compares bits with the other implementation, its numbers are chosen so that the order
of a sum does not matter: few binary digits, or two summands within a factor of two.
"""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from optim.codec.blockwise import Int4
from optim.codec.codec import Codec
from optim.codec.floats import Fp32
from optim.codec.modulo import Modulo
from optim.codec.topk import TopK
from optim.landing import rebase
from optim.layout import flatten_into, load_from
from optim.method import Method
from optim.outer.co2 import CO2
from optim.outer.copy import AHEAD, RESIDUAL, Outer
from optim.outer.eager import Eager
from optim.outer.nesterov import Nesterov
from optim.outer.noloco import NoLoCo
from optim.outer.plain import Plain
from optim.outer.rule import OuterRule, State
from optim.pairing import pairs_of
from optim.schedule import Schedule
from optim.swarm import LocalSwarm
from peer.mixing import Mixing, OuterState
from protocol.machine import BlobRef, Land
from tests.unit.peer.test_mixing import (
    ID,
    NUM_ELEMENTS,
    SHAPES,
    collect,
    discard,
    equally,
    fetch_of,
    fetch_state,
    frames_of,
    mixing_of,
    nothing,
    offer_of,
    offered,
    reduce_of,
    vectors,
)

AHEAD_RULES = pytest.mark.parametrize(
    "rule", [Eager(), CO2(), CO2(keep=0.0), CO2(gap="elementwise", clip=0.1)], ids=repr
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads only slow tensors of this size down."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Flat(nn.Module):
    """Parameters of `SHAPES`, read and written as one vector."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        for name, shape in SHAPES.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))
        self._layout = mixing_of().layout
        self.theta = start

    @property
    def theta(self) -> Tensor:
        flat = torch.empty(NUM_ELEMENTS)
        flatten_into(flat, self._layout, self)
        return flat

    @theta.setter
    def theta(self, flat: Tensor) -> None:
        load_from(flat, self._layout, self)


def local_swarm(
    start: Tensor, rule: OuterRule, codec: Codec, *, num: int, mixing: str, overlap_steps: int
) -> tuple[LocalSwarm, list[Flat]]:
    """Returns replicas in one process, which depart after each step."""
    models = [Flat(start) for _ in range(num)]
    method = Method(mixing, Schedule(1, 1, overlap_steps), codec, Outer(rule))
    return LocalSwarm(models, method), models


def id_of(round: int) -> bytes:
    return bytes([round]) * 16


def depart(members: list[Mixing], thetas: list[Tensor], round: int, num_parts: int) -> list[Tensor]:
    """All members offer; returns the live parameters then."""
    offer = offer_of(num_parts, id_of(round))
    starts = [offered(mixing, offer, theta) for mixing, theta in zip(members, thetas, strict=True)]
    return [
        theta if start is None else start.clone()
        for start, theta in zip(starts, thetas, strict=True)
    ]


def gather(members: list[Mixing], round: int) -> None:
    """What follows the offers of all members: scatter, reduce and gather."""
    id, num = id_of(round), len(members)
    for part, reducer in enumerate(members):
        for place, other in enumerate(members):
            if other is not reducer:
                fetch = fetch_of("part", part, num, 100, id, src=f"member {place}")
                collect(reducer, fetch, frames_of(other, fetch.ref))
        reducer.reduce(reduce_of(part, 100, id), nothing)
    for mixing in members:
        for part, reducer in enumerate(members):
            if reducer is not mixing:
                fetch = fetch_of("average", part, num, id=id)
                collect(mixing, fetch, frames_of(reducer, fetch.ref))


def land(members: list[Mixing], round: int) -> list[OuterState]:
    return [mixing.land(Land(0, 0, id_of(round), equally(len(members)))) for mixing in members]


def is_equal(ours: State, theirs: State) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


# ---- as in optim.swarm


def sixteenths(seed: int) -> Tensor:
    """Three rounds of sums of these, with constants of 1/2, stay exact in fp32."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-32, 33, (NUM_ELEMENTS,), generator=generator) / 16


@pytest.mark.parametrize(
    "rule",
    [Eager(lr=0.5, momentum=0.5), CO2(lr=0.5, momentum=0.5, gap="none", clip=0.25, keep=0.5)],
    ids=["eager", "co2"],
)
def test_going_ahead_over_the_wire_is_that_of_one_process_to_the_bit(rule: OuterRule) -> None:
    start = sixteenths(99)
    swarm, models = local_swarm(start, rule, Fp32(), num=2, mixing="all", overlap_steps=1)
    members = [mixing_of(rule=rule, codec=Fp32(), anchor=start) for _ in models]
    thetas = [start.clone() for _ in members]
    for round in range(4):
        for place, (theta, model) in enumerate(zip(thetas, models, strict=True)):
            theta += sixteenths(10 * round + place)
            model.theta = model.theta + sixteenths(10 * round + place)
        swarm.step()
        if round:  # the average of the last round comes when this one departs
            olds = [mixing.outer[0].copy.start for mixing in members]
            for theta, new, old in zip(thetas, land(members, round - 1), olds, strict=True):
                rebase(theta, new.copy.start, old)
        thetas = depart(members, thetas, round, num_parts=2)
        gather(members, round)
        for mixing, theta, model, copies in zip(members, thetas, models, swarm.copies, strict=True):
            ours, theirs = mixing.outer[0].copy, copies[0]
            assert torch.equal(theta, model.theta)
            assert ours.round == theirs.round == round
            assert torch.equal(ours.anchor, theirs.anchor)
            assert is_equal(ours.state, theirs.state)
            assert is_equal(ours.own, theirs.own)
    assert members[0].outer[0].digest == members[1].outer[0].digest
    assert not torch.equal(thetas[0], thetas[1])


def test_pairs_in_four_bits_are_those_of_one_process_to_the_bit() -> None:
    rule, codec = NoLoCo(), Modulo(4, block=8)
    generator = torch.Generator().manual_seed(0)
    start = 1.5 + 0.1 * torch.rand(NUM_ELEMENTS, generator=generator)
    swarm, models = local_swarm(start, rule, codec, num=4, mixing="pairs", overlap_steps=0)
    members = [mixing_of(rule=rule, codec=codec, anchor=start) for _ in models]
    thetas = [start.clone() for _ in members]
    for round in range(3):
        for theta, model in zip(thetas, models, strict=True):
            drift = 0.05 * torch.rand(NUM_ELEMENTS, generator=generator)
            theta += drift
            model.theta = model.theta + drift
        swarm.step()
        depart(members, thetas, round, num_parts=1)
        pairs = pairs_of(4, seed=0, fragment=0, round=round)
        for ours, theirs in [*pairs, *(pair[::-1] for pair in pairs)]:
            fetch = fetch_of("part", 0, 1, 100, id_of(round))
            collect(members[ours], fetch, frames_of(members[theirs], fetch.ref))
            members[ours].reduce(reduce_of(0, 100, id_of(round), is_shared=False), nothing)
        for mixing in members:
            mixing.land(Land(0, 0, id_of(round), equally(1)))
        for mixing, theta, model, copies in zip(members, thetas, models, swarm.copies, strict=True):
            theta.copy_(mixing.outer[0].anchor)
            assert torch.equal(theta, model.theta)
            assert is_equal(mixing.outer[0].copy.state, copies[0].state)
    assert len({mixing.outer[0].digest for mixing in members}) > 1


# ---- equal on all members


@pytest.mark.parametrize(
    ("rule", "codec", "feedback"),
    [
        (Nesterov(), Int4(block=8, rounding="stochastic"), None),
        (Nesterov(), Int4(block=8, rounding="stochastic"), 0.9),
        (Plain(), TopK(chunk=16, k=2), 0.95),
        (Eager(), Int4(block=8, rounding="stochastic"), 1.0),
        (CO2(), TopK(chunk=16, k=2), 0.95),
    ],
    ids=["int4 by chance", "with feedback", "sparseloco", "eager int4", "co2 topk"],
)
@pytest.mark.parametrize("num", [1, 2, 3, 5])
def test_anchors_are_equal_to_the_bit_whatever_the_method(
    rule: OuterRule, codec: Codec, feedback: float | None, num: int
) -> None:
    members = [
        mixing_of(rule=rule, codec=codec, feedback=feedback, our_id=f"peer{place}")
        for place in range(num)
    ]
    for round in range(4):
        depart(members, vectors(num, round), round, num)
        gather(members, round)
        landed = land(members, round)
        assert len({state.digest for state in landed}) == 1
        assert all(is_equal(state.copy.state, landed[0].copy.state) for state in landed)
    if num > 1 and (feedback or members[0].goes_ahead):
        assert not is_equal(members[0].outer[0].copy.own, members[1].outer[0].copy.own)


def test_a_listener_of_a_sparse_exchange_comes_to_the_same_bits() -> None:
    def member(name: str) -> Mixing:
        return mixing_of(rule=Plain(), codec=TopK(chunk=16, k=2), feedback=1.0, our_id=name)

    members, late = [member("a"), member("b"), member("c")], member("late")
    depart(members, vectors(3), 1, 3)
    gather(members, 1)
    for part in range(3):
        fetch = fetch_of("average", part, 3, id=id_of(1))
        frames = frames_of(members[1], fetch.ref)
        assert sum(map(len, frames)) == late.grains(fetch.ref, fetch.terms).size_bytes
        collect(late, fetch, frames)
    heard = late.land(Land(0, 0, id_of(1), equally(3), rebase_on_anchor=True))
    assert heard.digest == land(members, 1)[0].digest
    assert not heard.copy.own[RESIDUAL].any()  # nothing of its own was in it


def test_rounding_by_chance_depends_on_the_peer_and_on_the_exchange_alone() -> None:
    def frame(name: str, id: bytes) -> bytes:
        mixing = mixing_of(codec=Int4(block=8, rounding="stochastic"), our_id=name)
        offered(mixing, offer_of(1, id), vectors(1)[0])
        return b"".join(frames_of(mixing, BlobRef("part", fragment=0, exchange_id=id)))

    frames = [frame("a", id_of(1)), frame("b", id_of(1)), frame("a", id_of(2))]
    assert len(set(frames)) == 3
    assert frame("a", id_of(1)) == frames[0]


# ---- error feedback


def test_what_a_codec_leaves_out_is_sent_later() -> None:
    codec, num = TopK(chunk=16, k=2), 2
    members = [mixing_of(rule=Plain(), codec=codec, feedback=1.0) for _ in range(num)]
    brought, sent = torch.zeros(num, NUM_ELEMENTS), torch.zeros(num, NUM_ELEMENTS)
    for round in range(6):
        thetas = vectors(num, round)
        depart(members, thetas, round, num)
        for place, mixing in enumerate(members):
            brought[place] += mixing.outer[0].anchor - thetas[place]
            refs = [fetch_of("part", part, num, id=id_of(round)).ref for part in range(num)]
            sizes = [mixing.grains(ref, equally(num)).num_elements for ref in refs]
            frames = [b"".join(frames_of(mixing, ref)) for ref in refs]
            sent[place] += torch.cat(list(map(codec.decode, frames, sizes)))
        gather(members, round)
        land(members, round)
    for place, mixing in enumerate(members):
        residual = mixing.outer[0].copy.own[RESIDUAL]
        assert residual.abs().max() > 0
        torch.testing.assert_close(sent[place] + residual, brought[place], atol=1e-5, rtol=1e-5)


def test_what_nobody_has_used_is_not_taken_off_the_residual() -> None:
    mixing = mixing_of(rule=Plain(), codec=TopK(chunk=16, k=2), feedback=1.0)
    offered(mixing, offer_of(1), vectors(1)[0])
    discard(mixing)
    assert not mixing.outer[0].copy.own[RESIDUAL].any()


# ---- an exchange that goes ahead, and is lost


@AHEAD_RULES
@pytest.mark.parametrize("feedback", [None, 0.9])
def test_a_lost_exchange_gives_everything_back(rule: OuterRule, feedback: float | None) -> None:
    mixing = mixing_of(rule=rule, feedback=feedback)
    theta = vectors(1)[0]
    depart([mixing], [theta], 0, 1)
    gather([mixing], 0)
    land([mixing], 0)  # so that there is something to return to
    before = mixing.outer[0]
    start = offered(mixing, offer_of(2), theta)
    assert start is not None
    assert torch.equal(start, mixing.outer[0].copy.start)
    first = frames_of(mixing, BlobRef("part", fragment=0, exchange_id=ID))
    assert isinstance(rule, CO2) or not torch.equal(start, theta)

    back = discard(mixing)
    assert back is not None
    torch.testing.assert_close(back, theta)
    assert mixing.outer[0].digest == before.digest
    assert is_equal(mixing.outer[0].copy.own, before.copy.own)
    assert discard(mixing) is None  # once
    # And the same contribution can be offered again.
    again = offered(mixing, offer_of(2, id_of(7)), theta)
    assert again is not None
    assert torch.equal(again, start)
    assert frames_of(mixing, BlobRef("part", fragment=0, exchange_id=id_of(7))) == first


@AHEAD_RULES
def test_what_has_landed_is_not_given_back(rule: OuterRule) -> None:
    mixing = mixing_of(rule=rule)
    depart([mixing], vectors(1), 0, 1)
    gather([mixing], 0)
    (landed,) = land([mixing], 0)
    assert discard(mixing, id_of(0)) is None
    assert mixing.outer[0] is landed


@AHEAD_RULES
def test_an_anchor_from_elsewhere_leaves_our_own_offset_as_it_is(rule: OuterRule) -> None:
    donor, ours = mixing_of(rule=rule), mixing_of(rule=rule)
    for mixing, theta in zip((donor, ours), vectors(2), strict=True):
        depart([mixing], [theta], 0, 1)
    gather([donor], 0)
    land([donor], 0)
    own = ours.outer[0].copy.own
    sink = fetch_state(ours, donor, 0)
    new = ours.load_state_blob(0, sink.whole(), sink.index.round)
    assert new.round == donor.outer[0].round
    assert new.digest == donor.outer[0].digest
    assert is_equal(new.copy.state, donor.outer[0].copy.state)
    assert is_equal(new.copy.own, own)
    torch.testing.assert_close(new.copy.start, new.anchor + own[AHEAD])
