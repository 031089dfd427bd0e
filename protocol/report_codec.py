r"""Reports on the wire: protobuf, signed by their peer, and checked field by field when they come.

`parse_report` is the gate: whatever comes out of it is finite, bounded and printable. A report of
our own is cut to these limits before it is signed.

    report = signature (64 bytes) + protobuf
    signed = "thinwire report 1\0" + run id + protobuf
"""

from dataclasses import dataclass, replace
from typing import cast, get_args

from google.protobuf.message import DecodeError

from protocol.card import MAX_COUNT
from protocol.errors import LimitExceeded, MalformedMessage, RunMismatch
from protocol.identity import Identity, PeerId, peer_id_of, public_bytes_of, verify
from protocol.manifest import MAX_DOMAIN_CHARS, RunId
from protocol.pb import thinwire_pb2 as pb
from protocol.report import Contribution, Exchanged, Outcome, Report, Tie, Waiting, Witness
from protocol.report_limits import (
    MAX_CHARS,
    MAX_EXCHANGES,
    MAX_LONG_CHARS,
    MAX_NOTICES,
    MAX_NUMBER,
    MAX_PARTNERS,
    MAX_REFUSALS,
    MAX_REPORT_BYTES,
    MAX_TIES,
    MAX_WAITS,
    MAX_WAY_CHARS,
    MAX_WITNESSES,
    within_limits,
)

_KEY_BYTES = 32
_SIGNATURE_BYTES = 64
_DOMAIN = b"thinwire report 1\0"
_MOST = {
    "witnesses": MAX_WITNESSES,
    "exchanges": MAX_EXCHANGES,
    "waits": MAX_WAITS,
    "ties": MAX_TIES,
    "notices": MAX_NOTICES,
}
"""Of each field that is repeated."""
_NEWEST_LAST = {"exchanges", "notices"}


@dataclass(frozen=True, slots=True)
class SignedReport:
    """A report, and the bytes as they came: anybody can check these again."""

    report: Report
    data: bytes


def sign_report(report: Report, run_id: RunId, identity: Identity) -> bytes:
    """Returns what to hand to others: the signature, and the report cut to their limits.

    Raises:
        ValueError: it is another peer's report.
    """
    if report.peer_id != identity.peer_id:
        raise ValueError(f"a report of {report.peer_id} is not for {identity.peer_id} to sign")
    payload = _fitted(within_limits(report))
    return identity.sign(_DOMAIN + run_id.encode() + payload) + payload


def verify_report(
    data: bytes, run_id: RunId, peer_id: PeerId, *, max_bytes: int = MAX_REPORT_BYTES
) -> Report:
    """Returns the report that a peer signed.

    Raises:
        LimitExceeded: it is too large, or says what is beyond all reason.
        BadSignature: it is not that peer's, or is of another run.
        RunMismatch: the peer signed it as somebody else's.
        MalformedMessage: it is no report.
    """
    if len(data) > max_bytes:
        raise LimitExceeded(f"a report of {len(data)} bytes, at most {max_bytes} are allowed")
    signature, payload = data[:_SIGNATURE_BYTES], data[_SIGNATURE_BYTES:]
    verify(peer_id, signature, _DOMAIN + run_id.encode() + payload)
    report = parse_report(payload)
    if report.peer_id != peer_id:
        raise RunMismatch(f"{peer_id} hands over a report of {report.peer_id}")
    return report


def report_to_bytes(report: Report) -> bytes:
    """Returns the report as a protobuf `thinwire.v1.Report`, without a signature."""
    ours = report.contribution
    out = pb.Report(
        key=public_bytes_of(report.peer_id),
        at_unix_s=report.at_unix_s,
        phase=report.phase,
        domain=report.domain,
        step=report.step,
        round=report.round,
        tokens=report.tokens,
        tokens_per_s=report.tokens_per_s,
        loss_bits_per_byte=report.loss_bits_per_byte,
        validation_bits_per_byte=report.validation_bits_per_byte,
        validation_round=report.validation_round,
        utilisation_frac=report.utilisation_frac,
        sent_bytes=report.sent_bytes,
        received_bytes=report.received_bytes,
        num_members=report.num_members,
        contribution=pb.Contribution(
            trained_tokens=ours.trained_tokens,
            used_tokens=ours.used_tokens,
            used_rounds=ours.used_rounds,
            late_rounds=ours.late_rounds,
            refused=[pb.Refused(reason=reason, times=times) for reason, times in ours.refused],
        ),
        waits=[pb.Waiting(name=w.name, whom=w.whom, for_s=w.for_s) for w in report.waits],
        notices=report.notices,
    )
    for seen in report.witnesses:
        key = public_bytes_of(seen.peer_id)
        out.witnesses.add(key=key, rounds=seen.rounds, tokens=seen.tokens)
    for tie in report.ties:
        key = public_bytes_of(tie.peer_id)
        out.ties.add(key=key, way=tie.way, round_trip_s=tie.round_trip_s)
    for each in report.exchanges:
        out.exchanges.add(
            fragment=each.fragment,
            round=each.round,
            partners=map(public_bytes_of, each.partners),
            outcome=each.outcome,
            reason=each.reason,
            began_unix_s=each.began_unix_s,
            took_s=each.took_s,
        )
    data: bytes = out.SerializeToString(deterministic=True)
    return data


