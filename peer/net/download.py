"""A blob on its way to us: in stripes, over as many connections as the link has use for.

It begins as one stripe for each connection that the partner's width says. A connection that is
through, or a new one, takes over the far half of what another has still to do. A stripe that breaks
off after some progress goes on where it stopped, over whatever way there is then.
"""

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable

from peer.net.transfer import Stripe
from peer.net.width import Width
from peer.ports import Sink
from protocol.errors import TransportError

logger = logging.getLogger(__name__)

WINDOW_S = 1.0
"""How often the width is thought over."""
MIN_HALF_BYTES = 256 * 1024
"""Less is not worth a request, and what is under way to whoever gives it away."""

FetchStripe = Callable[[Stripe, int], Awaitable[None]]
"""Receives one stripe over the connection of that number."""


class Download:
    """See the module docstring.

    Args:
        sink: Where it goes.
        fetch_stripe: How one stripe is fetched.
        width: The partner's; it may change meanwhile.
        received_bytes: Returns what has come from this partner so far, other downloads included.
        num_connections: Returns how many connections to this partner are in use.
        is_capped: Whether a goodput, in bit/s, is what our own cap allows.
    """

    def __init__(
        self,
        sink: Sink,
        fetch_stripe: FetchStripe,
        width: Width,
        received_bytes: Callable[[], int],
        num_connections: Callable[[], int],
        is_capped: Callable[[float], bool],
    ) -> None:
        self._sink = sink
        self._fetch_stripe = fetch_stripe
        self._width = width
        self._received_bytes = received_bytes
        self._num_connections = num_connections
        self._is_capped = is_capped
        self._waiting: list[Stripe] = []
        self._most_active = sys.maxsize
        self._active: dict[asyncio.Task[None], tuple[Stripe, int]] = {}

    async def run(self) -> None:
        """Returns when nothing is missing.

        Raises:
            RemoteError, TransportError: as one of the stripes did, when it cannot go on.
        """
        self._waiting = [Stripe(start, stop) for start, stop in self._sink.missing()]
        loop = asyncio.get_running_loop()
        began_s, began_bytes = loop.time(), self._received_bytes()
        try:
            while self._fill():
                wait_s = began_s + WINDOW_S - loop.time()
                done, _ = await asyncio.wait(
                    self._active, timeout=max(0.0, wait_s), return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    self._end(task)
                now_s, now_bytes = loop.time(), self._received_bytes()
                if now_s >= began_s + WINDOW_S:
                    goodput_bps = 8 * (now_bytes - began_bytes) / (now_s - began_s)
                    self._judge(goodput_bps, began_s, now_s)
                    began_s, began_bytes = now_s, now_bytes
        finally:
            for task in self._active:
                task.cancel()
            await asyncio.gather(*self._active, return_exceptions=True)

    def _fill(self) -> bool:
        """Gives every connection something to do; returns whether anything is under way."""
        for task, (_, connection) in self._active.items():
            if connection >= self._width.wanted:  # what it has not done goes to the others
                task.cancel()
        while len(self._active) < min(self._width.wanted, self._most_active):
            stripe = self._waiting.pop(0) if self._waiting else self._far_half()
            if stripe is None:
                break
            used = {connection for _, connection in self._active.values()}
            connection = next(i for i in range(len(used) + 1) if i not in used)
            task = asyncio.get_running_loop().create_task(self._fetch(stripe, connection))
            self._active[task] = stripe, connection
        return bool(self._active)

    def _judge(self, goodput_bps: float, began_s: float, now_s: float) -> None:
        if goodput_bps > 0:  # else it is still in the making
            self._width.on_window(
                goodput_bps,
                num_connections=self._num_connections(),
                began_s=began_s,
                now_s=now_s,
                is_capped=self._is_capped(goodput_bps),
            )

    async def _fetch(self, stripe: Stripe, connection: int) -> None:
        await self._fetch_stripe(stripe, connection)

    def _far_half(self) -> Stripe | None:
        """Takes it from the stripe that has most to do; None if that is not worth it."""
        if not self._sink.is_divisible:
            return None
        grain_bytes = self._sink.grain_bytes
        longest = max(
            (stripe for stripe, _ in self._active.values()),
            key=lambda stripe: stripe.stop - stripe.at,
            default=None,
        )
        if longest is None:
            return None
        middle = -(-(longest.at + longest.stop) // (2 * grain_bytes)) * grain_bytes
        if longest.stop - middle < MIN_HALF_BYTES or middle <= longest.at:
            return None
        half = Stripe(middle, longest.stop)
        longest.stop = middle
        return half

    def _end(self, task: "asyncio.Task[None]") -> None:
        stripe, _ = self._active.pop(task)
        if not task.cancelled() and (error := task.exception()):
            has_progressed = stripe.at > stripe.start
            if not isinstance(error, TransportError) or not (has_progressed or self._active):
                raise error
            logger.debug("going on at byte %d: %s", stripe.at, error)
            if not has_progressed:  # one of the others takes it, when it is through
                self._most_active = len(self._active)
        if stripe.at < stripe.stop:
            self._waiting.insert(0, Stripe(stripe.at, stripe.stop))
