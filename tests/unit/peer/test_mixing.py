"""A group of Mixings in memory, driven by hand as the exchange machines would."""

import asyncio
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optim.codec.codec import Codec, codec_named
from optim.layout import layout_of
from optim.outer.copy import Outer
from optim.outer.nesterov import Nesterov
from optim.outer.noloco import NoLoCo
from optim.outer.rule import OuterRule
from peer.blobs import StateSink, StateSource
from peer.mixing import KEPT_EXCHANGES, Mixing, OuterState, digest_of
from protocol.errors import LocalProtocolError, MalformedMessage, NotAvailable
from protocol.identity import PeerId
from protocol.machine import BlobRef, Fetch, Land, Offer, Reduce
from protocol.state_index import BLOCK_BYTES, StateIndex
from protocol.terms import Terms

ID = b"e" * 16
SOMEBODY = PeerId("somebody")
SHAPES = {"a": (3, 5), "b": (7,), "c": (4, 3)}
NUM_ELEMENTS = 34


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads only slow tensors of this size down."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def vectors(num: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(NUM_ELEMENTS, generator=generator) for _ in range(num)]


def mixing_of(
    *,
    rule: OuterRule | None = None,
    codec: str | Codec | tuple[Codec, ...] = "fp32",
    num_fragments: int = 1,
    feedback: float | None = None,
    anchor: torch.Tensor | None = None,
    our_id: str = "ours",
) -> Mixing:
    if isinstance(codec, str):
        codec = codec_named(codec, block=8)
    codecs = codec if isinstance(codec, tuple) else (codec,)
    return Mixing(
        layout_of(SHAPES, num_fragments=num_fragments),
        Outer(rule or Nesterov(), feedback),
        codecs,
        torch.linspace(-1, 1, NUM_ELEMENTS) if anchor is None else anchor,
        our_id=PeerId(our_id),
    )


def equally(num_parts: int) -> Terms:
    return Terms((1,) * num_parts)


def offer_of(num_parts: int, id: bytes = ID, fragment: int = 0) -> Offer:
    return Offer(fragment, 0, id, equally(num_parts), members=(SOMEBODY,))


def fetch_of(
    kind: str,
    part: int,
    num_parts: int,
    tokens: int = 0,
    id: bytes = ID,
    *,
    src: str = SOMEBODY,
) -> Fetch:
    ref = BlobRef(kind, fragment=0, exchange_id=id, part=part)
    return Fetch(PeerId(src), ref, equally(num_parts), tokens)


def reduce_of(part: int, tokens: int, id: bytes = ID, *, is_shared: bool = True) -> Reduce:
    return Reduce(BlobRef("average", 0, id, part), tokens, is_shared)


def nothing() -> None:
    """Nobody waits for a grain."""


def offered(mixing: Mixing, effect: Offer, theta: torch.Tensor) -> torch.Tensor | None:
    """Offers and encodes; returns where live parameters that do not wait go on from."""
    mixing.open(effect.fragment, effect.exchange_id, effect.terms)
    start = mixing.offer(effect, theta)
    mixing.encode(effect, nothing)
    return start


def frames_of(mixing: Mixing, ref: BlobRef) -> list[bytes]:
    """Returns the grains that can be served, all of which are made."""
    made = mixing.made(ref)
    assert made is not None
    assert None not in made.frames
    return [frame for frame in made.frames if frame is not None]


def has_all(mixing: Mixing, ref: BlobRef) -> bool:
    made = mixing.made(ref)
    return made is not None and not made.missing()


def collect(mixing: Mixing, fetch: Fetch, frames: Sequence[bytes]) -> None:
    """Takes in what is missing."""
    for grain in mixing.missing(fetch):
        mixing.collect(fetch, grain, frames[grain])


def serve_state(mixing: Mixing, fragment: int) -> StateSource:
    copy = mixing.outer[fragment].copy
    vectors = [copy.anchor, *(copy.state[name] for name in sorted(copy.state))]
    return StateSource(vectors, copy.round)


def fetch_state(taker: Mixing, donor: Mixing, fragment: int) -> StateSink:
    """Returns a state as it comes to the taker."""
    source, outer = serve_state(donor, fragment), donor.outer[fragment]
    index = StateIndex(outer.round, outer.digest, outer.lineage, source.blocks())
    sink = StateSink(taker.state_lengths(fragment), index)
    assert source.size_bytes == sink.size_bytes == taker.state_bytes(fragment)
    for block in list(sink.missing):
        stop = min(source.size_bytes, (block + 1) * BLOCK_BYTES)
        sink.put(block, asyncio.run(source.read(block * BLOCK_BYTES, stop)))
    return sink


