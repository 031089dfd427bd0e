import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.card import ROLES, Card, parse_card
from protocol.errors import LimitExceeded, MalformedMessage, RemoteError
from protocol.pb import thinwire_pb2 as pb

names = st.text("az09.:/-\u00e9\u4e16 ", max_size=64)
counts = st.integers(0, (1 << 64) - 1)
cards = st.builds(
    Card,
    wire_addresses=st.lists(names, max_size=8).map(tuple),
    multiaddrs=st.lists(names, max_size=8).map(tuple),
    role=st.sampled_from(ROLES),
    step=counts,
    round=counts,
    tokens=counts,
    software=names,
)


@given(card=cards)
def test_round_trip(card: Card) -> None:
    assert parse_card(card.to_bytes()) == card


def test_a_card_that_just_fits() -> None:
    card = Card(wire_addresses=("a" * 256,) * 8, multiaddrs=("m" * 256,) * 8)
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


@pytest.mark.parametrize("role", ["", "king", "Peer", "peer " + 1000 * "x"])
def test_unknown_roles_are_refused_in_few_words(role: str) -> None:
    with pytest.raises(MalformedMessage) as caught:
        parse_card(pb.PeerCard(role=role).SerializeToString())
    assert len(str(caught.value)) < 50


def test_a_long_software_name_is_cut() -> None:
    assert len(parse_card(Card(wire_addresses=(), software="s" * 999).to_bytes()).software) == 64


@given(data=st.binary(max_size=100), card=cards, at=st.integers(0, 1000))
def test_any_bytes_are_a_card_or_refused(data: bytes, card: Card, at: int) -> None:
    good = card.to_bytes()
    at %= len(good) + 1
    for wrong in (data, good[:at], good[:at] + data + good[at:]):
        with contextlib.suppress(RemoteError):
            assert isinstance(parse_card(wrong), Card)
