"""Our side of the way to one peer: a channel that is dialled when needed, and dropped when broken.

Dialling is saying Hello at every known address at once; the first that answers wins, and TLS has
made sure that it is the right peer. After a failure further attempts fail at once until a back-off
has passed, unless the peer has published other addresses meanwhile.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

import grpc
import grpc.aio

from peer.net import frames, tls
from peer.net.admission import PROOF_KEY, Membership, Welcome, hello, parse_reply
from peer.net.config import DIAL_S, channel_options
from peer.net.counters import ByteCounters
from peer.net.refusals import readable
from protocol.errors import LimitExceeded, RemoteError, ThinwireError, TransportError
from protocol.identity import Identity, PeerId

logger = logging.getLogger(__name__)

MAX_ADDRESSES = 8
BACKOFF_S = (0.2, 5.0)  # first and longest

Channel: TypeAlias = grpc.aio.Channel
CALL_ERRORS = (grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError)
"""How a call can fail: a finished one raises the second, one on a closed channel the third."""

Addresses = Callable[[PeerId], Sequence[str]]


class Link:
    """The channel to one peer. Made by `GrpcWire`.

    Args:
        max_streams: how many fetches may run at once; more wait here, since the peer refuses them.
    """

    def __init__(
        self,
        identity: Identity,
        peer_id: PeerId,
        *,
        membership: Membership,
        addresses: Addresses,
        counters: ByteCounters,
        software: str = "thinwire",
        max_streams: int = 1,
    ) -> None:
        self.peer_id = peer_id
        self.streams = asyncio.Semaphore(max_streams)
        self._identity = identity
        self._membership = membership
        self._addresses = addresses
        self._counters = counters
        self._software = software
        self._channel: Channel | None = None
        self._lock = asyncio.Lock()
        self._is_closed = False
        self._num_failures = 0
        self._retry_at_s = 0.0
        self._failure: ThinwireError = TransportError("never dialled")
        self._failed_addresses: tuple[str, ...] = ()

    async def channel(self) -> Channel:
        """Returns a channel on which Hello was said.

        Raises:
            TransportError: the peer cannot be reached now.
            RemoteError: it refuses us.
        """
        async with self._lock:
            if self._channel is None:
                await self._dial(tuple(self._addresses(self.peer_id))[:MAX_ADDRESSES])
            return self._channel

    async def hello(self, address: str | None = None) -> Welcome:
        """Says Hello, at `address` if one is given; the channel is kept.

        Raises:
            TransportError: the peer cannot be reached now.
            RemoteError: it refuses us.
        """
        async with self._lock:
            if self._channel is not None and address is None:
                try:
                    return await self._say_hello(self._channel)
                except TransportError:
                    await self.drop()
            addresses = tuple(self._addresses(self.peer_id)) if address is None else (address,)
            return await self._dial(addresses[:MAX_ADDRESSES], at_once=address is not None)

    async def drop(self, channel: Channel | None = None) -> None:
        """Gives the channel up, so that the next call dials; not if it was replaced meanwhile."""
        if self._channel is None or channel not in (None, self._channel):
            return
        gone, self._channel = self._channel, None
        await gone.close(None)

    async def close(self) -> None:
        """Drops the channel for good."""
        self._is_closed = True
        await self.drop()

    async def _dial(self, addresses: tuple[str, ...], *, at_once: bool = False) -> Welcome:
        now_s = time.monotonic()
        if not addresses:
            raise TransportError(f"no address of {self.peer_id} is known")
        is_same = addresses == self._failed_addresses
        if now_s < self._retry_at_s and is_same and not at_once:
            wait_s = self._retry_at_s - now_s
            raise type(self._failure)(f"{self._failure}; next attempt in {wait_s:.1f} s")
        try:
            channel, welcome = await self._race(addresses)
        except ThinwireError as error:
            self._num_failures = self._num_failures + 1 if is_same else 1
            first_s, longest_s = BACKOFF_S
            backoff_s = min(longest_s, first_s * 2 ** (self._num_failures - 1))
            self._retry_at_s = now_s + backoff_s * random.uniform(0.75, 1.25)
            self._failure, self._failed_addresses = error, addresses
            raise
        if self._is_closed:
            await channel.close(None)
            raise TransportError("the wire is closed")
        await self.drop()
        self._channel = channel
        self._num_failures, self._failed_addresses = 0, ()
        return welcome

    async def _race(self, addresses: tuple[str, ...]) -> tuple[Channel, Welcome]:
        """Returns the first channel over which the peer welcomes us; closes the others."""
        attempts = {asyncio.create_task(self._attempt(address)) for address in addresses}
        failures: list[ThinwireError] = []
        pending = attempts
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for attempt in done:
                    try:
                        winner = attempt.result()
                    except ThinwireError as error:
                        failures.append(error)
                    else:
                        attempts.discard(attempt)
                        return winner
        finally:
            for attempt in attempts:
                attempt.cancel()
            for result in await asyncio.gather(*attempts, return_exceptions=True):
                if isinstance(result, tuple):
                    await result[0].close(None)
        # A refusal comes from the peer itself, so it says more than any dead address.
        failures.sort(key=lambda error: not isinstance(error, RemoteError))
        raise failures[0]

    async def _attempt(self, address: str) -> tuple[Channel, Welcome]:
        options = [
            *channel_options(),
            ("grpc.ssl_target_name_override", tls.target_name(self.peer_id)),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
            ("grpc.enable_http_proxy", 0),
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 5_000),
        ]
        credentials = tls.channel_credentials(self._identity, self.peer_id)
        channel = grpc.aio.secure_channel(address, credentials, options)
        try:
            return channel, await self._say_hello(channel)
        except TransportError as error:
            await channel.close(None)
            raise TransportError(f"{self.peer_id} at {address}: {error}") from None
        except BaseException:
            await channel.close(None)
            raise

    async def _say_hello(self, channel: Channel) -> Welcome:
        ours, our_id = self._membership, self._identity.peer_id
        message = hello(ours, our_id=our_id, their_id=self.peer_id, software=self._software)
        request: bytes = message.SerializeToString()
        call = channel.unary_unary(frames.HELLO)(request, timeout=DIAL_S)
        try:
            data: bytes = await call
            metadata = await call.trailing_metadata()
        except CALL_ERRORS as error:
            raise error_from(error, our_wait_s=DIAL_S) from None
        self._counters.sent["hello"] += len(request)
        self._counters.received["hello"] += len(data)
        proof = next((value for key, value in metadata or () if key == PROOF_KEY), b"")
        return parse_reply(data, ours=ours, our_id=our_id, their_id=self.peer_id, proof=proof)


class ConnectionBroken(TransportError):
    """This channel leads nowhere any more: dial again."""


class NotIntroduced(RemoteError):
    """They do not know us, perhaps since they restarted: say Hello again."""


def error_from(error: BaseException, *, our_wait_s: float) -> ThinwireError:
    """Returns what a failed call means to us, in words for people.

    Args:
        error: one of `CALL_ERRORS`.
        our_wait_s: the deadline that we gave the call.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise error  # somebody cancels us, not just the call
    if not isinstance(error, grpc.aio.AioRpcError):
        return ConnectionBroken("the connection broke off")
    details = readable(str(error.details()))
    match error.code():
        case grpc.StatusCode.UNAUTHENTICATED:
            return NotIntroduced(f"they do not let us in: {details}")
        case grpc.StatusCode.INVALID_ARGUMENT:
            return RemoteError(f"they refuse: {details}")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return LimitExceeded(f"they sent too much at once: {details}")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return TransportError(f"no answer for {our_wait_s:g} s")
        case grpc.StatusCode.UNAVAILABLE if "handshake failed" in details:
            return ConnectionBroken("somebody else answers there: the TLS handshake failed")
        case grpc.StatusCode.UNAVAILABLE:
            return ConnectionBroken(f"not reachable: {details}")
        case code:
            return TransportError(f"{code.name.lower()}: {details}")
