"""Who may claim to be whom: attacks on the identity of clients and servers."""

import asyncio
import datetime
import os
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519

from peer.net import frames, tls
from protocol.errors import TransportError
from protocol.identity import Identity, PeerId, public_bytes_of
from protocol.messages import Ready

pytestmark = pytest.mark.net

NOTE = Ready(fragment=0, round=3, tokens=7, anchor_digest=b"d" * 32)
VICTIM, MALLORY = Identity(b"v" * 32), Identity(b"m" * 32)


class Forged:
    """Mallory's key under the victim's name."""

    peer_id = VICTIM.peer_id
    private_key = MALLORY.private_key


def _forged_identity_certificate(peer_id: PeerId) -> x509.Certificate:
    """Made with the public CA: the victim's name for Mallory's key."""
    builder = tls._ca_builder(peer_id, issuer=tls._CA_NAME, path_length=0)
    key = ed25519.Ed25519PublicKey.from_public_bytes(public_bytes_of(MALLORY.peer_id))
    return builder.public_key(key).sign(tls._ca_key(), hashes.SHA256())


async def _note_as(credentials: Any, net: Any, server_id: PeerId) -> grpc.StatusCode:
    options = [("grpc.ssl_target_name_override", tls.target_name(server_id))]
    (address,) = net.addresses(server_id)
    async with grpc.aio.secure_channel(address, credentials, options) as channel:
        try:
            await channel.unary_unary(frames.HELLO)(b"", timeout=5)
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


async def test_both_sides_prove_who_they_are(net: Any) -> None:
    a, b = await net.start(1), await net.start(2)
    await a.wire.send(b.peer_id, NOTE)
    await b.wire.send(a.peer_id, NOTE)
    assert await b.inbox.notes.get() == (a.peer_id, NOTE)
    assert await a.inbox.notes.get() == (b.peer_id, NOTE)


async def test_a_client_without_a_certificate_is_refused(net: Any) -> None:
    a = await net.start(1)
    credentials = grpc.ssl_channel_credentials(tls._pem(tls._anchor(a.peer_id)))
    assert await _note_as(credentials, net, a.peer_id) is grpc.StatusCode.UNAVAILABLE


async def test_a_leaf_signed_by_another_key_is_refused(net: Any) -> None:
    a = await net.start(1)
    credentials = tls.channel_credentials(Forged, a.peer_id)
    assert await _note_as(credentials, net, a.peer_id) is grpc.StatusCode.UNAVAILABLE


async def test_a_forged_identity_certificate_is_refused(
    net: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    a = await net.start(1)
    monkeypatch.setattr(tls, "_identity_certificate", _forged_identity_certificate)
    credentials = tls.channel_credentials(Forged, a.peer_id)
    for _ in range(3):
        assert await _note_as(credentials, net, a.peer_id) is grpc.StatusCode.UNAUTHENTICATED
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"not signed by {VICTIM.peer_id}" in caplog.text


async def test_somebody_elses_certificate_does_not_help(
    net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await net.start(1)
    key_pem, chain_pem = tls._leaf(MALLORY)
    leaf_pem, end, rest_pem = chain_pem.partition(b"-----END CERTIFICATE-----\n")
    chain_pem = (
        leaf_pem + end + tls._pem(tls._identity_certificate(VICTIM.peer_id)) + rest_pem
    )  # the victim's before our own
    credentials = grpc.ssl_channel_credentials(tls._pem(tls._anchor(a.peer_id)), key_pem, chain_pem)
    seen = []
    monkeypatch.setattr(a.wire._server._admitted, "discard", seen.append)
    await _note_as(credentials, net, a.peer_id)
    assert seen == [MALLORY.peer_id]


@pytest.mark.parametrize("pretender", [MALLORY, Forged], ids=["own name", "false name"])
async def test_a_server_that_is_somebody_else_is_refused(net: Any, pretender: Any) -> None:
    async def fetch(request: bytes, context: Any) -> None:
        raise AssertionError("nobody should ask")

    credentials = tls.server_credentials(pretender)
    await net.start_scripted(ord("v"), fetch, credentials=credentials)
    a = await net.start(1)
    with pytest.raises(TransportError, match="somebody else answers there"):
        await a.wire.send(VICTIM.peer_id, NOTE)


async def test_garbage_on_the_port_hurts_nobody(
    net: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    a, b = await net.start(1), await net.start(2)
    for garbage in (os.urandom(10_000), b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff"):
        _, writer = await asyncio.open_connection("127.0.0.1", b.wire.listen_port)
        writer.write(garbage)
        await writer.drain()
        writer.close()
    await a.wire.send(b.peer_id, NOTE)
    assert await b.inbox.notes.get() == (a.peer_id, NOTE)
    assert capfd.readouterr().err == ""


async def test_a_server_renews_its_leaf(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    make_leaf = tls._leaf

    def leaf(identity: Identity) -> tuple[bytes, bytes]:
        made.append(identity.peer_id)
        return make_leaf(identity)

    monkeypatch.setattr(tls, "_leaf", leaf)
    with monkeypatch.context() as past:
        four_days_ago = tls._now() - datetime.timedelta(days=4)
        past.setattr(tls, "_now", lambda: four_days_ago)
        b = await net.start(2)
    a = await net.start(1)
    assert made == [b.peer_id] * 2 + [a.peer_id] * 2  # for the port, and for tunnels
    made.clear()
    await a.wire.hello(b.peer_id)
    assert sorted(made) == sorted([a.peer_id, b.peer_id])  # a's for dialling, b's renewed
    await a.wire.forget(b.peer_id)
    await a.wire.hello(b.peer_id)
    assert made[2:] == [a.peer_id]
