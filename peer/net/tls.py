"""Mutual TLS in which a peer's certificate proves its peer id, and nothing else is trusted.

    thinwire CA (public constant) -> identity certificate (Ed25519, CN = peer id) -> leaf (ECDSA)

gRPC hands a client's certificate over only if it chains to a configured root, so all identity
certificates hang from one CA whose private key is derived from a constant. THE CA AUTHENTICATES
NOTHING: anybody can issue certificates with it. Identity is proven by the leaf, which must be
signed by the Ed25519 key that the peer id embeds; a server checks that in every call
(`verified_peer_id`), a client pins it by a trust anchor rebuilt from the peer id alone. Membership
is proven afterwards, by Hello.

The leaf is ECDSA because BoringSSL offers no Ed25519 leaves. It is valid for a week. A client makes
a new one each time it dials; a server asks for its certificate at each handshake and renews it when
half of its life is over, so a run may last for any time. Keys of leaves live in memory only.
"""

import base64
import datetime
import functools
import hashlib
import threading

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from protocol.errors import MalformedMessage
from protocol.identity import Identity, PeerId, parse_peer_id, public_bytes_of, verify

LEAF_LIFETIME = datetime.timedelta(days=7)
_CLOCK_SKEW = datetime.timedelta(days=1)  # home machines' clocks may be off by a time zone
_OLD = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_FAR = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)
_CA_NAME = "thinwire"
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def target_name(peer_id: str) -> str:
    """Returns the DNS-like name in a peer's certificates; base58 has no place in a DNS name."""
    return base64.b32encode(public_bytes_of(peer_id)).decode().rstrip("=").lower() + ".peer"


def server_credentials(identity: Identity) -> grpc.ServerCredentials:
    """Returns credentials that prove `identity`, and require some certificate of every client."""
    lock = threading.Lock()  # gRPC asks from threads of its own
    leaf_made = _now()

    def configuration() -> grpc.ServerCertificateConfiguration:
        key_pem, chain_pem = _leaf(identity)
        return grpc.ssl_server_certificate_configuration(
            [(key_pem, chain_pem)], _pem(_ca_certificate())
        )

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal leaf_made
        now = _now()
        with lock:
            if now - leaf_made < LEAF_LIFETIME / 2:
                return None  # keep the current one
            leaf_made = now
        return configuration()

    return grpc.dynamic_ssl_server_credentials(
        configuration(), renewed, require_client_authentication=True
    )


def channel_credentials(identity: Identity, peer_id: PeerId) -> grpc.ChannelCredentials:
    """Returns credentials that prove `identity`, for a channel that only `peer_id` can answer.

    The channel needs the option `("grpc.ssl_target_name_override", target_name(peer_id))`.
    """
    key_pem, chain_pem = _leaf(identity)
    return grpc.ssl_channel_credentials(_pem(_anchor(peer_id)), key_pem, chain_pem)


@functools.lru_cache(maxsize=4096)
def verified_peer_id(leaf_pem: bytes) -> PeerId:
    """Returns whose leaf this is: the key inside the id of its issuer must have signed it.

    The rest of the chain says nothing, since everybody can use the CA.

    Raises:
        BadSignature: the leaf was signed by another key.
        MalformedMessage: it is no leaf of ours.
    """
    try:
        leaf = x509.load_pem_x509_certificate(leaf_pem)
        names = leaf.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
        signed = leaf.tbs_certificate_bytes
    except (ValueError, UnsupportedAlgorithm):
        raise MalformedMessage("not a certificate") from None
    if len(names) != 1:
        raise MalformedMessage("the certificate's issuer is no peer id")
    peer_id = parse_peer_id(str(names[0].value))
    verify(peer_id, leaf.signature, signed)
    return peer_id


def _leaf(identity: Identity) -> tuple[bytes, bytes]:
    """Returns a new private key and the chain [leaf, identity certificate], as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = target_name(identity.peer_id)
    now = _now()
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    leaf = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(identity.peer_id))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + LEAF_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(identity.private_key, None)
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return key_pem, _pem(leaf, _identity_certificate(identity.peer_id))


@functools.lru_cache(maxsize=64)
def _identity_certificate(peer_id: PeerId) -> x509.Certificate:
    return _issue(peer_id, issuer=_CA_NAME, issuer_key=_ca_key())


@functools.lru_cache(maxsize=1024)
def _anchor(peer_id: PeerId) -> x509.Certificate:
    """Returns a root that only leaves signed by `peer_id` chain to.

    It is signed by a throw-away key: nobody checks the signature of a trust anchor.
    """
    return _issue(peer_id, issuer=peer_id, issuer_key=ed25519.Ed25519PrivateKey.generate())


def _issue(
    peer_id: PeerId,
    *,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey,
) -> x509.Certificate:
    public_key = ed25519.Ed25519PublicKey.from_public_bytes(public_bytes_of(peer_id))
    permitted = [x509.DNSName(target_name(peer_id))]
    return (
        _ca_builder(peer_id, issuer=issuer, path_length=0)
        .public_key(public_key)
        .add_extension(x509.NameConstraints(permitted, None), critical=True)
        .sign(issuer_key, hashes.SHA256() if issuer == _CA_NAME else None)
    )


@functools.cache
def _ca_key() -> ec.EllipticCurvePrivateKey:
    number = int.from_bytes(hashlib.sha256(b"thinwire CA").digest(), "big")
    return ec.derive_private_key(number % (_P256_ORDER - 1) + 1, ec.SECP256R1())


@functools.cache
def _ca_certificate() -> x509.Certificate:
    builder = _ca_builder(_CA_NAME, issuer=_CA_NAME, path_length=1)
    return builder.public_key(_ca_key().public_key()).sign(_ca_key(), hashes.SHA256())


def _ca_builder(subject: str, *, issuer: str, path_length: int) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .serial_number(x509.random_serial_number())
        .not_valid_before(_OLD)
        .not_valid_after(_FAR)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(key_cert_sign=True), critical=True)
    )


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _key_usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certificates)
