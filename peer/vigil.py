"""Notes and fetches, to and from peers of whom we make sure that they live.

Theory of operation
-------------------
A link may be so thin that nothing comes for seconds, and a blob may still be in the making. But a
process answers a ping, while one that is frozen, or whose machine is gone, does not; no traffic
over its connections shows that, for the kernel acknowledges what a frozen process never reads. So
while a fetch or a note is under way, and nothing at all has come from its peer for `IDLE_S`, the
peer is pinged. If `PATIENCE_S` later there is neither an answer nor any other sign of life, all
that wait for it end at once with `PeerSilent`: 1.4 s after the last sign, where progress alone
would tell after `progress_s`, and a header after twice that.

Who is far away, or behind a queue, answers late: the patience is `TRIPS` of its round trips if that
is longer, but never more than `progress_s`. While a peer answers, only progress counts, as ever.

It may be us who were frozen, or busy: then timers are late, and what came meanwhile has not been
read yet. Whoever wakes late begins anew.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from peer.ports import Sink, Wire
from protocol.errors import NotAvailable, PeerSilent, RemoteError, ThinwireError, TransportError
from protocol.exchange import Failure
from protocol.identity import PeerId
from protocol.machine import BlobRef
from protocol.messages import Note

IDLE_S = 0.4
"""After so long without a sign of life a peer is pinged."""
PATIENCE_S = 1.0
"""So long it has for the answer, at least."""
TRIPS = 3.0
"""So many of its round trips, if that is longer."""
AGAIN_S = 0.1
"""A ping that was refused is repeated after so long: perhaps its connection had just broken."""
LATE_S = 0.25
"""Who wakes up so much later than planned was stopped itself."""


@dataclass(slots=True)
class _Watch:
    """Over one peer, for everything that waits for it."""

    limits: dict[asyncio.Timeout, None] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None


class Vigil:
    """See the module docstring.

    Args:
        wire: Over which to fetch, and to ping.
        progress_s: The run's: after so long without progress the wire gives up by itself.
    """

    def __init__(self, wire: Wire, *, progress_s: float) -> None:
        self._wire = wire
        self._progress_s = progress_s
        self._watches: dict[PeerId, _Watch] = {}

    async def fetch(self, src: PeerId, ref: BlobRef, sink: Sink) -> None:
        """Gets what is missing of a blob; see `peer.ports.Wire`.

        Raises:
            PeerSilent: `src` does not even answer a ping.
            RemoteError, TransportError: as the wire does.
        """
        async with self._watched(src):
            await self._wire.fetch(src, ref, sink)

    async def send(self, dst: PeerId, note: Note) -> None:
        """Delivers one note, once or not at all; see `peer.ports.Wire`.

        Raises:
            PeerSilent: `dst` does not even answer a ping.
            RemoteError, TransportError: as the wire does.
        """
        async with self._watched(dst):
            await self._wire.send(dst, note)

    @asynccontextmanager
    async def _watched(self, peer: PeerId) -> AsyncIterator[None]:
        """Ends what is under way here when the peer is silent."""
        try:
            async with asyncio.timeout(None) as limit:
                watch = self._watches.setdefault(peer, _Watch())
                watch.limits[limit] = None
                if watch.task is None:
                    watch.task = asyncio.get_running_loop().create_task(self._keep(peer, watch))
                try:
                    yield
                finally:
                    watch.limits.pop(limit, None)
                    if not watch.limits and self._watches.get(peer) is watch:
                        del self._watches[peer]
                        watch.task.cancel()
        except TimeoutError:
            raise PeerSilent(f"{peer} does not even answer a ping") from None

    async def _keep(self, peer: PeerId, watch: _Watch) -> None:
        """Watches until the peer is silent, and ends all that wait for it."""
        loop = asyncio.get_running_loop()
        seen_s = loop.time()
        while True:
            seen_s = max(seen_s, self._wire.signs.heard_at_s(peer))
            due_s = seen_s + IDLE_S
            if loop.time() < due_s:
                await asyncio.sleep(due_s - loop.time())
                if loop.time() > due_s + LATE_S:
                    seen_s = loop.time()
            elif await self._is_there(peer):
                seen_s = loop.time()
            else:
                break
        del self._watches[peer]
        for limit in watch.limits:
            limit.reschedule(loop.time())

    async def _is_there(self, peer: PeerId) -> bool:
        """Returns whether an answer comes before there was no other sign for too long, either."""
        loop, patience_s = asyncio.get_running_loop(), self._patience_s(peer)
        until_s = loop.time() + patience_s
        while (left_s := until_s - loop.time()) > 0:
            try:
                await self._wire.ping(peer, wait_s=left_s)
            except RemoteError:
                return True  # it refuses us, but lives
            except TransportError:
                await asyncio.sleep(max(0.0, min(AGAIN_S, until_s - loop.time())))
            else:
                return True
            if loop.time() > until_s + LATE_S:
                return True
            until_s = max(until_s, self._wire.signs.heard_at_s(peer) + IDLE_S + patience_s)
        return False

    def _patience_s(self, peer: PeerId) -> float:
        if self._wire.signs.heard_at_s(peer) == float("-inf"):
            return self._progress_s  # it is dialled for the first time
        return min(self._progress_s, max(PATIENCE_S, TRIPS * self._wire.signs.trip_s(peer)))


def failure_of(error: ThinwireError) -> Failure:
    """Returns what a failed fetch means to the machines."""
    if isinstance(error, NotAvailable):
        return Failure.ABSENT
    return Failure.SILENT if isinstance(error, PeerSilent) else Failure.BROKEN
