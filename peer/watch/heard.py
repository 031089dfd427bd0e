"""What an observer last heard from one peer."""

from dataclasses import dataclass, replace

from protocol.report import Exchanged, Report
from protocol.report_codec import SignedReport

FRESH_S = 6.0
"""So old a report's place in the run may be compared with others'."""
LASTING_S = 30.0
"""An older report is not shown any more."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A report, and when it came, by our clock."""

    signed: SignedReport
    at_unix_s: float

    @property
    def report(self) -> Report:
        """What it says."""
        return self.signed.report

    def is_fresh(self, now_unix_s: float) -> bool:
        """Whether it tells where the peer is now."""
        return abs(now_unix_s - self.at_unix_s) < FRESH_S

    def is_of_use(self, now_unix_s: float) -> bool:
        """Whether it may still be shown."""
        return abs(now_unix_s - self.at_unix_s) < LASTING_S

    @property
    def exchanges(self) -> tuple[Exchanged, ...]:
        """Its exchanges, with their times by our clock: a home's may be wrong by hours.

        None is of the time after the report, whatever it says.
        """
        return tuple(map(self._by_our_clock, self.report.exchanges))

    def _by_our_clock(self, each: Exchanged) -> Exchanged:
        ago_s = max(0.0, self.report.at_unix_s - each.began_unix_s)
        began_unix_s = self.at_unix_s - ago_s
        return replace(each, began_unix_s=began_unix_s, took_s=min(each.took_s, ago_s))
