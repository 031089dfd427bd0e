import hashlib
import string

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ConfigError
from protocol.identity import Identity, peer_id_of
from protocol.manifest import RunId
from protocol.ticket import MAX_ADDRESSES, PREFIX, SECRET_BYTES, Address, Ticket, parse_ticket

FOUNDER, HOST = Identity(b"f" * 32), Identity(b"h" * 32)
RUN_ID = RunId("ab" * 32)
TICKET = Ticket(
    RUN_ID,
    FOUNDER.peer_id,
    (Address("swarm.example.org", 4001, HOST.peer_id), Address("::1", 65535, FOUNDER.peer_id)),
    b"sixteen secrets!",
)
TEXT = str(TICKET)

hosts = st.text(string.ascii_letters + string.digits + ".-:", min_size=1, max_size=255).filter(
    lambda host: host[0] != "-"
)
keys = st.binary(min_size=32, max_size=32).map(peer_id_of)
addresses = st.builds(Address, hosts, st.integers(1, 65535), keys)
tickets = st.builds(
    Ticket,
    st.binary(min_size=32, max_size=32).map(lambda data: RunId(data.hex())),
    keys,
    st.lists(addresses, min_size=1, max_size=MAX_ADDRESSES).map(tuple),
    st.none() | st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES),
)


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_ticket(text)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 200
    return message


def encoded(body: bytes) -> str:
    checksum = hashlib.sha256(b"thinwire ticket" + body).digest()[:4]
    return PREFIX + base58.b58encode(body + checksum).decode()


def body_of(text: str) -> bytearray:
    return bytearray(base58.b58decode(text[len(PREFIX) :])[:-4])


@given(ticket=tickets)
def test_round_trip(ticket: Ticket) -> None:
    assert parse_ticket(str(ticket)) == ticket


def test_the_longest_ticket_is_not_too_long() -> None:
    address = Address("h" * 255, 65535, HOST.peer_id)
    ticket = Ticket(RUN_ID, FOUNDER.peer_id, (address,) * MAX_ADDRESSES, b"\xff" * SECRET_BYTES)
    assert parse_ticket(str(ticket)) == ticket


@pytest.mark.parametrize(
    "text",
    [f"  {TEXT}\n", "\n".join(TEXT[i : i + 20] for i in range(0, len(TEXT), 20)), " ".join(TEXT)],
    ids=["around", "broken lines", "between all"],
)
def test_blanks_do_not_matter(text: str) -> None:
    assert parse_ticket(text) == TICKET


def test_each_typo_is_refused() -> None:
    for at, right in enumerate(TEXT):
        for wrong in base58.BITCOIN_ALPHABET.decode() + "0OIl-_\u00e9\0":
            if wrong != right:
                refusal(TEXT[:at] + wrong + TEXT[at + 1 :])


def test_each_character_lost_doubled_or_swapped_and_each_end_cut_is_refused() -> None:
    for at, right in enumerate(TEXT):
        refusal(TEXT[:at] + TEXT[at + 1 :])
        refusal(TEXT[:at] + right + TEXT[at:])
        refusal(TEXT[:at])
        refusal(TEXT[at + 1 :])
        swapped = TEXT[:at] + TEXT[at : at + 2][::-1] + TEXT[at + 2 :]
        if swapped != TEXT:
            refusal(swapped)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "should begin with 'tw1'"),
        ("hello", "should begin with 'tw1'"),
        (PREFIX, "cut off"),
        (TEXT + TEXT, "copy it again"),
        (PREFIX + "2" * 9000, "far too long"),
        (TEXT[:-1], "cut off or mistyped"),
        (TEXT[:9] + "0" + TEXT[10:], "a character that no ticket has"),
    ],
    ids=["nothing", "a word", "prefix alone", "twice", "too long", "cut off", "a zero"],
)
def test_the_refusal_says_what_is_wrong(text: str, words: str) -> None:
    assert words in refusal(text)


def test_another_version_says_so() -> None:
    body = body_of(TEXT)
    body[0] = 2
    assert "version 2" in refusal(encoded(bytes(body)))


def test_a_body_that_ends_too_early_is_damaged() -> None:
    body = bytes(body_of(TEXT))
    for size in range(67, len(body)):
        assert "damaged" in refusal(encoded(body[:size]))


@pytest.mark.parametrize(
    "tail",
    [
        b"\x00",
        b"\x11" + 17 * (b"\x01h\x00\x01" + bytes(32)),
        b"\x01\x00\x00\x01" + bytes(32),
        b"\x01\x01h\x00\x00" + bytes(32),
        b"\x01\x01\xff\x00\x01" + bytes(32),
        b"\x01\x01h\x00\x01" + bytes(33),
    ],
    ids=["no address", "too many", "no host", "port 0", "host not ASCII", "more behind it"],
)
def test_an_address_that_makes_no_sense_is_damaged(tail: bytes) -> None:
    assert "damaged" in refusal(encoded(b"\x01\x00" + bytes(64) + tail))


@pytest.mark.parametrize(
    "host", ["a;reboot", "$(reboot)", "a b", "\x1b[31m", "[red]", "-x", "a\0b"]
)
def test_a_host_is_nothing_that_harms_a_screen_or_a_command(host: str) -> None:
    ticket = Ticket(RUN_ID, FOUNDER.peer_id, (Address(host, 1, HOST.peer_id),))
    assert "damaged" in refusal(str(ticket))


@given(text=st.text(max_size=80) | st.text(base58.BITCOIN_ALPHABET.decode(), max_size=300))
def test_any_text_is_refused_in_one_line(text: str) -> None:
    refusal(text)
    refusal(PREFIX + text)


def test_the_secret_does_not_reach_a_log() -> None:
    for shown in (repr(TICKET), f"{[TICKET]}", f"{TICKET!r:.500}"):
        assert "secret" not in shown.lower()
        assert b"sixteen secrets!".hex() not in shown
        assert TEXT not in shown
