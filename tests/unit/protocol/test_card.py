import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.card import (
    MAX_COUNT,
    MAX_FLOPS_PER_S,
    MAX_MEMORY_BYTES,
    MAX_RELAYS,
    ROLES,
    Card,
    Kept,
    parse_card,
)
from protocol.errors import LimitExceeded, MalformedMessage, RemoteError
from protocol.identity import Identity
from protocol.manifest import MAX_DOMAIN_CHARS, MAX_DOMAINS
from protocol.pb import thinwire_pb2 as pb
from protocol.record import MAX_RECORD_BYTES

names = st.text("az09.:/-\u00e9\u4e16 ", max_size=64)
counts = st.integers(0, MAX_COUNT - 1)
IDS = [Identity(bytes([n]) * 32).peer_id for n in range(MAX_RELAYS + 1)]
domains = st.text("az09_-\u00e9", max_size=MAX_DOMAIN_CHARS)
cards = st.builds(
    Card,
    wire_addresses=st.lists(names, max_size=8).map(tuple),
    multiaddrs=st.lists(names, max_size=8).map(tuple),
    role=st.sampled_from(ROLES),
    step=counts,
    round=counts,
    tokens=counts,
    software=names,
    reach=st.sampled_from(["direct", "reverse"]),
    relays=st.lists(st.sampled_from(IDS), max_size=MAX_RELAYS).map(tuple),
    domain=domains,
    memory_bytes=st.integers(0, MAX_MEMORY_BYTES - 1),
    flops_per_s=st.integers(0, MAX_FLOPS_PER_S - 1),
    kept=st.lists(st.builds(Kept, domains, counts, counts, st.booleans()), max_size=3).map(tuple),
    stays=st.booleans(),
)


@given(card=cards)
def test_round_trip(card: Card) -> None:
    assert parse_card(card.to_bytes()) == card


def test_a_card_that_just_fits() -> None:
    card = Card(
        wire_addresses=("a" * 256,) * 8, multiaddrs=("m" * 256,) * 8, relays=tuple(IDS[:MAX_RELAYS])
    )
    assert parse_card(card.to_bytes()) == card


@pytest.mark.parametrize(
    "card",
    [
        Card(wire_addresses=("a",) * 17),
        Card(wire_addresses=("a",) * 9, multiaddrs=("m",) * 8),
        Card(wire_addresses=("a" * 257,)),
        Card(wire_addresses=(), multiaddrs=("m" * 257,)),
    ],
    ids=["many", "many together", "a long host", "a long multiaddr"],
)
def test_unreasonable_addresses_are_refused(card: Card) -> None:
    with pytest.raises(LimitExceeded):
        parse_card(card.to_bytes())


@pytest.mark.parametrize("what", ["step", "round", "tokens"])
@pytest.mark.parametrize("count", [MAX_COUNT, (1 << 64) - 1])
def test_progress_beyond_all_reason_is_refused(what: str, count: int) -> None:
    card = pb.PeerCard(role="peer")
    setattr(card, what, count)
    with pytest.raises(LimitExceeded):
        parse_card(card.SerializeToString())


@pytest.mark.parametrize("role", ["", "king", "Peer", "peer " + 1000 * "x"])
def test_unknown_roles_are_refused_in_few_words(role: str) -> None:
    with pytest.raises(MalformedMessage) as caught:
        parse_card(pb.PeerCard(role=role).SerializeToString())
    assert len(str(caught.value)) < 50


def test_relays_are_few_and_peers_and_reach_is_known() -> None:
    with pytest.raises(LimitExceeded):
        parse_card(Card(wire_addresses=(), relays=tuple(IDS)).to_bytes())
    for wrong in (pb.PeerCard(role="peer", relays=["me"]), pb.PeerCard(role="peer", reach="no")):
        with pytest.raises(MalformedMessage):
            parse_card(wrong.SerializeToString())


def test_a_card_that_says_nothing_of_its_reach_is_of_one_that_can_be_dialled() -> None:
    assert parse_card(pb.PeerCard(role="peer").SerializeToString()).reach == "direct"


def test_a_long_software_name_is_cut() -> None:
    assert len(parse_card(Card(wire_addresses=(), software="s" * 999).to_bytes()).software) == 64


@given(data=st.binary(max_size=100), card=cards, at=st.integers(0, 1000))
def test_any_bytes_are_a_card_or_refused(data: bytes, card: Card, at: int) -> None:
    good = card.to_bytes()
    at %= len(good) + 1
    for wrong in (data, good[:at], good[:at] + data + good[at:]):
        with contextlib.suppress(RemoteError):
            assert isinstance(parse_card(wrong), Card)


def test_rates_are_published_within_reason() -> None:
    card = Card(wire_addresses=("10.0.0.1:1",), up_bps=20_000_000, down_bps=100_000_000)
    assert parse_card(card.to_bytes()) == card
    with pytest.raises(LimitExceeded):
        parse_card(Card(wire_addresses=(), up_bps=1 << 60).to_bytes())


def test_a_card_with_every_domain_of_the_largest_run_fits_into_a_record() -> None:
    kept = tuple(
        Kept(f"{n:0{MAX_DOMAIN_CHARS}}", MAX_COUNT - 1, MAX_COUNT - 1, is_final=True)
        for n in range(MAX_DOMAINS)
    )
    card = Card(
        wire_addresses=("203.0.113.255:65535",) * 8,
        multiaddrs=(f"/ip4/203.0.113.255/tcp/65535/p2p/{IDS[0]}",) * 8,
        relays=tuple(IDS[:MAX_RELAYS]),
        domain="d" * MAX_DOMAIN_CHARS,
        kept=kept,
    )
    assert parse_card(card.to_bytes()) == card
    assert len(card.to_bytes()) < 0.9 * MAX_RECORD_BYTES


LONG = "d" * (MAX_DOMAIN_CHARS + 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"domain": LONG},
        {"domain": "law\n"},
        {"domain": "\x1b[2J"},
        {"kept": [pb.KeptState(domain=LONG)]},
        {"kept": [pb.KeptState(domain="a\tb")]},
        {"kept": [pb.KeptState(domain="law")] * (MAX_DOMAINS + 1)},
        {"kept": [pb.KeptState(domain="law", step=MAX_COUNT)]},
        {"kept": [pb.KeptState(domain="law", round=(1 << 64) - 1)]},
        {"memory_bytes": MAX_MEMORY_BYTES},
        {"flops_per_s": MAX_FLOPS_PER_S},
    ],
    ids=str,
)
def test_unreasonable_domains_and_machines_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(LimitExceeded):
        parse_card(pb.PeerCard(role="peer", **fields).SerializeToString())


def test_a_card_of_a_run_without_domains_is_as_it_was() -> None:
    """Golden bytes of before there were domains: absent fields take no place."""
    card = Card(
        wire_addresses=("10.0.0.1:1",), step=7, round=2, tokens=99, life="ab" * 8, began_unix_s=1.5
    )
    golden = (
        "0a0a31302e302e302e313a311a0470656572200728023063"
        "420664697265637462" + "08" + "ab" * 8 + "69000000000000f83f"
    )
    assert card.to_bytes().hex() == golden
