import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import lineage as module
from protocol.errors import MalformedMessage
from protocol.lineage import EMPTY, LINEAGE_BYTES, MAX_ENTRIES, Lineage, landing_of, parse_lineage
from protocol.messages import MAX_ROUND, MAX_TOKENS

ROUNDS = st.integers(1, 30)
DIGESTS = st.integers(0, 3).map(lambda number: bytes([number]) * 32)
# In one world each landing has one number of tokens.
LANDINGS = st.lists(st.tuples(ROUNDS, DIGESTS), max_size=40)
FEW = 6
"""So that hypothesis reaches the limit."""


def tokens_of(round: int, digest: bytes) -> int:
    return round * 10 + digest[0]


def grown(landings: list[tuple[int, bytes]], start: Lineage = EMPTY) -> Lineage:
    for round, digest in landings:
        start = start.landed(round, digest, tokens_of(round, digest))
    return start


LINEAGES = LANDINGS.map(grown)


@given(lineage=LINEAGES)
def test_a_lineage_survives_its_bytes_which_are_always_as_many(lineage: Lineage) -> None:
    data = lineage.to_bytes()
    assert len(data) == LINEAGE_BYTES
    assert parse_lineage(data) == lineage


def test_a_full_lineage_survives_too() -> None:
    lineage = EMPTY
    for round in range(1, 3 * MAX_ENTRIES):
        lineage = lineage.landed(round, bytes([round % 251]) * 32, MAX_TOKENS - 1)
    assert len(lineage.tokens) == MAX_ENTRIES
    assert parse_lineage(lineage.to_bytes()) == lineage


def test_more_tokens_than_a_peer_may_claim_do_not_make_it_unreadable() -> None:
    """Each member of an exchange may claim nearly as many; the sum is what they add up to."""
    lineage = EMPTY.landed(1, bytes(32), 5 * MAX_TOKENS)
    assert parse_lineage(lineage.to_bytes()) == lineage


@settings(max_examples=100)
@given(landings=LANDINGS)
def test_it_is_bounded_and_forgets_the_oldest_first(landings: list[tuple[int, bytes]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_ENTRIES", FEW)
        lineage = grown(landings)
    assert len(lineage.tokens) <= FEW
    assert all(round > lineage.horizon for round, _ in lineage.tokens)
    kept = set(lineage.tokens)
    for round, digest in landings:
        assert lineage.knows(round, digest)  # what is forgotten is known to everybody
        assert (landing_of(round, digest) in kept) == (round > lineage.horizon)
    if lineage.horizon:  # and no more was forgotten than had to be
        assert len({landing_of(*at) for at in landings if at[0] >= lineage.horizon}) > FEW


@settings(max_examples=100)
@given(a=LANDINGS, b=LANDINGS, c=LANDINGS, limit=st.sampled_from([FEW, MAX_ENTRIES]))
def test_a_union_does_not_depend_on_order(
    a: list[tuple[int, bytes]], b: list[tuple[int, bytes]], c: list[tuple[int, bytes]], limit: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_ENTRIES", limit)
        one, two, three = grown(a), grown(b), grown(c)
        assert one.united(two) == two.united(one)
        assert one.united(two).united(three) == one.united(two.united(three))
        assert one.united(one) == one
        assert one.united(two).united(two) == one.united(two)
        assert one.united(EMPTY) == one


@given(past=LANDINGS, ours=LANDINGS, limit=st.sampled_from([FEW, MAX_ENTRIES]))
def test_an_ancestor_has_nothing_beyond_its_descendant(
    past: list[tuple[int, bytes]], ours: list[tuple[int, bytes]], limit: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_ENTRIES", limit)
        ancestor = grown(past)
        descendant = grown(ours, ancestor)
    assert ancestor.tokens_beyond(descendant) == 0
    assert ancestor.beyond(descendant) == {}
    if limit == MAX_ENTRIES:
        new = {landing_of(*at) for at in ours} - set(ancestor.tokens)
        assert set(descendant.beyond(ancestor)) == new
        assert descendant.tokens_beyond(ancestor) == sum(descendant.tokens[at] for at in new)


@given(a=LINEAGES, b=LINEAGES)
def test_each_side_loses_nothing_to_the_union(a: Lineage, b: Lineage) -> None:
    both = a.united(b)
    assert a.tokens_beyond(both) == b.tokens_beyond(both) == 0
    shared = sum(n for landing, n in a.tokens.items() if landing in b.tokens)
    assert sum(both.tokens.values()) == a.tokens_beyond(b) + b.tokens_beyond(a) + shared


def test_what_is_before_the_horizon_counts_for_neither_side() -> None:
    old, new = EMPTY.landed(3, b"a" * 32, 100), Lineage({(9, b"n" * 8): 7}, horizon=5)
    assert old.tokens_beyond(new) == 0
    assert new.tokens_beyond(old) == 7
    assert new.knows(5, b"whatever" * 4)
    assert not new.knows(6, b"whatever" * 4)
    assert new.landed(4, b"late" * 8, 9).tokens == new.tokens
    assert old.united(new) == new


def test_two_numbers_for_one_landing_are_united_in_one_way() -> None:
    """A replay repeats what somebody says."""
    told, seen = EMPTY.landed(1, bytes(32), 5), EMPTY.landed(1, bytes(32), 9)
    assert told.united(seen) == seen.united(told) == seen


# ---- what is none


def spelled(*entries: tuple[int, int, bytes], size: int | None = None, horizon: int = 0) -> bytes:
    head = struct.pack(">QI", horizon, len(entries) if size is None else size)
    return (head + b"".join(struct.pack(">QQ8s", *entry) for entry in entries)).ljust(
        LINEAGE_BYTES, b"\0"
    )


A, B = b"a" * 8, b"b" * 8


@pytest.mark.parametrize(
    "data",
    [
        b"",
        spelled((1, 5, A))[:-1],
        spelled((1, 5, A)) + b"\0",
        spelled(size=MAX_ENTRIES + 1),
        spelled(size=(1 << 32) - 1),
        spelled(horizon=MAX_ROUND),
        spelled((MAX_ROUND, 5, A)),
        spelled((1, MAX_TOKENS, A)),
        spelled((2, 5, A), (1, 5, A)),
        spelled((1, 5, A), (1, 6, A)),
        spelled((1, 5, B), (1, 5, A)),
        spelled((3, 5, A), horizon=3),
        spelled((1, 5, A), (2, 5, A), size=1),
        spelled((1, 5, A))[:-1] + b"\1",
    ],
    ids=[
        *("empty", "short", "long", "too many", "far too many", "far horizon", "far round"),
        *("many tokens", "not in order", "twice", "names not in order", "forgotten"),
        *("more than it says", "padding"),
    ],
)
def test_what_is_no_lineage_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse_lineage(data)


@settings(max_examples=150)
@given(lineage=LINEAGES, at=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255))
def test_a_byte_that_is_wrong_is_refused_or_says_something_else(
    lineage: Lineage, at: float, bits: int
) -> None:
    data = bytearray(lineage.to_bytes())
    used = 12 + 24 * len(lineage.tokens)
    data[int(at * (used + 24))] ^= bits
    try:
        parsed = parse_lineage(bytes(data))
    except MalformedMessage:
        return
    assert parsed != lineage
    assert parsed.to_bytes() == data


@given(data=st.binary(max_size=200))
def test_random_bytes_are_refused_or_have_a_meaning(data: bytes) -> None:
    for padded in (data, data.ljust(LINEAGE_BYTES, b"\0")):
        try:
            parsed = parse_lineage(padded)
        except MalformedMessage:
            continue
        assert parsed.to_bytes() == padded
