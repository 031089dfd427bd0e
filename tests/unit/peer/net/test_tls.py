import datetime

import pytest
from cryptography import x509

from peer.net import tls
from protocol.errors import BadSignature, MalformedMessage
from protocol.identity import Identity

A, B = Identity(b"a" * 32), Identity(b"b" * 32)


def _leaf_pem(identity: Identity) -> bytes:
    _, chain_pem = tls._leaf(identity)
    leaf, *_ = x509.load_pem_x509_certificates(chain_pem)
    return tls._pem(leaf)


def test_a_leaf_proves_its_signers_peer_id() -> None:
    assert tls.verified_peer_id(_leaf_pem(A)) == A.peer_id


def test_a_leaf_signed_by_another_key_proves_nothing() -> None:
    forged = Identity(b"a" * 32)
    forged.private_key = B.private_key
    with pytest.raises(BadSignature, match=A.peer_id):
        tls.verified_peer_id(_leaf_pem(forged))


@pytest.mark.parametrize("data", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_garbage_is_no_certificate(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        tls.verified_peer_id(data)


def test_a_certificate_of_the_ca_names_no_peer() -> None:
    with pytest.raises(MalformedMessage, match="not the id of an Ed25519 key"):
        tls.verified_peer_id(tls._pem(tls._ca_certificate()))


def test_the_name_is_one_dns_label_of_the_key() -> None:
    label, _, rest = tls.target_name(A.peer_id).partition(".")
    assert len(label) == 52
    assert label.isalnum()
    assert label.islower()
    assert rest == "peer"
    assert tls.target_name(A.peer_id) != tls.target_name(B.peer_id)


def test_all_builds_agree_on_the_ca_key() -> None:
    numbers = tls._ca_key().public_key().public_numbers()
    assert hex(numbers.x)[:18] == "0xc77e6db1af6c8fcf"


def test_a_leaf_tolerates_clocks_that_are_wrong_by_hours() -> None:
    leaf = x509.load_pem_x509_certificate(_leaf_pem(A))
    now = datetime.datetime.now(datetime.UTC)
    assert leaf.not_valid_before_utc < now - datetime.timedelta(hours=23)
    assert leaf.not_valid_after_utc > now + datetime.timedelta(days=6)