def parse_report(data: bytes) -> Report:
    """Returns the report that `data` spells.

    Raises:
        MalformedMessage, LimitExceeded: it is none, or an unreasonable one.
    """
    if len(data) > MAX_REPORT_BYTES:
        raise LimitExceeded(f"a report of {len(data)} bytes")
    raw = pb.Report()
    try:
        raw.ParseFromString(data)
    except DecodeError:
        raise MalformedMessage("not a report") from None
    for field, most in _MOST.items():
        if len(getattr(raw, field)) > most:
            raise LimitExceeded(f"a report with more than {most} {field}")
    return Report(
        peer_id=_peer(raw.key),
        at_unix_s=_number(raw.at_unix_s),
        phase=_text(raw.phase, MAX_LONG_CHARS),
        domain=_text(raw.domain, MAX_DOMAIN_CHARS),
        step=_count(raw.step),
        round=_count(raw.round),
        tokens=_count(raw.tokens),
        tokens_per_s=_number(raw.tokens_per_s),
        loss_bits_per_byte=_known(raw, "loss_bits_per_byte"),
        validation_bits_per_byte=_known(raw, "validation_bits_per_byte"),
        validation_round=_count(raw.validation_round),
        utilisation_frac=_known(raw, "utilisation_frac", most=1.0),
        sent_bytes=_count(raw.sent_bytes),
        received_bytes=_count(raw.received_bytes),
        num_members=raw.num_members,
        contribution=_parse_contribution(raw.contribution),
        witnesses=tuple(
            Witness(peer_id=_peer(w.key), rounds=_count(w.rounds), tokens=_count(w.tokens))
            for w in raw.witnesses
        ),
        exchanges=tuple(map(_parse_exchange, raw.exchanges)),
        waits=tuple(
            Waiting(name=_text(w.name), whom=_text(w.whom), for_s=_number(w.for_s))
            for w in raw.waits
        ),
        ties=tuple(
            Tie(
                peer_id=_peer(tie.key),
                way=_text(tie.way, MAX_WAY_CHARS),
                round_trip_s=_known(tie, "round_trip_s"),
            )
            for tie in raw.ties
        ),
        notices=tuple(_text(notice, MAX_LONG_CHARS) for notice in raw.notices),
    )


def _fitted(report: Report) -> bytes:
    """Returns a report's bytes, without half of what there is most of while they are too many."""
    while len(data := report_to_bytes(report)) > MAX_REPORT_BYTES - _SIGNATURE_BYTES:
        field = max(_MOST, key=lambda name: len(getattr(report, name)))
        entries = getattr(report, field)
        half = len(entries) // 2
        kept = entries[len(entries) - half :] if field in _NEWEST_LAST else entries[:half]
        report = replace(report, **{field: kept})
    return data


def _parse_contribution(raw: pb.Contribution) -> Contribution:
    if len(raw.refused) > MAX_REFUSALS:
        raise LimitExceeded(f"a report with more than {MAX_REFUSALS} reasons")
    return Contribution(
        trained_tokens=_count(raw.trained_tokens),
        used_tokens=_count(raw.used_tokens),
        used_rounds=_count(raw.used_rounds),
        late_rounds=_count(raw.late_rounds),
        refused=tuple((_text(each.reason), _count(each.times)) for each in raw.refused),
    )


def _parse_exchange(raw: pb.Exchanged) -> Exchanged:
    if len(raw.partners) > MAX_PARTNERS:
        raise LimitExceeded(f"a report of an exchange of {len(raw.partners)} peers")
    if raw.outcome not in get_args(Outcome):
        raise MalformedMessage(f"unknown outcome {raw.outcome[:16]!r}")
    return Exchanged(
        fragment=raw.fragment,
        round=_count(raw.round),
        partners=tuple(map(_peer, raw.partners)),
        outcome=cast("Outcome", raw.outcome),
        reason=_text(raw.reason),
        began_unix_s=_number(raw.began_unix_s),
        took_s=_number(raw.took_s),
    )


def _peer(key: bytes) -> PeerId:
    if len(key) != _KEY_BYTES:
        raise MalformedMessage(f"a key of {len(key)} bytes")
    return peer_id_of(key)


def _count(value: int) -> int:
    if value >= MAX_COUNT:
        raise LimitExceeded("a report with a count beyond all reason")
    return value


def _number(value: float, most: float = MAX_NUMBER) -> float:
    if not 0 <= value <= most:  # also catches NaN
        raise LimitExceeded("a report with a number beyond all reason")
    return value


def _known(raw: pb.Report | pb.Tie, field: str, most: float = MAX_NUMBER) -> float | None:
    return _number(getattr(raw, field), most) if raw.HasField(field) else None


def _text(value: str, most: int = MAX_CHARS) -> str:
    if len(value) > most or not value.isprintable():
        raise LimitExceeded("a report with words that are too many, or not to be shown")
    return value
