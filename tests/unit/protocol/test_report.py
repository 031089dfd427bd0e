"""Reports there and back, cut to their limits, signed; and bytes from strangers."""

import contextlib
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.card import MAX_COUNT
from protocol.errors import BadSignature, LimitExceeded, MalformedMessage, RemoteError, RunMismatch
from protocol.identity import Identity, public_bytes_of
from protocol.manifest import RunId
from protocol.pb import thinwire_pb2 as pb
from protocol.report import Contribution, Exchanged, Report, Tie, Waiting, Witness
from protocol.report_codec import parse_report, report_to_bytes, sign_report, verify_report
from protocol.report_limits import (
    MAX_CHARS,
    MAX_EXCHANGES,
    MAX_LONG_CHARS,
    MAX_NOTICES,
    MAX_PARTNERS,
    MAX_REFUSALS,
    MAX_REPORT_BYTES,
    MAX_TIES,
    MAX_WAITS,
    MAX_WITNESSES,
    within_limits,
)

RUN, OTHER_RUN = RunId("ab" * 32), RunId("cd" * 32)
US, THEM = Identity(b"u" * 32), Identity(b"t" * 32)
IDS = [Identity(bytes([n]) * 32).peer_id for n in range(8)]

peers = st.sampled_from(IDS)
counts = st.integers(-5, 1 << 70)
numbers = st.floats()
words = st.text(max_size=300)
outcomes = st.sampled_from(["landed", "failed", "under way"])
contributions = st.builds(
    Contribution,
    trained_tokens=counts,
    used_tokens=counts,
    used_rounds=counts,
    late_rounds=counts,
    refused=st.lists(st.tuples(words, counts), max_size=MAX_REFUSALS + 2).map(tuple),
)
reports = st.builds(
    Report,
    peer_id=st.just(US.peer_id),
    at_unix_s=numbers,
    phase=words,
    domain=words,
    step=counts,
    round=counts,
    tokens=counts,
    tokens_per_s=numbers,
    loss_bits_per_byte=st.none() | numbers,
    validation_bits_per_byte=st.none() | numbers,
    validation_round=counts,
    utilisation_frac=st.none() | numbers,
    sent_bytes=counts,
    received_bytes=counts,
    num_members=counts,
    contribution=contributions,
    witnesses=st.lists(
        st.builds(Witness, peer_id=peers, rounds=counts, tokens=counts), max_size=4
    ).map(tuple),
    exchanges=st.lists(
        st.builds(
            Exchanged,
            fragment=st.integers(0, 2000),
            round=counts,
            partners=st.lists(peers, max_size=MAX_PARTNERS + 2).map(tuple),
            outcome=outcomes,
            reason=words,
            began_unix_s=numbers,
            took_s=numbers,
        ),
        max_size=3,
    ).map(tuple),
    waits=st.lists(st.builds(Waiting, name=words, whom=words, for_s=numbers), max_size=3).map(
        tuple
    ),
    ties=st.lists(
        st.builds(Tie, peer_id=peers, way=words, round_trip_s=st.none() | numbers), max_size=3
    ).map(tuple),
    notices=st.lists(words, max_size=MAX_NOTICES + 2).map(tuple),
)
PLAIN = Report(
    peer_id=US.peer_id,
    at_unix_s=1.5e9,
    phase="training",
    step=120,
    round=3,
    tokens=7000,
    loss_bits_per_byte=2.25,
    contribution=Contribution(trained_tokens=7000, used_tokens=6000, refused=(("late", 2),)),
    witnesses=(Witness(peer_id=THEM.peer_id, rounds=3, tokens=900),),
    exchanges=(Exchanged(fragment=1, round=2, partners=(THEM.peer_id,), outcome="landed"),),
    waits=(Waiting(name="partners", whom="abc", for_s=2.5),),
    ties=(Tie(peer_id=THEM.peer_id, way="direct", round_trip_s=0.25),),
    notices=("no checkpoint: the disk is full",),
)


# ---- there and back


