"""Our side of the way to one peer: a channel that is dialled when needed, and dropped when broken.

Dialling is saying Hello at every known address at once; the first that answers wins, and TLS has
made sure that it is the right peer. After a failure further attempts fail at once until a back-off
has passed, unless the peer has published other addresses meanwhile.

A peer that cannot be dialled is reached by another way (see `ways`). A link remembers the one that
worked, and on a worse one looks for a better one now and then.
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
from peer.net.ways import WAYS, Candidate, Tunnels, Way, race
from protocol.errors import (
    LimitExceeded,
    NotAvailable,
    PeerGone,
    RemoteError,
    ThinwireError,
    TransportError,
)
from protocol.identity import Identity, PeerId

logger = logging.getLogger(__name__)

MAX_ADDRESSES = 8
BACKOFF_S = (0.2, 5.0)  # first and longest
BETTER_WAY_EVERY_S = {"reverse": 180.0, "relayed": 30.0}
"""How often a better way is looked for."""
HAND_OVER_S = (5.0, 60.0)
"""Calls that are about to begin, and those under way, when a better way has been found."""

WAIT_S: dict[Way, float] = {"direct": DIAL_S, "reverse": 2 * DIAL_S, "relayed": 2 * DIAL_S}
"""How long dialling may take: a tunnel is opened first, which is one connection, or two."""
Channel: TypeAlias = grpc.aio.Channel
CALL_ERRORS = (grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError)
"""How a call can fail: a finished one raises the second, one on a closed channel the third."""

Addresses = Callable[[PeerId], Sequence[str]]


class Link:
    """The channel to one peer. Made by `GrpcWire`.

    Args:
        max_streams: how many fetches may run at once; more wait here, since the peer refuses them.
        tunnels: the ways besides dialling it.
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
        tunnels: Tunnels | None = None,
    ) -> None:
        self.peer_id = peer_id
        self.streams = asyncio.Semaphore(max_streams)
        self._identity = identity
        self._membership = membership
        self._addresses = addresses
        self._counters = counters
        self._software = software
        self._tunnels = tunnels
        self._channel: Channel | None = None
        self._others: set[Channel] = set()
        self._at: Candidate | None = None
        """Where the channel leads, or led when there was one."""
        self._is_doubtful = False
        self._better_at_s = 0.0
        self._upgrade: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        self._is_closed = False
        self._num_failures = 0
        self._retry_at_s = 0.0
        self._failure: ThinwireError = TransportError("never dialled")
        self._failed_at: tuple[Candidate, ...] = ()

    @property
    def way(self) -> Way | None:
        """The way in use; None while there is no channel."""
        return self._at.way if self._at is not None and self._channel is not None else None

    async def channel(self) -> Channel:
        """Returns a channel on which Hello was said.

        Raises:
            TransportError: the peer cannot be reached now.
            RemoteError: it refuses us.
        """
        async with self._lock:
            if self._channel is None:
                await self._dial(await self._candidates())
            self._look_for_better()
            return self._channel

    async def another_channel(self) -> Channel:
        """Returns a new connection to the same peer by the same way, until it or the link drops.

        Raises:
            TransportError, RemoteError: as `channel` does.
        """
        if self._is_doubtful and self._channel is not None:
            await self.hello()
        await self.channel()
        if self._at is None or self._channel is None:
            raise TransportError(f"the channel to {self.peer_id} was dropped")
        channel = self._open(self._at.address)
        self._others.add(channel)
        return channel

    async def hello(self, address: str | None = None) -> Welcome:
        """Says Hello, at `address` if one is given; the channel is kept.

        Raises:
            TransportError: the peer cannot be reached now.
            RemoteError: it refuses us.
        """
        async with self._lock:
            if self._channel is not None and address is None:
                try:
                    welcome = await self._say_hello(self._channel)
                except TransportError:
                    await self.drop()
                else:
                    self._is_doubtful = False
                    return welcome
            if address is not None:
                return await self._dial((Candidate("direct", address),), at_once=True)
            return await self._dial(await self._candidates())

    async def drop(self, channel: Channel | None = None) -> None:
        """Gives the channel up, so that the next call dials; not if it was replaced meanwhile.

        Other connections go with it. One of those given up is closed alone, but before there is
        another one, the peer must answer over the channel: perhaps the whole way is broken.
        """
        if channel is not None and channel in self._others:
            self._is_doubtful = True
            await self.release(channel)
            return
        if self._channel is None or channel not in (None, self._channel):
            return
        gone, self._channel, self._others = [self._channel, *self._others], None, set()
        for each in gone:
            await each.close(None)

    async def release(self, channel: Channel) -> None:
        """Closes one of the other connections, with which nothing is wrong."""
        self._others.discard(channel)
        await channel.close(None)

    def is_open(self, channel: Channel) -> bool:
        """Whether this is one of the connections in use."""
        return channel is self._channel or channel in self._others

    async def on_failure(
        self, channel: Channel, error: BaseException, *, wait_s: float
    ) -> ThinwireError:
        """Returns what the end of a call means, having done what is to be done about it.

        A channel that leads nowhere is given up. If they do not know us any more, Hello is said
        again, so that the call can be repeated.

        Args:
            channel: Over which the call went.
            error: One of `CALL_ERRORS`.
            wait_s: The deadline that the call had.
        """
        failure = error_from(error, our_wait_s=wait_s)
        if isinstance(failure, NotIntroduced):
            await self.hello()
        if isinstance(failure, ConnectionBroken):
            await self.drop(channel)
        return failure

    async def close(self) -> None:
        """Drops the channel for good."""
        self._is_closed = True
        if self._upgrade is not None:
            self._upgrade.cancel()
            await asyncio.gather(self._upgrade, return_exceptions=True)
        await self.drop()

    async def _candidates(self) -> tuple[Candidate, ...]:
        addresses = tuple(self._addresses(self.peer_id))[:MAX_ADDRESSES]
        tunnels = await self._tunnels.candidates(self.peer_id) if self._tunnels else ()
        return (*(Candidate("direct", address) for address in addresses), *tunnels)

    async def _dial(self, candidates: tuple[Candidate, ...], *, at_once: bool = False) -> Welcome:
        now_s = time.monotonic()
        if not candidates:
            raise TransportError(f"no address of {self.peer_id} is known")
        is_same = candidates == self._failed_at
        if now_s < self._retry_at_s and is_same and not at_once:
            wait_s = self._retry_at_s - now_s
            raise type(self._failure)(f"{self._failure}; next attempt in {wait_s:.1f} s")
        known_way = self._at.way if self._at is not None and now_s < self._better_at_s else "direct"
        try:
            channel, welcome, at = await race(
                candidates, self._attempt, first=known_way, undo=_close
            )
        except ThinwireError as error:
            self._num_failures = self._num_failures + 1 if is_same else 1
            first_s, longest_s = BACKOFF_S
            backoff_s = min(longest_s, first_s * 2 ** (self._num_failures - 1))
            self._retry_at_s = now_s + backoff_s * random.uniform(0.75, 1.25)
            self._failure, self._failed_at = error, candidates
            raise
        if self._is_closed:
            await channel.close(None)
            raise TransportError("the wire is closed")
        await self.drop()
        self._take(channel, at)
        self._num_failures, self._failed_at = 0, ()
        return welcome

    def _take(self, channel: Channel, at: Candidate) -> None:
        if at.way != ("direct" if self._at is None else self._at.way):
            logger.info("%s is reached: %s", self.peer_id, at.way)
        self._channel, self._at, self._is_doubtful = channel, at, False
        self._better_at_s = time.monotonic() + BETTER_WAY_EVERY_S.get(at.way, 0.0)

    def _look_for_better(self) -> None:
        """Tries the better ways in the background, while calls go on over this one."""
        now_s = time.monotonic()
        is_busy = self._upgrade is not None and not self._upgrade.done()
        if is_busy or self._at is None or self._at.way == "direct" or now_s < self._better_at_s:
            return
        self._better_at_s = now_s + BETTER_WAY_EVERY_S[self._at.way]
        self._upgrade = asyncio.create_task(self._move(WAYS[: WAYS.index(self._at.way)]))

    async def _move(self, ways: Sequence[Way]) -> None:
        better = tuple(each for each in await self._candidates() if each.way in ways)
        if not better:
            return
        try:
            channel, _, at = await race(better, self._attempt, first="direct", undo=_close)
        except ThinwireError as error:
            logger.debug("no better way to %s: %s", self.peer_id, error)
            return
        gone = [old for old in (self._channel, *self._others) if old is not None]
        self._others = set()
        self._take(channel, at)
        begin_s, end_s = HAND_OVER_S
        try:
            await asyncio.sleep(begin_s)
            await asyncio.gather(*(old.close(end_s) for old in gone))
        finally:
            for old in gone:
                await old.close(None)

    def _open(self, address: str) -> Channel:
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
        return grpc.aio.secure_channel(address, credentials, options)

    async def _attempt(self, at: Candidate) -> "Attempt":
        channel = self._open(at.address)
        try:
            return channel, await self._say_hello(channel, wait_s=WAIT_S[at.way]), at
        except TransportError as error:
            await channel.close(None)
            where = f"at {at.address}" if at.way == "direct" else at.way
            is_gone = at.way == "direct" and "Connection refused" in str(error)
            kind = PeerGone if is_gone else TransportError
            raise kind(f"{self.peer_id} {where}: {error}") from None
        except BaseException:
            await channel.close(None)
            raise

    async def _say_hello(self, channel: Channel, *, wait_s: float = DIAL_S) -> Welcome:
        ours, our_id = self._membership, self._identity.peer_id
        message = hello(ours, our_id=our_id, their_id=self.peer_id, software=self._software)
        request: bytes = message.SerializeToString()
        call = channel.unary_unary(frames.HELLO)(request, timeout=wait_s)
        try:
            data: bytes = await call
            metadata = await call.trailing_metadata()
        except CALL_ERRORS as error:
            raise error_from(error, our_wait_s=wait_s) from None
        self._counters.sent["hello"] += len(request)
        self._counters.received["hello"] += len(data)
        proof = next((value for key, value in metadata or () if key == PROOF_KEY), b"")
        return parse_reply(data, ours=ours, our_id=our_id, their_id=self.peer_id, proof=proof)


Attempt: TypeAlias = tuple[Channel, Welcome, Candidate]


async def _close(attempt: Attempt) -> None:
    await attempt[0].close(None)


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
        case grpc.StatusCode.FAILED_PRECONDITION:
            return NotAvailable(f"they have no more of it: {details}")
        case grpc.StatusCode.INVALID_ARGUMENT:
            return RemoteError(f"they refuse: {details}")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return LimitExceeded(f"they sent too much at once: {details}")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return TransportError(f"no answer for {our_wait_s:g} s")
        case grpc.StatusCode.UNAVAILABLE if "handshake failed" in details:
            return ConnectionBroken(
                "the TLS handshake failed: somebody else answers there, or a clock is days off"
            )
        case grpc.StatusCode.UNAVAILABLE:
            return ConnectionBroken(f"not reachable: {details}")
        case code:
            return TransportError(f"{code.name.lower()}: {details}")
