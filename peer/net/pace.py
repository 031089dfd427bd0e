"""Pace: who may send, or take, how many bytes now, under a cap that may depend on the hour.

The debt is kept in time, not in bytes: what goes at b bit/s moves the moment at which everything so
far is paid for by 8 x bytes / b seconds, and the next may go when that moment has come (the virtual
scheduling form of the leaky bucket, ITU-T I.371). So one message may always go, however large, and
another rate needs no conversion. In any T seconds at most b (T + BURST_S) / 8 bytes go, and one
message more.

Counted is what callers count, which is payload: TLS, HTTP/2, TCP and IP add about 4 %.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from peer.units import parse_minute_of_day, parse_rate_bps
from protocol.errors import ConfigError

BURST_S = 0.05
"""What was not used is kept for so long, and may go at once."""

MESSAGE_S = 0.02
"""A message should take so long: streams that share the link take turns by messages, and each must
have its turn long before its receiver gives it up."""

LEAST_MESSAGE_BYTES = 4096

REREAD_S = 1.0
"""The clock on the wall is looked at so often."""

LEAST_BPS = 64e3
"""Below, messages of the smallest size do not come in time where a few streams take turns."""


@dataclass(frozen=True, slots=True)
class Hours:
    """A part of every day, and its cap; past midnight where the end is not after the beginning."""

    begin_minute: int
    end_minute: int
    bps: float

    def contains(self, minute_of_day: int) -> bool:
        """Whether they are now; the first minute is among them, the last is not."""
        if self.begin_minute < self.end_minute:
            return self.begin_minute <= minute_of_day < self.end_minute
        return minute_of_day >= self.begin_minute or minute_of_day < self.end_minute


@dataclass(frozen=True, slots=True)
class Cap:
    """The most that may go, in bit/s; infinity where there is no cap."""

    usual_bps: float = math.inf
    hours: tuple[Hours, ...] = ()
    """Looked through in order; outside of all of them the usual cap holds."""

    def bps(self, minute_of_day: int) -> float:
        """Returns the cap at a minute of the day [0, 1440) in bit/s, or infinity."""
        return next((h.bps for h in self.hours if h.contains(minute_of_day)), self.usual_bps)


NO_CAP = Cap()


def parse_cap(text: str | None) -> Cap:
    """Returns the cap that `20M`, `20M,08:00-18:00=5M` or `off,22:00-06:30=1M` mean.

    None, `off` and `0` are no cap. The first span of hours in which the local time lies decides.

    Raises:
        ConfigError: it is none of them, or so low that nothing would arrive.
    """
    if text is None:
        return Cap()
    usual, *spans = text.split(",")
    try:
        usual_bps = math.inf if usual.strip() == "0" else _parse_bps(usual)
        return Cap(usual_bps, tuple(_parse_hours(span) for span in spans))
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _parse_hours(text: str) -> Hours:
    times, _, rate = text.partition("=")
    begin, dash, end = times.partition("-")
    if not (dash and rate):
        raise ValueError(f"{text!r:.60} is not a span with its rate, such as 08:00-18:00=5M")
    hours = Hours(parse_minute_of_day(begin), parse_minute_of_day(end), _parse_bps(rate))
    if hours.begin_minute == hours.end_minute:
        raise ValueError(f"{times!r:.60} is no time at all; the whole day is 00:00-24:00")
    return hours


def _parse_bps(text: str) -> float:
    if text.strip() == "off":
        return math.inf
    rate_bps = parse_rate_bps(text)
    if rate_bps < LEAST_BPS:
        raise ValueError(
            f"{text.strip()!r:.60} is {rate_bps:g} bit/s, on which nothing arrives in time; "
            "20M is 20 Mbit/s"
        )
    return rate_bps


def local_minute_of_day() -> int:
    """Returns the minutes since midnight, local time."""
    now = time.localtime()
    return 60 * now.tm_hour + now.tm_min


class Pace:
    """Lets bytes go at the cap's rate, in the order in which they were asked for.

    Args:
        cap: Of one direction of the whole peer.
        clock: Time in seconds; None for that of the running event loop.
        minute_of_day: What the clock on the wall says, [0, 1440).
    """

    def __init__(
        self,
        cap: Cap,
        *,
        clock: Callable[[], float] | None = None,
        minute_of_day: Callable[[], int] = local_minute_of_day,
    ) -> None:
        self._cap = cap
        self._clock = clock
        self._minute_of_day = minute_of_day
        self._bps = math.inf
        self._read_at_s = -math.inf
        self._paid_at_s = -math.inf
        """When everything that went is paid for."""
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def bps(self) -> float:
        """The cap at this hour in bit/s, or infinity."""
        now_s = self._now_s()
        if now_s - self._read_at_s >= REREAD_S:
            self._read_at_s = now_s
            self._bps = self._cap.bps(self._minute_of_day())
        return self._bps

    def chunk_bytes(self, most: int) -> int:
        """Returns how large a message should be at this rate, at most `most` bytes."""
        bps = self.bps
        if math.isinf(bps):
            return most
        return min(most, max(LEAST_MESSAGE_BYTES, int(bps * MESSAGE_S / 8)))

    async def take(self, num_bytes: int) -> None:
        """Returns when `num_bytes` may go; they count from then on, used or not."""
        if not self._waiting and self._passes(num_bytes):
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, num_bytes))
        if self._timer is None:
            self._call_up()
        await turn

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time() if self._clock is None else self._clock()

    def _passes(self, num_bytes: int) -> bool:
        """Lets them go, if they may go now."""
        now_s, bps = self._now_s(), self.bps
        if math.isinf(bps):
            self._paid_at_s = -math.inf
        elif self._paid_at_s > now_s:
            return False
        else:
            self._paid_at_s = max(self._paid_at_s, now_s - BURST_S) + 8 * num_bytes / bps
        return True

    def _call_up(self) -> None:
        """Lets go whose turn it is, and comes back when the next may have its turn."""
        self._timer = None
        while self._waiting:
            turn, num_bytes = self._waiting[0]
            if not turn.done():  # otherwise whoever waited was cancelled
                if not self._passes(num_bytes):
                    wait_s = min(self._paid_at_s - self._now_s(), REREAD_S)
                    loop = asyncio.get_running_loop()
                    self._timer = loop.call_later(wait_s, self._call_up)
                    return
                turn.set_result(None)
            self._waiting.popleft()
