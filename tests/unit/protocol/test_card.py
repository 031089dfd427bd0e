import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.card import MAX_COUNT, MAX_RELAYS, ROLES, Card, parse_card
from protocol.errors import LimitExceeded, MalformedMessage, RemoteError
from protocol.identity import Identity
from protocol.pb import thinwire_pb2 as pb

names = st.text("az09.:/-\u00e9\u4e16 ", max_size=64)
counts = st.integers(0, MAX_COUNT - 1)
IDS = [Identity(bytes([n]) * 32).peer_id for n in range(MAX_RELAYS + 1)]
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