def gather(
    members: list[Mixing], thetas: list[torch.Tensor], tokens: list[int], id: bytes = ID
) -> Land:
    """All members scatter, reduce and gather, in the order of their places."""
    num = len(members)
    for mixing, theta in zip(members, thetas, strict=True):
        offered(mixing, offer_of(num, id), theta)
    for part, reducer in enumerate(members):
        for place, (other, weight) in enumerate(zip(members, tokens, strict=True)):
            if other is not reducer:
                fetch = fetch_of("part", part, num, weight, id, src=f"member {place}")
                collect(reducer, fetch, frames_of(other, fetch.ref))
        reducer.reduce(reduce_of(part, tokens[part], id), nothing)
    for mixing in members:
        for part, reducer in enumerate(members):
            if reducer is not mixing:
                fetch = fetch_of("average", part, num, id=id)
                collect(mixing, fetch, frames_of(reducer, fetch.ref))
    return Land(0, 0, id, equally(num))


def exchange(
    members: list[Mixing], thetas: list[torch.Tensor], tokens: list[int], id: bytes = ID
) -> list[OuterState]:
    """A whole exchange; returns what has landed."""
    landing = gather(members, thetas, tokens, id)
    return [mixing.land(landing) for mixing in members]


@pytest.mark.parametrize("num", [1, 2, 3, 5, 8])
def test_a_group_steps_as_torch_sgd_on_the_weighted_mean(num: int) -> None:
    members = [mixing_of() for _ in range(num)]
    anchor = torch.nn.Parameter(members[0].outer[0].anchor.clone())
    sgd = torch.optim.SGD([anchor], lr=0.7, momentum=0.9, nesterov=True)
    for round in range(3):
        deltas, tokens = vectors(num, round), [100 * (place + 1) for place in range(num)]
        thetas = [anchor.detach() - delta for delta in deltas]
        landed = exchange(members, thetas, tokens, bytes([round]) * 16)
        weights = torch.tensor(tokens, dtype=torch.float64) / sum(tokens)
        sent = torch.stack([(anchor.detach() - theta).double() for theta in thetas])
        anchor.grad = (weights[:, None] * sent).sum(0).float()
        sgd.step()
        for state in landed:
            assert state.round == round + 1
            torch.testing.assert_close(state.anchor, anchor.detach(), atol=2e-6, rtol=1e-5)
        assert len({state.digest for state in landed}) == 1


