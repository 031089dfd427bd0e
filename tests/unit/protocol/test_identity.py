import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import BadSignature, MalformedMessage
from protocol.identity import Identity, parse_peer_id, peer_id_of, public_bytes_of, verify

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
# RFC 8032's arithmetic for the seed of 32 zero bytes; a vector that other libraries print as well.
ZERO_SEED_PUBLIC = bytes.fromhex("3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29")
OURS = Identity(bytes(32))
THEIRS = Identity(b"\1" * 32)


def base58_by_hand(data: bytes) -> str:
    number, text = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = ALPHABET[digit] + text
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + text


def test_the_id_of_a_known_key_is_libp2ps() -> None:
    # multihash identity, 36 bytes | PublicKey: field 1 = Ed25519, field 2 = 32 bytes | the key
    encoded = bytes.fromhex("0024" + "0801" + "1220") + ZERO_SEED_PUBLIC
    assert OURS.public_bytes == ZERO_SEED_PUBLIC
    assert OURS.peer_id == base58_by_hand(encoded)
    assert OURS.peer_id == "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


def test_the_identity_file_is_libp2ps() -> None:
    assert OURS.to_libp2p() == bytes.fromhex("08011240") + bytes(32) + ZERO_SEED_PUBLIC


@given(seed=st.binary(min_size=32, max_size=32))
def test_a_key_survives_its_file_and_its_id(seed: bytes) -> None:
    identity = Identity(seed)
    again = Identity.from_libp2p(identity.to_libp2p())
    assert again.peer_id == identity.peer_id
    assert public_bytes_of(identity.peer_id) == identity.public_bytes
    assert peer_id_of(identity.public_bytes) == parse_peer_id(identity.peer_id) == identity.peer_id


@pytest.mark.parametrize(
    "data",
    [
        b"",
        OURS.to_libp2p()[:-1],
        OURS.to_libp2p() + b"\0",
        b"\x08\x00" + OURS.to_libp2p()[2:],
        OURS.to_libp2p()[:36] + THEIRS.public_bytes,
    ],
    ids=["empty", "short", "long", "another key type", "halves that do not fit"],
)
def test_other_files_are_no_identity(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        Identity.from_libp2p(data)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "12D3KooW",
        OURS.peer_id[:-1],
        OURS.peer_id + "1",
        "1" + OURS.peer_id,
        "0" + OURS.peer_id[1:],
        OURS.peer_id[:-1] + "\u00e9",
        " " + OURS.peer_id,
        OURS.peer_id + " ",
        OURS.peer_id + "\n",
        OURS.peer_id + "\x0b",
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        base58_by_hand(bytes.fromhex("002408001220") + ZERO_SEED_PUBLIC),
        base58_by_hand(bytes.fromhex("002308011220") + ZERO_SEED_PUBLIC[1:]),
        "1" * 65,
        "z" * 100_000,
    ],
    ids=[
        *("empty", "one digit", "prefix alone", "cut off", "one more", "leading zero"),
        *("no base58", "no ASCII", "blank before", "blank after", "newline", "other blank"),
        *("an RSA key", "another key type", "a shorter key", "too long", "far too long"),
    ],
)
def test_other_texts_are_no_peer_id(text: str) -> None:
    with pytest.raises(MalformedMessage):
        parse_peer_id(text)


@given(text=st.text(max_size=70) | st.text(ALPHABET, min_size=50, max_size=54))
def test_any_text_is_a_peer_id_or_malformed(text: str) -> None:
    with contextlib.suppress(MalformedMessage):
        assert peer_id_of(public_bytes_of(text)) == text  # one key has one id


def test_verify_accepts_what_the_owner_signed() -> None:
    verify(OURS.peer_id, OURS.sign(b"data"), b"data")


@pytest.mark.parametrize(
    ("peer_id", "signature", "data"),
    [
        (THEIRS.peer_id, OURS.sign(b"data"), b"data"),
        (OURS.peer_id, OURS.sign(b"data"), b"Data"),
        (OURS.peer_id, OURS.sign(b"data"), b"data\0"),
        (OURS.peer_id, OURS.sign(b"data")[:-1], b"data"),
        (OURS.peer_id, OURS.sign(b"data") + b"\0", b"data"),
        (OURS.peer_id, b"", b"data"),
    ],
    ids=["another owner", "altered", "longer", "cut signature", "long signature", "no signature"],
)
def test_verify_refuses_everything_else(peer_id: str, signature: bytes, data: bytes) -> None:
    with pytest.raises(BadSignature):
        verify(peer_id, signature, data)


def test_verify_refuses_each_flipped_bit() -> None:
    for at in range(512):
        signature = bytearray(OURS.sign(b"data"))
        signature[at // 8] ^= 1 << at % 8
        with pytest.raises(BadSignature):
            verify(OURS.peer_id, bytes(signature), b"data")
