"""How this peer is, for whoever asks over the wire: made when somebody asks, and then kept a while.

Reports cost nothing while nobody asks, and one signature a second if everybody does.
"""

import math
import re
import time
from collections.abc import Callable
from dataclasses import replace

from peer.contribution import ADDRESS, Tally
from peer.exchange_record import ExchangeRecord
from peer.status import PeerStatus
from peer.waits import MAX_NAMED, Wait
from protocol.identity import Identity, PeerId
from protocol.manifest import RunId
from protocol.report import Exchanged, Report, Tie, Waiting
from protocol.report_codec import SignedReport, sign_report, verify_report
from protocol.report_limits import MAX_NOTICES, MAX_WAITS

KEPT_S = 1.0
"""So long a report is given to all who ask."""
WORTH_S = 1.0
"""A shorter wait is not told of."""
STALLED_S = 10.0
"""A trainer that has said nothing for so long has no speed."""
_PATH = re.compile(r"(?<![\w/.])~?(/[^\s/:'\",;()]+){2,}")


class Reporting:
    """See the module docstring.

    Args:
        identity: Ours; it signs.
        run_id: Of which run.
        status: What we know of ourselves.
        tally: What became of our work.
        ties: Returns whom we are connected to.
        record: The last exchanges, if there are any in this life.
        clock: Unix time.
    """

    def __init__(
        self,
        identity: Identity,
        run_id: RunId,
        *,
        status: PeerStatus,
        tally: Tally,
        ties: Callable[[], tuple[Tie, ...]],
        record: ExchangeRecord | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._identity = identity
        self._run_id = run_id
        self._status = status
        self._tally = tally
        self._ties = ties
        self._clock = clock
        self._last: SignedReport | None = None
        self._record = record

    def signed(self) -> SignedReport:
        """Returns a report of now, or of less than a second ago."""
        now_s = self._clock()
        last = self._last
        if last is None or not 0 <= now_s - last.report.at_unix_s < KEPT_S:
            data = sign_report(self._report(now_s), self._run_id, self._identity)
            # As others read it: it was cut to their limits.
            report = verify_report(data, self._run_id, self._identity.peer_id)
            last = self._last = SignedReport(report, data)
        return last

    def answer(self) -> bytes:
        """Returns the bytes for whoever asks over the wire."""
        return self.signed().data

    def _report(self, now_unix_s: float) -> Report:
        status = self._status
        if status.training_since_s is not None:
            self._tally.trained(status.tokens)
        now_s = status.waits.now_s()
        waits = status.waits.now(longer_than_s=WORTH_S)[:MAX_WAITS]
        return Report(
            peer_id=self._identity.peer_id,
            at_unix_s=now_unix_s,
            phase=_for_others(status.phase),
            domain=status.domain,
            step=status.step,
            round=status.round,
            tokens=status.tokens,
            tokens_per_s=_speed(status, now_s),
            loss_bits_per_byte=_known(status.loss_bits_per_byte),
            validation_bits_per_byte=_known(status.validation_bits_per_byte),
            validation_round=status.validation_round,
            utilisation_frac=status.utilisation_frac,
            sent_bytes=status.sent_bytes,
            received_bytes=status.received_bytes,
            num_members=len(status.members),
            contribution=self._tally.contribution,
            witnesses=self._tally.witnesses,
            exchanges=self._exchanges(now_unix_s),
            waits=tuple(_waiting(wait, now_s) for wait in waits),
            ties=self._ties(),
            notices=tuple(map(_for_others, status.notices[-MAX_NOTICES:])),
        )

    def _exchanges(self, now_unix_s: float) -> tuple[Exchanged, ...]:
        last = self._record.last(now_unix_s) if self._record else ()
        return tuple(replace(each, reason=_for_others(each.reason)) for each in last)


def _speed(status: PeerStatus, now_s: float) -> float:
    is_silent = status.progressed_s is None or now_s - status.progressed_s > STALLED_S
    return 0.0 if is_silent or status.is_done else status.tokens_per_s


def _for_others(words: str) -> str:
    """Returns words of ours without addresses and paths, which errors quote: these are private."""
    return _PATH.sub("a file", ADDRESS.sub("an address", words))


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _waiting(wait: Wait, now_s: float) -> Waiting:
    return Waiting(name=wait.name, whom=_names(wait.whom), for_s=now_s - wait.since_s)


def _names(peers: tuple[PeerId, ...]) -> str:
    named = ", ".join(peer[-6:] for peer in peers[:MAX_NAMED])
    return named if len(peers) <= MAX_NAMED else f"{named} and {len(peers) - MAX_NAMED} more"