@given(report=reports)
def test_whatever_a_peer_says_of_itself_others_can_read_once_it_is_cut(report: Report) -> None:
    cut = within_limits(report)
    assert parse_report(report_to_bytes(cut)) == cut
    assert within_limits(cut) == cut


def test_what_is_within_the_limits_stays_as_it_is() -> None:
    assert within_limits(PLAIN) == PLAIN
    assert verify_report(sign_report(PLAIN, RUN, US), RUN, US.peer_id) == PLAIN


def test_numbers_that_are_not_known_are_none_and_not_zero() -> None:
    report = Report(peer_id=US.peer_id, at_unix_s=1.0, loss_bits_per_byte=math.nan)
    cut = parse_report(report_to_bytes(within_limits(report)))
    assert (cut.loss_bits_per_byte, cut.validation_bits_per_byte) == (None, None)
    assert parse_report(report_to_bytes(replace(cut, utilisation_frac=0.0))).utilisation_frac == 0.0


def test_the_newest_exchanges_and_notices_stay_and_the_first_of_everything_else() -> None:
    witnesses = tuple(Witness(peer_id=IDS[0], rounds=n, tokens=n) for n in range(MAX_WITNESSES + 9))
    notices = tuple(f"notice {n}" for n in range(MAX_NOTICES + 3))
    cut = within_limits(replace(PLAIN, witnesses=witnesses, notices=notices))
    assert cut.witnesses == witnesses[:MAX_WITNESSES]
    assert cut.notices == notices[3:]


def test_a_report_that_is_full_of_long_words_still_fits_when_it_is_signed() -> None:
    full = replace(
        PLAIN,
        phase="\u4e16" * 999,
        witnesses=tuple(Witness(peer_id=IDS[1], rounds=1 << 50, tokens=1 << 50) for _ in range(99)),
        exchanges=tuple(
            Exchanged(
                fragment=n, round=n, partners=tuple(IDS) * 4, outcome="failed", reason="x" * 99
            )
            for n in range(20)
        ),
        waits=tuple(Waiting(name="\u4e16" * 99, whom="\u4e16" * 99) for _ in range(20)),
        ties=tuple(Tie(peer_id=IDS[2], way="direct", round_trip_s=0.1) for _ in range(99)),
        notices=("\u4e16" * 999,) * 20,
    )
    data = sign_report(full, RUN, US)
    assert len(data) <= MAX_REPORT_BYTES
    report = verify_report(data, RUN, US.peer_id)
    assert report.exchanges
    assert report.exchanges[-1].fragment == 19
    assert report.contribution == PLAIN.contribution


# ---- signatures


def test_nobody_signs_for_another() -> None:
    with pytest.raises(ValueError, match="not for"):
        sign_report(PLAIN, RUN, THEM)


def test_a_report_is_of_one_run_and_one_peer() -> None:
    data = sign_report(PLAIN, RUN, US)
    with pytest.raises(BadSignature):
        verify_report(data, OTHER_RUN, US.peer_id)
    with pytest.raises(BadSignature):
        verify_report(data, RUN, THEM.peer_id)


def test_who_signs_a_report_of_somebody_else_is_refused() -> None:
    payload = report_to_bytes(PLAIN)
    data = THEM.sign(b"thinwire report 1\0" + RUN.encode() + payload) + payload
    with pytest.raises(RunMismatch):
        verify_report(data, RUN, THEM.peer_id)


@given(place=st.integers(0), bit=st.integers(0, 7))
def test_one_altered_bit_is_enough_for_a_report_to_be_refused(place: int, bit: int) -> None:
    data = bytearray(sign_report(PLAIN, RUN, US))
    data[place % len(data)] ^= 1 << bit
    with pytest.raises(BadSignature):
        verify_report(bytes(data), RUN, US.peer_id)


@given(data=st.binary(max_size=200))
def test_bytes_that_are_no_report_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteError):
        verify_report(data, RUN, US.peer_id)


