"""The listening side: Hello, Note, Ping, Fetch and Report, for peers whose identity is proven."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import NoReturn, TypeAlias, TypeVar

import grpc
import grpc.aio

from peer.net import frames, tls
from peer.net.admission import (
    PROOF_KEY,
    Admitted,
    Membership,
    decide_hello,
    invite_proof,
    parse_hello,
)
from peer.net.config import WireConfig, channel_options
from peer.net.congestion import prefer_bbr
from peer.net.counters import ByteCounters
from peer.net.pace import Pace
from peer.net.probe import Probe
from peer.net.rates import LinkRates
from peer.net.reach import Reach
from peer.net.refusals import RefusalLog
from peer.net.serving import Serving
from peer.net.tunnel import PIECE_BYTES
from peer.ports import Inbox
from peer.signs import Signs
from protocol.errors import ConfigError, NotAvailable, RemoteError, TransportError
from protocol.identity import Identity, PeerId
from protocol.messages import parse_note
from protocol.pb import thinwire_pb2 as pb

logger = logging.getLogger(__name__)

Context: TypeAlias = grpc.aio.ServicerContext
Answer = TypeVar("Answer")


class WireServer:
    """Answers other peers' calls. Made by `GrpcWire`.

    Who cannot finish the TLS handshake never gets here, and gRPC tells nobody in Python about it.
    """

    def __init__(
        self,
        identity: Identity,
        config: WireConfig,
        *,
        membership: Membership,
        inbox: Inbox,
        counters: ByteCounters,
        rates: LinkRates,
        pace: Pace,
        signs: Signs,
    ) -> None:
        self._identity = identity
        self._our_id = identity.peer_id
        self._config = config
        self._membership = membership
        self._inbox = inbox
        self._counters = counters
        self._signs = signs
        self._pace = pace
        self._probe = Probe(pace, counters)
        self.on_report: Callable[[], bytes] | None = None
        """Returns how this peer is, signed; None where there is nothing to tell."""
        self._admitted = Admitted()
        self._refusals = RefusalLog(logger)
        self._serving = Serving(config, inbox, counters, self._refusals, rates=rates.up, pace=pace)
        self._server = grpc.aio.server(options=_server_options(config))
        handlers = {
            "Hello": grpc.unary_unary_rpc_method_handler(self._on_hello),
            "Ping": grpc.unary_unary_rpc_method_handler(self._on_ping),
            "Note": grpc.unary_unary_rpc_method_handler(self._on_note),
            "Fetch": grpc.unary_stream_rpc_method_handler(self._on_fetch),
            "Report": grpc.unary_unary_rpc_method_handler(self._on_report),
            "Probe": grpc.stream_stream_rpc_method_handler(self._on_probe),
        }
        generic = grpc.method_handlers_generic_handler(frames.SERVICE, handlers)
        self._server.add_generic_rpc_handlers((generic,))
        host = f"[{config.listen_host}]" if ":" in config.listen_host else config.listen_host
        try:
            self.listen_port: int = self._server.add_secure_port(
                f"{host}:{config.listen_port}", tls.server_credentials(identity)
            )
        except RuntimeError:
            raise ConfigError(
                f"cannot listen on {host}:{config.listen_port}: another process does, or that is "
                "no address of this machine; choose another port or host with --listen"
            ) from None

    def attach(self, reach: Reach) -> None:
        """Serves those who cannot be dialled, and is served by tunnels itself; before `start`."""

        async def on_listen(request: bytes, context: Context) -> None:
            src = await self._member(context)
            await self._or_abort(context, src, reach.switchboard.on_listen(src, context))

        async def on_tunnel(requests: object, context: Context) -> None:
            src = await self._member(context)
            await self._or_abort(context, src, reach.switchboard.on_tunnel(src, context))

        async def on_dial_back(request: bytes, context: Context) -> bytes:
            src = await self._member(context)
            return await self._or_abort(
                context, src, reach.dial_back.answer(src, request, caller=context.peer())
            )

        handlers = {
            "Listen": grpc.unary_stream_rpc_method_handler(on_listen),
            "Tunnel": grpc.stream_stream_rpc_method_handler(on_tunnel),
            "DialBack": grpc.unary_unary_rpc_method_handler(on_dial_back),
        }
        generic = grpc.method_handlers_generic_handler(frames.SERVICE, handlers)
        self._server.add_generic_rpc_handlers((generic,))
        credentials = tls.server_credentials(self._identity)  # of which each port needs its own
        self._server.add_secure_port(f"unix:{reach.server_path}", credentials)

    async def start(self) -> None:
        """Begins to listen."""
        await self._server.start()
        prefer_bbr(self.listen_port)

    async def close(self) -> None:
        """Stops listening, and breaks all calls off."""
        await self._server.stop(None)

    def forget(self, peer_id: PeerId) -> None:
        """Makes a peer say Hello again."""
        self._admitted.discard(peer_id)

    async def _on_hello(self, request: bytes, context: Context) -> bytes:
        src = await self._proven(context)
        self._counters.received["hello"] += len(request)
        try:
            message = parse_hello(request)
        except RemoteError as error:
            await self._refuse(context, src, error)
        reply = decide_hello(self._membership, message, our_id=self._our_id, their_id=src)
        if reply.welcome:
            self._admitted.add(src)
            if self._membership.secret is not None:
                proof = invite_proof(self._membership.secret, self._our_id, src)
                context.set_trailing_metadata(((PROOF_KEY, proof),))
        else:
            self._admitted.discard(src)
            self._refusals.refuse(src, "hello", reply.reason)
        data: bytes = reply.SerializeToString()
        self._counters.sent["hello"] += len(data)
        return data

    async def _on_note(self, request: bytes, context: Context) -> bytes:
        src = await self._member(context)
        self._counters.received["note"] += len(request)
        config = self._config
        try:
            note = parse_note(
                request,
                max_bytes=config.max_message_bytes,
                num_fragments=config.num_fragments,
                max_peers=config.max_peers,
                domain=config.domain,
            )
            self._inbox.on_note(src, note)
        except RemoteError as error:
            self._refusals.refuse(src, type(error).__name__, str(error))
            refused: bytes = pb.NoteReply(reason=str(error)).SerializeToString()
            return refused
        taken: bytes = pb.NoteReply(taken=True).SerializeToString()
        return taken

    async def _on_ping(self, request: bytes, context: Context) -> bytes:
        await self._member(context)
        return b""

    async def _on_report(self, request: bytes, context: Context) -> bytes:
        await self._member(context)
        if self.on_report is None:
            code = grpc.StatusCode.FAILED_PRECONDITION
            await _abort(context, code, "this peer trains nothing and has nothing to report")
        data = self.on_report()
        await self._pace.take(len(data))
        self._counters.sent["report"] += len(data)
        return data

    async def _on_fetch(self, request: bytes, context: Context) -> None:
        src = await self._member(context)

        async def write(message: bytes, num_bytes: int) -> None:
            await context.write(message)

        try:
            await self._serving.serve(src, request, write)
            return
        except (asyncio.InvalidStateError, grpc.aio.InternalError):
            return  # the receiver hung up between two writes; there is nobody left to tell
        except NotAvailable as error:
            code, reason = grpc.StatusCode.FAILED_PRECONDITION, str(error)
        except RemoteError as error:
            await self._refuse(context, src, error)
        except TransportError as error:
            code, reason = grpc.StatusCode.ABORTED, str(error)
        logger.info("stopped sending to %s: %s", src, reason)
        # The status waits behind the unread chunk, in the stream's place, so a stalled reader
        # blocks its own streams only. What was served is free from now on.
        with contextlib.suppress(grpc.aio.InternalError):
            await _abort(context, code, reason)

    async def _on_probe(self, requests: object, context: Context) -> None:
        src = await self._member(context)
        answering = self._probe.answer(src, context.read, context.write, caller=context.peer())
        await self._or_abort(context, src, answering)

    async def _member(self, context: Context) -> PeerId:
        src = await self._proven(context)
        if src not in self._admitted:
            await _abort(context, grpc.StatusCode.UNAUTHENTICATED, "say hello first")
        self._signs.hear(src, asyncio.get_running_loop().time())
        return src

    async def _proven(self, context: Context) -> PeerId:
        """Returns who is calling; calls without a proven identity end here."""
        try:
            (leaf_pem,) = context.auth_context().get("x509_pem_cert", ()) or (b"",)
            return tls.verified_peer_id(leaf_pem)
        except (RemoteError, ValueError) as error:
            address = context.peer().rpartition(":")[0]  # without the port, which changes each time
            self._refusals.refuse(address, "identity", f"its identity is not proven: {error}")
            code = grpc.StatusCode.UNAUTHENTICATED
            await _abort(context, code, f"your identity is not proven: {error}")

    async def _or_abort(
        self, context: Context, src: PeerId, answering: Coroutine[None, None, Answer]
    ) -> Answer:
        """Returns what `answering` does; ends the call as its error says."""
        try:
            return await answering
        except RemoteError as error:
            await self._refuse(context, src, error)
        except TransportError as error:
            reason = str(error)
        with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.BaseError):  # they hung up
            await _abort(context, grpc.StatusCode.ABORTED, reason)
        raise asyncio.CancelledError

    async def _refuse(self, context: Context, src: PeerId, error: RemoteError) -> NoReturn:
        self._refusals.refuse(src, type(error).__name__, str(error))
        await _abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))


async def _abort(context: Context, code: grpc.StatusCode, details: str) -> NoReturn:
    await context.abort(code, details)
    raise AssertionError("abort() does not return")


def _server_options(config: WireConfig) -> list[tuple[str, int]]:
    return [
        *(option for option in channel_options() if "receive" not in option[0]),
        # Calls are small; what is over our own limit, but not by far, is refused with its name.
        ("grpc.max_receive_message_length", max(4 * config.max_message_bytes, 2 * PIECE_BYTES)),
        ("grpc.so_reuseport", 0),  # else two peers could share a port, and half the calls
        ("grpc.max_concurrent_streams", config.max_streams_per_peer + 16),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
        ("grpc.http2.max_ping_strikes", 0),
    ]
