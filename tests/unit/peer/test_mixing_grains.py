"""Exchanges in many grains: as in one, in any order, and after whatever broke off in between."""

import random
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from optim.codec.codec import Codec, codec_named
from optim.codec.grains import ALIGNMENT_ELEMENTS
from optim.layout import layout_of
from optim.outer.copy import Outer
from optim.outer.eager import Eager
from optim.outer.nesterov import Nesterov
from optim.outer.noloco import NoLoCo
from optim.outer.rule import OuterRule
from peer.mixing import Mixing, OuterState
from protocol.errors import LocalProtocolError, MalformedMessage
from protocol.identity import PeerId
from protocol.machine import BlobRef, Fetch, Land, Offer, Reduce
from protocol.terms import Terms
from tests.unit.peer.test_mixing import frames_of, nothing

N = 5 * ALIGNMENT_ELEMENTS + 123
ONE_GRAIN, MANY_GRAINS = 1 << 24, 1
"""Bytes: all in one; as little as can be, which is 4096 elements."""
ID = b"e" * 16
SHARES = (3, 0, 4)
NAMES = [PeerId(name) for name in ("a", "b", "c")]

METHODS = pytest.mark.parametrize(
    ("rule", "codec", "feedback"),
    [
        (Nesterov(), codec_named("fp32"), None),
        (Nesterov(), codec_named("int8"), None),
        (Nesterov(), codec_named("int4"), 0.9),
        (NoLoCo(), codec_named("mod4"), None),
        (NoLoCo(gamma=0.5), codec_named("bf16"), None),
        (Eager(), codec_named("e3m0"), None),
    ],
    ids=["fp32", "int8", "feedback", "modulo", "two lanes", "eager"],
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads only slow tensors of this size down."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def anchor() -> Tensor:
    return torch.randn(N, generator=torch.Generator().manual_seed(99))


def theta_of(place: int) -> Tensor:
    return anchor() + torch.randn(N, generator=torch.Generator().manual_seed(place)) / 100


def mixing_of(
    name: str, rule: OuterRule, codec: Codec, feedback: float | None, grain_bytes: int
) -> Mixing:
    return Mixing(
        layout_of({"w": (N,)}, num_fragments=1),
        Outer(rule, feedback),
        (codec,),
        anchor(),
        our_id=PeerId(name),
        grain_bytes=grain_bytes,
    )


def fetch_of(kind: str, part: int, terms: Terms, src: str, tokens: int = 0) -> Fetch:
    return Fetch(PeerId(src), BlobRef(kind, 0, ID, part), terms, tokens)


def collect(mixing: Mixing, fetch: Fetch, frames: list[bytes], rng: random.Random) -> None:
    """Takes the grains in as stripes bring them: in any order, twice, with a failure in between."""
    missing = mixing.missing(fetch)
    rng.shuffle(missing)
    half = missing[: len(missing) // 2]
    for grain in half:
        mixing.collect(fetch, grain, frames[grain])
    rest = [grain for grain in missing if grain not in half]
    if rest:
        with pytest.raises(MalformedMessage):
            mixing.collect(fetch, rest[0], b"broken off")
    # The same fetch, once more.
    assert sorted(rest) == mixing.missing(fetch)
    for grain in rest + half[:1]:
        mixing.collect(fetch, grain, frames[grain])
    assert mixing.missing(fetch) == []


def exchange(members: list[Mixing], terms: Terms, rng: random.Random) -> list[OuterState]:
    for place, mixing in enumerate(members):
        offer = Offer(0, 0, ID, terms, tuple(NAMES))
        mixing.open(offer.fragment, offer.exchange_id, offer.terms)
        mixing.offer(offer, theta_of(place))
        mixing.encode(offer, nothing)
    for part in terms.parts:
        reducer = members[part]
        for place, other in enumerate(members):
            if other is not reducer:
                fetch = fetch_of("part", part, terms, NAMES[place], tokens=100 * (place + 1))
                collect(reducer, fetch, frames_of(other, fetch.ref), rng)
        reduce = Reduce(BlobRef("average", 0, ID, part), 100 * (part + 1))
        reducer.reduce(reduce, nothing)
    for mixing in members:
        for part in terms.parts:
            if members[part] is not mixing:
                fetch = fetch_of("average", part, terms, NAMES[part])
                collect(mixing, fetch, frames_of(members[part], fetch.ref), rng)
    return [mixing.land(Land(0, 0, ID, terms)) for mixing in members]


@METHODS
def test_averages_in_many_grains_are_those_in_one_and_equal_on_all_members(
    rule: OuterRule, codec: Codec, feedback: float | None
) -> None:
    landed = {}
    for grain_bytes in (ONE_GRAIN, MANY_GRAINS):
        members = [mixing_of(name, rule, codec, feedback, grain_bytes) for name in NAMES]
        landed[grain_bytes] = exchange(members, Terms(SHARES), random.Random(1))
        ref = BlobRef("average", 0, ID, 0)
        averages = [b"".join(frames_of(mixing, ref)) for mixing in members]
        assert len(set(averages)) == 1
        assert (len(frames_of(members[0], ref)) > 1) == (grain_bytes == MANY_GRAINS)
        if codec.name != "mod4":  # of parameters, that come to each near its own
            assert len({state.digest for state in landed[grain_bytes]}) == 1
    for one, many in zip(*landed.values(), strict=True):
        torch.testing.assert_close(many.anchor, one.anchor, rtol=0, atol=0)
        assert one.copy.state.keys() == many.copy.state.keys()
        for vectors in ("state", "own"):
            for name, vector in getattr(one.copy, vectors).items():
                assert torch.equal(vector, getattr(many.copy, vectors)[name])


def test_a_contribution_in_two_halves_counts_once() -> None:
    members = [
        mixing_of(name, Nesterov(), codec_named("fp32"), None, MANY_GRAINS) for name in NAMES
    ]
    landed = exchange(members, Terms(SHARES), random.Random(5))
    sent = torch.stack([anchor().double() - theta_of(place).double() for place in range(3)])
    mean = (torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)[:, None] * sent).sum(0) / 6
    expected = anchor().double() - 0.7 * 1.9 * mean  # Nesterov's first step
    torch.testing.assert_close(landed[0].anchor.double(), expected, rtol=1e-5, atol=1e-6)


@METHODS
def test_a_pair_in_many_grains_is_one_in_one(
    rule: OuterRule, codec: Codec, feedback: float | None
) -> None:
    terms, anchors = Terms(), []
    for grain_bytes in (ONE_GRAIN, MANY_GRAINS):
        pair = [mixing_of(name, rule, codec, feedback, grain_bytes) for name in NAMES[:2]]
        offer = Offer(0, 0, ID, terms, tuple(NAMES))
        for place, mixing in enumerate(pair):
            mixing.open(offer.fragment, offer.exchange_id, offer.terms)
            mixing.offer(offer, theta_of(place))
            mixing.encode(offer, nothing)
        fetch = fetch_of("part", 0, terms, NAMES[1], tokens=300)
        collect(pair[0], fetch, frames_of(pair[1], fetch.ref), random.Random(2))
        pair[0].reduce(Reduce(BlobRef("average", 0, ID), 100, is_shared=False), nothing)
        anchors.append(pair[0].land(Land(0, 0, ID, terms)).anchor)
    assert torch.equal(*anchors)


def test_each_grain_can_be_served_as_soon_as_it_is_made() -> None:
    mixing = mixing_of("a", Nesterov(), codec_named("int8"), None, MANY_GRAINS)
    offer = Offer(0, 0, ID, Terms((1, 1)), tuple(NAMES))
    mixing.open(offer.fragment, offer.exchange_id, offer.terms)
    mixing.offer(offer, theta_of(0))
    missing: list[int] = []

    def on_grain() -> None:
        mades = [mixing.made(BlobRef(kind, 0, ID, part)) for kind, part in SEEN]
        missing.append(sum(len(made.missing()) for made in mades if made))

    SEEN = [("part", 0), ("part", 1)]
    on_all = sum(len(mixing.grains(BlobRef("part", part=p), offer.terms)) for p in (0, 1))
    mixing.encode(offer, on_grain)
    assert missing == list(range(on_all))[::-1]
    missing.clear()
    SEEN = [("average", 1)]
    mixing.reduce(Reduce(BlobRef("average", 0, ID, 1), 100), on_grain)
    assert missing == list(range(len(frames_of(mixing, BlobRef("average", 0, ID, 1)))))[::-1]


def test_a_half_of_an_average_is_not_landed_and_can_be_served_on() -> None:
    one, other, third = (
        mixing_of(name, Nesterov(), codec_named("int8"), None, MANY_GRAINS) for name in NAMES
    )
    terms, offer = Terms(), Offer(0, 0, ID, Terms(), tuple(NAMES))
    one.open(offer.fragment, offer.exchange_id, offer.terms)
    one.offer(offer, theta_of(0))
    one.encode(offer, nothing)
    ref = BlobRef("average", 0, ID)
    one.reduce(Reduce(ref, 100), nothing)
    frames = frames_of(one, ref)
    fetch = fetch_of("average", 0, terms, NAMES[0])
    assert other.missing(fetch) == list(range(len(frames)))
    for grain in (0, 2):
        other.collect(fetch, grain, frames[grain])
    made = other.made(ref)
    assert made is not None
    assert made.frames[:3] == [frames[0], None, frames[2]]
    with pytest.raises(LocalProtocolError):
        other.land(Land(0, 0, ID, terms, rebase_on_anchor=True))
    third.missing(fetch)
    third.collect(fetch, 2, made.frames[2] or b"")
    for grain in other.missing(fetch):
        other.collect(fetch, grain, frames[grain])
    landed = other.land(Land(0, 0, ID, terms, rebase_on_anchor=True))
    assert landed.digest == one.land(Land(0, 0, ID, terms)).digest
