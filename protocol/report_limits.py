"""How much a report may hold, and how one of our own is cut to that."""

import math
from dataclasses import replace

from protocol.card import MAX_COUNT
from protocol.manifest import MAX_DOMAIN_CHARS
from protocol.report import Contribution, Exchanged, Report, Tie, Waiting, Witness

MAX_REPORT_BYTES = 16 * 1024
MAX_WITNESSES = 64
MAX_EXCHANGES = 16
MAX_PARTNERS = 16
"""Named of one exchange."""
MAX_WAITS = 16
MAX_TIES = 64
MAX_NOTICES = 8
MAX_REFUSALS = 8
MAX_CHARS = 96
"""Of a reason, and of what is waited for."""
MAX_LONG_CHARS = 240
"""Of a notice, and of the phase."""
MAX_WAY_CHARS = 16
MAX_NUMBER = 1e15
"""Of a time, a rate or a loss."""
_MAX_MEMBERS = 1 << 32


def within_limits(report: Report) -> Report:
    """Returns a report as others accept it: the first ones stay, or the newest where these matter.

    What it says of us may be longer: a phase names peers, and an error quotes another one.
    """
    return replace(
        report,
        at_unix_s=_number(report.at_unix_s),
        phase=_text(report.phase, MAX_LONG_CHARS),
        domain=_text(report.domain, MAX_DOMAIN_CHARS),
        step=_count(report.step),
        round=_count(report.round),
        tokens=_count(report.tokens),
        tokens_per_s=_number(report.tokens_per_s),
        loss_bits_per_byte=_known(report.loss_bits_per_byte),
        validation_bits_per_byte=_known(report.validation_bits_per_byte),
        validation_round=_count(report.validation_round),
        utilisation_frac=_known(report.utilisation_frac, most=1.0),
        sent_bytes=_count(report.sent_bytes),
        received_bytes=_count(report.received_bytes),
        num_members=min(max(report.num_members, 0), _MAX_MEMBERS - 1),
        contribution=_contribution(report.contribution),
        witnesses=tuple(map(_witness, report.witnesses[:MAX_WITNESSES])),
        exchanges=tuple(map(_exchanged, report.exchanges[-MAX_EXCHANGES:])),
        waits=tuple(map(_waiting, report.waits[:MAX_WAITS])),
        ties=tuple(map(_tie, report.ties[:MAX_TIES])),
        notices=tuple(_text(notice, MAX_LONG_CHARS) for notice in report.notices[-MAX_NOTICES:]),
    )


def _contribution(ours: Contribution) -> Contribution:
    return Contribution(
        trained_tokens=_count(ours.trained_tokens),
        used_tokens=_count(ours.used_tokens),
        used_rounds=_count(ours.used_rounds),
        late_rounds=_count(ours.late_rounds),
        refused=tuple((_text(why), _count(times)) for why, times in ours.refused[:MAX_REFUSALS]),
    )


def _witness(seen: Witness) -> Witness:
    return replace(seen, rounds=_count(seen.rounds), tokens=_count(seen.tokens))


def _exchanged(each: Exchanged) -> Exchanged:
    return replace(
        each,
        round=_count(each.round),
        partners=each.partners[:MAX_PARTNERS],
        reason=_text(each.reason),
        began_unix_s=_number(each.began_unix_s),
        took_s=_number(each.took_s),
    )


def _waiting(wait: Waiting) -> Waiting:
    return Waiting(name=_text(wait.name), whom=_text(wait.whom), for_s=_number(wait.for_s))


def _tie(tie: Tie) -> Tie:
    way = _text(tie.way, MAX_WAY_CHARS)
    return replace(tie, way=way, round_trip_s=_known(tie.round_trip_s))


def _count(value: int) -> int:
    return min(max(value, 0), MAX_COUNT - 1)


def _number(value: float, most: float = MAX_NUMBER) -> float:
    return min(max(value, 0.0), most) if math.isfinite(value) else 0.0


def _known(value: float | None, most: float = MAX_NUMBER) -> float | None:
    return None if value is None or not math.isfinite(value) else _number(value, most)


def _text(value: str, most: int = MAX_CHARS) -> str:
    shown = value if value.isprintable() else "".join(c if c.isprintable() else " " for c in value)
    return shown if len(shown) <= most else shown[: most - 1] + "\u2026"
