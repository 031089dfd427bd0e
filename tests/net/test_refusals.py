"""Peers that do not belong here, and what the log says of them."""

from typing import Any

import grpc
import grpc.aio
import pytest

from peer.net import frames, tls
from peer.net.wire import fetch_manifest
from protocol.errors import RemoteError, RunMismatch, TransportError
from protocol.identity import Identity
from protocol.machine import BlobRef
from protocol.manifest import LimitSpec, Manifest, RoundSpec, sign_manifest, verify_manifest
from protocol.messages import Member, Ready, Roster, note_to_bytes
from protocol.models import ModelSpec
from tests.blobs import fetched

pytestmark = pytest.mark.net

NOTE = Ready(fragment=0, round=3, tokens=7, anchor_digest=b"d" * 32)
REF = BlobRef("part", 0, b"e" * 16, 1)
FOUNDER, JOINER = Identity(b"f" * 32), Identity(b"j" * 32)
SECRET = b"s" * 16


def _manifest(**changes: Any) -> dict:
    manifest = Manifest(founder=FOUNDER.peer_id, **changes)
    return {
        "run_id": manifest.run_id,
        "manifest_bytes": manifest.to_bytes(),
        "manifest_signature": sign_manifest(manifest, FOUNDER),
    }


async def test_a_changed_manifest_is_refused_with_the_difference(
    net: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ours = _manifest()
    theirs = _manifest(model=ModelSpec(layers=6), round=RoundSpec(grace_s=5.0))
    a, b = await net.start(1, **ours), await net.start(2, **theirs)
    with pytest.raises(RunMismatch) as raised:
        await a.wire.send(b.peer_id, NOTE)
    assert "model.layers: 4 here, 6 there" in str(raised.value)
    assert "round.grace_s: 3.0 here, 5.0 there" in str(raised.value)
    assert caplog.text.count(f"refused peer {a.peer_id}") == 1
    assert b.inbox.notes.empty()


async def test_a_joiner_gets_the_manifest(net: Any) -> None:
    settings = _manifest()
    host = await net.start(1, **settings)
    data, signature = await fetch_manifest(
        JOINER, host.peer_id, net.addresses(host.peer_id), run_id=settings["run_id"]
    )
    verify_manifest(data, signature, run_id=settings["run_id"], founder=FOUNDER.peer_id)


async def test_a_joiner_finds_the_one_address_that_answers(net: Any) -> None:
    settings = _manifest()
    host = await net.start(1, **settings)
    addresses = ["127.0.0.1:1", *net.addresses(host.peer_id)]
    data, _ = await fetch_manifest(JOINER, host.peer_id, addresses, run_id=settings["run_id"])
    assert data == settings["manifest_bytes"]


async def test_a_joiner_is_told_when_nobody_answers(net: Any) -> None:
    with pytest.raises(TransportError, match="not reachable"):
        await fetch_manifest(JOINER, FOUNDER.peer_id, ["127.0.0.1:1"], run_id="ab" * 32)


async def test_invited_peers_come_in(net: Any) -> None:
    settings = _manifest()
    a = await net.start(1, **settings, secret=SECRET)
    b = await net.start(2, **settings, secret=SECRET)
    await a.wire.send(b.peer_id, NOTE)
    assert await b.inbox.notes.get() == (a.peer_id, NOTE)
    data, _ = await fetch_manifest(
        JOINER,
        a.peer_id,
        net.addresses(a.peer_id),
        run_id=settings["run_id"],
        secret=SECRET,
    )
    assert data == settings["manifest_bytes"]


@pytest.mark.parametrize("secret", [None, b"x" * 16], ids=["no secret", "another secret"])
async def test_strangers_do_not_come_into_a_run_by_invitation(
    net: Any, secret: bytes | None
) -> None:
    settings = _manifest()
    a = await net.start(1, **settings, secret=secret)
    b = await net.start(2, **settings, secret=SECRET)
    with pytest.raises(RunMismatch, match="by invitation") as raised:
        await a.wire.send(b.peer_id, NOTE)
    assert "manifest" not in str(raised.value)
    assert b.inbox.notes.empty()


async def test_an_invited_peer_asks_strangers_for_nothing(net: Any) -> None:
    settings = _manifest()
    a = await net.start(1, **settings, secret=SECRET)
    stranger = await net.start(2, **settings)
    with pytest.raises(RunMismatch, match="was not invited"):
        await fetched(a.wire, stranger.peer_id, REF, 100)


async def test_nobody_is_served_without_hello(net: Any) -> None:
    b = await net.start(2)
    credentials = tls.channel_credentials(JOINER, b.peer_id)
    options = [("grpc.ssl_target_name_override", tls.target_name(b.peer_id))]
    (address,) = net.addresses(b.peer_id)
    async with grpc.aio.secure_channel(address, credentials, options) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="say hello first"):
            await channel.unary_unary(frames.NOTE)(note_to_bytes(NOTE))
        with pytest.raises(grpc.aio.AioRpcError, match="say hello first"):
            await channel.unary_stream(frames.FETCH)(frames.request_of(REF)).read()
    assert b.inbox.notes.empty()


async def test_a_note_over_the_limit_is_logged_once_with_its_sender(
    net: Any, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = await net.start(1), await net.start(2, max_message_bytes=1024)
    members = tuple(Member(Identity(bytes([i]) * 32).peer_id, 1) for i in range(40))
    for count in (30, 35, 40):
        with pytest.raises(RemoteError, match="at most 1024 are allowed"):
            await a.wire.send(b.peer_id, Roster(0, 1, b"e" * 16, members[:count], (1,) * count))
    (line,) = [record.getMessage() for record in caplog.records]
    assert a.peer_id in line
    assert "at most 1024" in line


async def test_a_blob_of_no_known_kind_is_refused(
    net: Any, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = await net.start(1), await net.start(2)
    with pytest.raises(RemoteError, match="no kind of blob 'passwd'"):
        await fetched(a.wire, b.peer_id, BlobRef("passwd"), 100)
    assert a.peer_id in caplog.text


async def test_limits_of_the_manifest_are_the_defaults() -> None:
    from peer.net.config import WireConfig

    config, limits = WireConfig(run_id="ab" * 32), LimitSpec()
    assert config.chunk_bytes == limits.chunk_bytes
    assert config.max_message_bytes == limits.max_message_bytes
    assert config.max_streams_per_peer == limits.max_streams_per_peer
    assert config.max_peers == limits.max_peers
    assert config.progress_s == RoundSpec().progress_s
