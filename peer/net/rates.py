"""What this peer's link carries: measured rates of all partners together and of each, up and down.

They are kept in the peer's folder, so that it knows its link when it is started again.
"""

import contextlib
import json
import math
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peer.net.rate_meter import RateMeter
from protocol.identity import PeerId

RATES = "rates.json"

BUFFERED_BYTES = 256 * 1024
"""So much of an upload is in buffers, of gRPC and of the kernel, before the link sets the pace."""

PERIOD_S = 60.0
"""As of `RateMeter`, for the whole link: what a partner takes may change within seconds."""

MAX_PARTNERS = 256
_MAX_FILE_BYTES = 256 * 1024
_MAX_BPS = 1e15


def _uncapped() -> float:
    return math.inf


class Direction:
    """Rates of what we send, or of what we fetch. Times are arguments, in order.

    Args:
        cap_bps: What the cap allows now in bit/s, or infinity (`peer.net.pace.Pace.bps`).
        skipped_bytes: As of `RateMeter`.
    """

    def __init__(self, cap_bps: Callable[[], float] = _uncapped, *, skipped_bytes: int = 0) -> None:
        self._cap_bps = cap_bps
        self._skipped_bytes = skipped_bytes
        self._whole = RateMeter(period_s=PERIOD_S, skipped_bytes=skipped_bytes)
        self._partners: OrderedDict[PeerId, RateMeter] = OrderedDict()

    @property
    def measured_bps(self) -> float:
        """What all partners together were seen to do, whatever the cap is now; 0 is unknown."""
        return self._whole.bps

    @property
    def bps(self) -> float:
        """What can be done now in bit/s, as measured or as the cap allows; 0 is unknown."""
        measured_bps, cap_bps = self._whole.bps, self._cap_bps()
        if math.isinf(cap_bps):
            return measured_bps
        return min(measured_bps, cap_bps) if measured_bps else cap_bps

    def of(self, peer: PeerId) -> float:
        """Returns what was measured with a partner, as the cap allows, in bit/s; 0 is unknown."""
        meter = self._partners.get(peer)
        return min(meter.bps, self._cap_bps()) if meter else 0.0

    def began(self, peer: PeerId, now_s: float) -> None:
        """A transfer began. Call it when bytes can flow: waiting for an answer is no slow link."""
        for meter in (self._whole, self._meter(peer)):
            meter.began(now_s)

    def ended(self, peer: PeerId, now_s: float) -> None:
        """A transfer that began has ended, well or not."""
        for meter in (self._whole, self._meter(peer)):
            meter.ended(now_s)

    def on_bytes(self, peer: PeerId, num_bytes: int, now_s: float) -> None:
        """So many bytes more have come from a partner, or gone to it, by now."""
        for meter in (self._whole, self._meter(peer)):
            meter.on_bytes(num_bytes, now_s)

    def idled(self, peer: PeerId, idle_s: float) -> None:
        """So long, up to now, a transfer with a partner had nothing to send."""
        self._whole.idled(idle_s)
        self._meter(peer).idled(idle_s)

    def to_json(self) -> dict[str, Any]:
        """Returns all that is known, as plain data."""
        partners = {peer: round(meter.bps) for peer, meter in self._partners.items() if meter.bps}
        return {"bps": round(self._whole.bps), "partners": partners}

    def take_over(self, whole: RateMeter, partners: "OrderedDict[PeerId, RateMeter]") -> None:
        """Goes on from what others measured."""
        self._whole, self._partners = whole, partners
        for meter in (whole, *partners.values()):
            meter.skipped_bytes = self._skipped_bytes
        for meter in partners.values():
            meter.whole = whole

    def _meter(self, peer: PeerId) -> RateMeter:
        """Returns a partner's meter, the last in order."""
        meter = self._partners.get(peer)
        if meter is None:
            if len(self._partners) >= MAX_PARTNERS:
                self._forget_one()
            meter = self._partners[peer] = RateMeter(
                skipped_bytes=self._skipped_bytes, whole=self._whole
            )
        self._partners.move_to_end(peer)
        return meter

    def _forget_one(self) -> None:
        """Drops whoever was idle longest. The busy ones are bounded by the wire's own limits."""
        idle = (peer for peer, meter in self._partners.items() if not meter.is_busy)
        longest = next(idle, None)
        if longest is not None:
            del self._partners[longest]


class LinkRates:
    """What this peer's link carries, both ways.

    Args:
        up_cap_bps: What the cap on uploads allows now in bit/s, or infinity.
        down_cap_bps: The same of downloads.

    Attributes:
        up: Of what we send.
        down: Of what we fetch.
    """

    def __init__(
        self,
        *,
        up_cap_bps: Callable[[], float] = _uncapped,
        down_cap_bps: Callable[[], float] = _uncapped,
    ) -> None:
        self.up = Direction(up_cap_bps, skipped_bytes=BUFFERED_BYTES)
        self.down = Direction(down_cap_bps)

    @property
    def up_bps(self) -> float:
        """What we can send now in bit/s, as measured or as the cap allows; 0 is unknown."""
        return self.up.bps

    @property
    def down_bps(self) -> float:
        """What we can fetch now in bit/s, as measured or as the cap allows; 0 is unknown."""
        return self.down.bps

    def to_json(self) -> dict[str, Any]:
        """Returns all that is known, as plain data for `from_json`."""
        return {"version": 1, "up": self.up.to_json(), "down": self.down.to_json()}

    def from_json(self, data: object) -> None:
        """Takes over what `to_json` returned in another life.

        Raises:
            ValueError: it did not; then nothing is taken over.
        """
        if not isinstance(data, dict) or data.get("version") != 1:
            raise ValueError("not rates, or of another version")
        up, down = _meters(data.get("up")), _meters(data.get("down"))
        self.up.take_over(*up)
        self.down.take_over(*down)


def write_rates(folder: Path, rates: LinkRates) -> None:
    """Keeps what is known in a peer's folder.

    Raises:
        OSError: the folder cannot be written.
    """
    temporary = folder / f".{RATES}-{os.getpid()}"
    temporary.write_text(json.dumps(rates.to_json(), allow_nan=False) + "\n")
    temporary.rename(folder / RATES)


def read_rates(folder: Path, rates: LinkRates) -> None:
    """Takes over what was kept in a peer's folder; a file that is missing or bad is none."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        with (folder / RATES).open("rb") as file:
            data = json.loads(file.read(_MAX_FILE_BYTES))
        rates.from_json(data)


def _meters(data: object) -> "tuple[RateMeter, OrderedDict[PeerId, RateMeter]]":
    partners = data.get("partners") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(partners, dict):
        raise ValueError("no rates of this direction")
    if len(partners) > MAX_PARTNERS:
        raise ValueError("more partners than are ever kept")
    meters = ((PeerId(peer), RateMeter(_checked_bps(bps))) for peer, bps in partners.items())
    whole = RateMeter(_checked_bps(data.get("bps")), period_s=PERIOD_S)
    return whole, OrderedDict(meters)


def _checked_bps(given: object) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise ValueError("a rate that is no number")
    if not 0 <= given <= _MAX_BPS:  # not a number is neither
        raise ValueError("a rate that cannot be")
    return float(given)