@pytest.mark.parametrize("codec", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("num", [2, 3, 6])
def test_anchors_are_equal_to_the_bit_on_all_members_the_reducers_too(codec: str, num: int) -> None:
    members = [mixing_of(codec=codec) for _ in range(num)]
    for round in range(4):
        tokens = [1 + 7 * place for place in range(num)]
        landed = exchange(members, vectors(num, round), tokens, bytes([round]) * 16)
        assert len({state.digest for state in landed}) == 1
        for state in landed[1:]:
            assert torch.equal(state.anchor, landed[0].anchor)
            assert torch.equal(state.copy.state["momentum"], landed[0].copy.state["momentum"])


def test_a_listener_comes_to_the_same_bits_from_any_member() -> None:
    members = [mixing_of(codec="int8") for _ in range(3)]
    landed = exchange(members, vectors(3), [10, 20, 30])
    for holder in members:
        late = mixing_of(codec="int8")
        for part in range(3):
            fetch = fetch_of("average", part, 3)
            collect(late, fetch, frames_of(holder, fetch.ref))
        landing = Land(0, 0, ID, equally(3), rebase_on_anchor=True)
        assert late.land(landing).digest == landed[0].digest


@pytest.mark.parametrize("gamma", [0.7, 0.5], ids=["one lane", "two lanes"])
def test_a_pair_averages_its_own_way(gamma: float) -> None:
    rule = NoLoCo(gamma=gamma)
    ours, theirs = mixing_of(rule=rule), mixing_of(rule=rule)
    theta_a, theta_b = vectors(2)
    for mixing, theta in ((ours, theta_a), (theirs, theta_b)):
        offered(mixing, offer_of(1), theta)
    fetch = fetch_of("part", 0, 1, 30)
    collect(ours, fetch, frames_of(theirs, fetch.ref))
    with pytest.raises(LocalProtocolError, match="without the average"):
        ours.land(Land(0, 0, ID, equally(1)))
    reduce = reduce_of(0, 10, is_shared=False)
    ours.reduce(reduce, nothing)
    assert ours.made(reduce.ref) is None
    old = ours.outer[0]
    new = ours.land(Land(0, 0, ID, equally(1)))
    mean = 0.25 * rule.outgoing(old.anchor, theta_a) + 0.75 * rule.outgoing(old.anchor, theta_b)
    expected, _ = rule.step(old.anchor, mean, old.copy.state)
    torch.testing.assert_close(new.anchor, expected)


@given(
    shares=st.lists(st.integers(0, 9), min_size=1, max_size=60).filter(any),
    lanes=st.sampled_from([1, 2]),
    kind=st.sampled_from(["part", "average"]),
)
@settings(deadline=None)
def test_parts_cover_everything_once_in_accordance_with_their_shares(
    shares: list[int], lanes: int, kind: str
) -> None:
    mixing = mixing_of(rule=NoLoCo(gamma=0.7 if lanes == 1 else 0.5))
    sizes = [
        mixing.grains(BlobRef(kind, part=part), Terms(tuple(shares))).num_elements
        for part in range(len(shares))
    ]
    assert sum(sizes) == lanes * NUM_ELEMENTS
    for size, share in zip(sizes, shares, strict=True):
        assert abs(size - lanes * NUM_ELEMENTS * share / sum(shares)) < 1
        assert share or not size


@pytest.mark.parametrize("codec", ["fp32", "bf16", "int8"])
def test_more_parts_than_values_are_still_an_exchange(codec: str) -> None:
    members = [mixing_of(codec=codec) for _ in range(NUM_ELEMENTS + 5)]
    landed = exchange(members, vectors(len(members)), [1] * len(members))
    assert len({state.digest for state in landed}) == 1


def test_the_size_of_a_part_is_known_before_it_is_made() -> None:
    for codec in ("fp32", "bf16", "int8"):
        mixing = mixing_of(codec=codec)
        offered(mixing, offer_of(5), vectors(1)[0])
        sizes = []
        for part in range(5):
            fetch = fetch_of("part", part, 5)
            sizes.append(mixing_of(codec=codec).grains(fetch.ref, fetch.terms).size_bytes)
            assert sizes[-1] == sum(map(len, frames_of(mixing, fetch.ref)))
        alone = mixing.grains(BlobRef("part"), equally(1)).size_bytes
        assert mixing.contribution_bytes(0) == [alone]


def test_an_exchange_can_be_held_in_a_cheaper_codec() -> None:
    codecs = codec_named("fp32"), codec_named("bf16"), codec_named("int8", block=8)
    mixing = mixing_of(codec=codecs)
    theta = vectors(1)[0]
    sizes, errors = [], []
    for number, codec in enumerate(codecs):
        id, terms = bytes([number]) * 16, Terms((1,), codec=number)
        offered(mixing, Offer(0, 0, id, terms, (SOMEBODY,)), theta)
        (frame,) = frames_of(mixing, BlobRef("part", 0, id))
        values = codec.decode(frame, NUM_ELEMENTS)
        errors.append((values - (mixing.outer[0].anchor - theta)).abs().max())
        sizes.append(len(frame))
    assert sizes == mixing.contribution_bytes(0) == sorted(sizes, reverse=True)
    assert errors == sorted(errors)


@pytest.mark.parametrize("kind", ["part", "average"])
@pytest.mark.parametrize("codec", ["fp32", "bf16", "int8"])
def test_hostile_frames_are_malformed_and_leave_nothing(codec: str, kind: str) -> None:
    giver, taker = mixing_of(codec=codec), mixing_of(codec=codec)
    offered(giver, offer_of(2), vectors(1)[0])
    fetch = fetch_of(kind, 0, 2, 10)
    (good,) = frames_of(giver, BlobRef("part", fragment=0, exchange_id=ID))
    assert taker.missing(fetch) == [0]
    nan = good[:-4] + b"\xff\xff\xff\xff"
    wrong = [b"", good[:-1], good + b"\0", good[1:], b"XX" + good[2:], bytes(len(good))]
    for frame in wrong if codec == "int8" else [*wrong, nan]:
        with pytest.raises(MalformedMessage):
            taker.collect(fetch, 0, frame)
    assert taker.missing(fetch) == [0]
    assert not has_all(taker, BlobRef("average", fragment=0, exchange_id=ID))
    with pytest.raises(LocalProtocolError):
        taker.land(Land(0, 0, ID, equally(2)))
    taker.collect(fetch, 0, good)
    assert taker.missing(fetch) == []


@given(frame=st.binary(max_size=120))
@settings(deadline=None)
def test_any_bytes_are_malformed(frame: bytes) -> None:
    mixing, fetch = mixing_of(), fetch_of("part", 0, 1, 10)
    assert mixing.missing(fetch) == [0]
    with pytest.raises(MalformedMessage):
        mixing.collect(fetch, 0, frame)


@pytest.mark.parametrize("num_parts", [1, 2])
def test_a_landing_needs_all_averages_and_happens_once(num_parts: int) -> None:
    mixing, landing = mixing_of(), Land(0, 0, ID, equally(num_parts))
    with pytest.raises(LocalProtocolError):
        mixing.land(landing)
    offered(mixing, offer_of(num_parts), vectors(1)[0])
    for part in range(num_parts):
        with pytest.raises(LocalProtocolError):
            mixing.land(landing)
        mixing.reduce(reduce_of(part, 10), nothing)
    mixing.land(landing)
    with pytest.raises(LocalProtocolError):
        mixing.land(landing)


def test_states_are_replaced_and_never_changed() -> None:
    mixing = mixing_of()
    old = mixing.outer[0]
    copy = old.anchor.clone(), old.copy.state["momentum"].clone()
    exchange([mixing], vectors(1), [1])
    assert torch.equal(old.anchor, copy[0])
    assert torch.equal(old.copy.state["momentum"], copy[1])
    assert mixing.outer[0] is not old


@pytest.mark.parametrize("fragment", [0, 1])
def test_a_state_survives_its_blob(fragment: int) -> None:
    source, target = mixing_of(num_fragments=2), mixing_of(num_fragments=2)
    size = len(source.layout.fragments[fragment])
    source.load_state(fragment, torch.randn(size), {"momentum": torch.randn(size)}, {}, 5)
    sink = fetch_state(target, source, fragment)
    new = target.load_state_blob(fragment, sink.whole(), sink.index.round)
    assert new == target.outer[fragment]
    assert (new.round, new.digest) == (5, source.outer[fragment].digest)
    assert torch.equal(new.anchor, source.outer[fragment].anchor)
    assert torch.equal(new.copy.state["momentum"], source.outer[fragment].copy.state["momentum"])
    other = 1 - fragment
    assert target.outer[other].digest == mixing_of(num_fragments=2).outer[other].digest


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("at", [0, NUM_ELEMENTS - 1, NUM_ELEMENTS, 2 * NUM_ELEMENTS - 1])
def test_a_state_that_is_not_finite_is_refused(value: float, at: int) -> None:
    mixing = mixing_of()
    before = mixing.outer[0]
    values = torch.zeros(2 * NUM_ELEMENTS)
    values[at] = value
    with pytest.raises(MalformedMessage):
        mixing.load_state_blob(0, values.view(2, -1).unbind(), 9)
    assert mixing.outer[0] is before


def test_a_state_that_came_is_not_copied_once_more() -> None:
    donor, taker = mixing_of(), mixing_of()
    exchange([donor], vectors(1), [1])
    sink = fetch_state(taker, donor, 0)
    anchor, momentum = sink.whole()
    new = taker.load_state_blob(0, sink.whole(), sink.index.round)
    assert new.anchor is anchor
    assert new.copy.state["momentum"] is momentum


def test_what_is_served_of_a_state_stays_as_it_was_while_others_land() -> None:
    mixing = mixing_of()
    source = serve_state(mixing, 0)
    before = asyncio.run(source.read(0, source.size_bytes))
    for round in range(3):
        exchange([mixing], vectors(1, round), [1], bytes([round]) * 16)
        assert asyncio.run(source.read(0, source.size_bytes)) == before
        assert source.round == 0


def test_equal_anchors_have_equal_digests_and_others_have_others() -> None:
    anchor = vectors(1)[0]
    nearly = anchor.clone()
    nearly[-1] = torch.nextafter(nearly[-1], torch.tensor(9.0))
    assert digest_of(anchor) == digest_of(anchor.clone())
    assert digest_of(anchor) != digest_of(nearly)


def test_of_the_last_exchanges_averages_are_kept_and_of_the_last_one_the_parts_too() -> None:
    mixing = mixing_of(num_fragments=2)
    ids = [bytes([number]) * 15 for number in range(KEPT_EXCHANGES + 2)]
    for fragment in (0, 1):
        theta = torch.zeros(len(mixing.layout.fragments[fragment]))
        for id in ids:
            exchange_id = bytes([fragment]) + id
            offered(mixing, offer_of(1, exchange_id, fragment), theta)
            mixing.reduce(Reduce(BlobRef("average", fragment, exchange_id), 1), nothing)
    for fragment in (0, 1):
        found = {
            kind: [has_all(mixing, BlobRef(kind, fragment, bytes([fragment]) + id)) for id in ids]
            for kind in ("part", "average")
        }
        assert found["average"] == [False] * 2 + [True] * KEPT_EXCHANGES
        assert found["part"] == [False] * (len(ids) - 1) + [True]


def discard(mixing: Mixing, id: bytes = ID) -> torch.Tensor | None:
    """Takes an exchange off the table, and forgets it."""
    bench = mixing.drop(0, id)
    return None if bench is None else mixing.discard(0, bench)


def test_a_discarded_exchange_is_gone_and_may_come_again() -> None:
    mixing = mixing_of()
    for _ in range(2):
        offered(mixing, offer_of(1), vectors(1)[0])
        reduce = reduce_of(0, 10)
        mixing.reduce(reduce, nothing)
        assert has_all(mixing, reduce.ref)
        parts = mixing.made(BlobRef("part", fragment=0, exchange_id=ID))
        assert parts is not None
        assert discard(mixing) is None
        assert parts.is_withdrawn  # whoever reads it now is told
        assert mixing.drop(0, ID) is None
        assert mixing.made(reduce.ref) is None
        assert mixing.made(BlobRef("part", fragment=0, exchange_id=ID)) is None
        with pytest.raises(LocalProtocolError):
            mixing.land(Land(0, 0, ID, equally(1)))


def test_what_was_asked_for_a_discarded_exchange_does_nothing() -> None:
    mixing, offer = mixing_of(), offer_of(1)
    mixing.open(offer.fragment, offer.exchange_id, offer.terms)
    mixing.offer(offer, vectors(1)[0])
    fetch = fetch_of("part", 0, 1, 10)
    assert mixing.missing(fetch) == [0]
    discard(mixing)
    grains: list[None] = []
    mixing.encode(offer, lambda: grains.append(None))
    mixing.reduce(reduce_of(0, 10), lambda: grains.append(None))
    with pytest.raises(NotAvailable):
        mixing.collect(fetch, 0, b"")
    assert grains == []


@pytest.mark.parametrize(
    "ref",
    [
        BlobRef("part", fragment=0, exchange_id=b"?" * 16),
        BlobRef("part", fragment=1, exchange_id=ID),
        BlobRef("part", fragment=0, exchange_id=ID, part=2),
        BlobRef("average", fragment=0, exchange_id=ID, part=1),
    ],
    ids=["another exchange", "another fragment", "another part", "not reduced"],
)
def test_what_we_have_not_is_not_served(ref: BlobRef) -> None:
    mixing = mixing_of()
    offered(mixing, offer_of(2), vectors(1)[0])
    mixing.reduce(reduce_of(0, 10), nothing)
    assert mixing.made(ref) is None


def test_an_exchange_id_used_for_two_fragments_is_two_exchanges() -> None:
    mixing = mixing_of(num_fragments=2)
    exchange_id = bytes(16)
    for fragment, span in enumerate(mixing.layout.fragments):
        theta = torch.full((len(span),), fragment + 1.0)
        offered(mixing, offer_of(1, exchange_id, fragment), theta)
    parts = [frames_of(mixing, BlobRef("part", fragment, exchange_id)) for fragment in (0, 1)]
    assert parts[0] != parts[1]


def test_an_exchange_that_has_landed_takes_nothing_in_any_more() -> None:
    mixing = mixing_of()
    offered(mixing, offer_of(1), vectors(1)[0])
    reduce = reduce_of(0, 1)
    mixing.reduce(reduce, nothing)
    mixing.land(Land(0, 0, ID, equally(1)))
    frames = frames_of(mixing, reduce.ref)
    fetch = fetch_of("average", 0, 1, src="liar")
    with pytest.raises(NotAvailable, match="has landed here already"):
        mixing.missing(fetch)
    with pytest.raises(MalformedMessage, match="has landed here already"):
        mixing.collect(fetch, 0, frames[0])
    assert frames_of(mixing, reduce.ref) == frames