def test_a_report_that_is_too_large_is_refused_before_anything_is_done_with_it() -> None:
    data = sign_report(PLAIN, RUN, US)
    with pytest.raises(LimitExceeded, match=f"{len(data)} bytes"):
        verify_report(data, RUN, US.peer_id, max_bytes=len(data) - 1)
    with pytest.raises(LimitExceeded):
        verify_report(bytes(MAX_REPORT_BYTES + 1), RUN, US.peer_id)


# ---- what a stranger may sign


@given(data=st.binary(max_size=400))
def test_hostile_bytes_are_refused_or_give_a_report_within_the_limits(data: bytes) -> None:
    with contextlib.suppress(LimitExceeded, MalformedMessage):
        report = parse_report(pb.Report(key=public_bytes_of(US.peer_id)).SerializeToString() + data)
        assert within_limits(report) == report


def raw() -> pb.Report:
    return pb.Report(key=public_bytes_of(US.peer_id))


@pytest.mark.parametrize(
    ("field", "most"),
    [
        ("witnesses", MAX_WITNESSES),
        ("exchanges", MAX_EXCHANGES),
        ("waits", MAX_WAITS),
        ("ties", MAX_TIES),
    ],
)
def test_too_many_entries_are_refused(field: str, most: int) -> None:
    out = raw()
    for _ in range(most + 1):
        getattr(out, field).add()
    with pytest.raises(LimitExceeded, match=field):
        parse_report(out.SerializeToString())


def test_too_many_notices_reasons_and_partners_are_refused() -> None:
    out = raw()
    out.notices.extend(["x"] * (MAX_NOTICES + 1))
    with pytest.raises(LimitExceeded):
        parse_report(out.SerializeToString())
    out = raw()
    for _ in range(MAX_REFUSALS + 1):
        out.contribution.refused.add(reason="x", times=1)
    with pytest.raises(LimitExceeded):
        parse_report(out.SerializeToString())
    out = raw()
    out.exchanges.add(outcome="landed", partners=[bytes(32)] * (MAX_PARTNERS + 1))
    with pytest.raises(LimitExceeded):
        parse_report(out.SerializeToString())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 1e300])
def test_numbers_that_are_none_or_beyond_all_reason_are_refused(value: float) -> None:
    for field in ("at_unix_s", "tokens_per_s", "loss_bits_per_byte", "utilisation_frac"):
        out = raw()
        setattr(out, field, value)
        with pytest.raises(LimitExceeded):
            parse_report(out.SerializeToString())


def test_nobody_is_busy_for_more_than_all_of_the_time() -> None:
    report = Report(peer_id=US.peer_id, at_unix_s=1.0, utilisation_frac=1.5)
    with pytest.raises(LimitExceeded):
        parse_report(report_to_bytes(report))
    assert within_limits(report).utilisation_frac == 1.0


def test_a_count_has_a_limit() -> None:
    out = raw()
    out.tokens = MAX_COUNT
    with pytest.raises(LimitExceeded):
        parse_report(out.SerializeToString())
    out.tokens = MAX_COUNT - 1
    assert parse_report(out.SerializeToString()).tokens == MAX_COUNT - 1


@pytest.mark.parametrize("words", ["a\nb", "\x1b[2J", "\u202e", "x" * (MAX_LONG_CHARS + 1)])
def test_words_that_would_spoil_a_screen_are_refused(words: str) -> None:
    out = raw()
    out.phase = words
    with pytest.raises(LimitExceeded):
        parse_report(out.SerializeToString())


def test_a_reason_is_shorter_than_a_notice() -> None:
    out = raw()
    out.contribution.refused.add(reason="x" * (MAX_CHARS + 1))
    with pytest.raises(LimitExceeded):
        parse_report(out.SerializeToString())


def test_an_outcome_is_one_that_we_know() -> None:
    out = raw()
    out.exchanges.add(outcome="won")
    with pytest.raises(MalformedMessage, match="won"):
        parse_report(out.SerializeToString())


@pytest.mark.parametrize("key", [b"", b"k" * 31, b"k" * 33])
def test_a_key_has_its_size(key: bytes) -> None:
    out = raw()
    out.ties.add(key=key, way="direct")
    with pytest.raises(MalformedMessage):
        parse_report(out.SerializeToString())
