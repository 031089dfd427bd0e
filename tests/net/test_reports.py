"""Reports over real wires: asked for, signed, checked; and what a false peer may answer."""

from typing import Any

import pytest

from peer.net.pace import Pace
from protocol.errors import BadSignature, LimitExceeded, NotAvailable, TransportError
from protocol.identity import Identity
from protocol.manifest import RunId
from protocol.messages import Ready
from protocol.report import Report
from protocol.report_codec import sign_report, verify_report
from protocol.report_limits import MAX_REPORT_BYTES
from tests.net.conftest import RUN_ID

pytestmark = pytest.mark.net

NOTE = Ready(fragment=0, round=3, tokens=7, anchor_digest=b"d" * 32)
OTHER_RUN = RunId("cd" * 32)


def answers(peer: Any, data: bytes) -> None:
    peer.wire.answer_reports(lambda: data)


async def test_a_report_crosses_the_wire_and_anybody_can_check_it_again(net: Any) -> None:
    a, b, c = await net.start(1), await net.start(2), await net.start(3)
    report = Report(peer_id=b.peer_id, at_unix_s=1.5e9, step=7, phase="training")
    answers(b, sign_report(report, RUN_ID, b.identity))
    got = await a.wire.report(b.peer_id, wait_s=5.0)
    assert got.report == report
    assert verify_report(got.data, RUN_ID, b.peer_id) == report
    assert a.wire.counters.received["report"] == b.wire.counters.sent["report"] == len(got.data)

    b.wire._server.forget(a.peer_id)  # as after a restart: Hello is said again
    assert (await a.wire.report(b.peer_id, wait_s=5.0)).report == report

    b.wire.answer_reports(None)
    with pytest.raises(NotAvailable, match="nothing to report"):
        await a.wire.report(b.peer_id, wait_s=5.0)
    with pytest.raises(NotAvailable, match="nothing to report"):  # nor has one that never began
        await a.wire.report(c.peer_id, wait_s=5.0)
    await a.wire.send(b.peer_id, NOTE)  # none of it did the connection any harm


async def test_reports_go_at_the_upload_cap(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = await net.start(1), await net.start(2)
    data = sign_report(Report(peer_id=b.peer_id, at_unix_s=1.5e9), RUN_ID, b.identity)
    answers(b, data)
    await a.wire.report(b.peer_id, wait_s=5.0)
    paced: list[int] = []

    async def take(pace: Pace, num_bytes: int) -> None:
        paced.append(num_bytes)

    monkeypatch.setattr(Pace, "take", take)
    for _ in range(3):
        await a.wire.report(b.peer_id, wait_s=5.0)
    assert paced == [len(data)] * 3


async def test_a_forged_or_foreign_report_is_refused(net: Any) -> None:
    a, b = await net.start(1), await net.start(2)
    theirs = Report(peer_id=b.peer_id, at_unix_s=1.5e9)
    stranger = Identity(b"x" * 32)
    another = Report(peer_id=stranger.peer_id, at_unix_s=1.5e9)
    genuine = sign_report(theirs, RUN_ID, b.identity)
    for data, error in (
        (genuine[:-1], BadSignature),
        (sign_report(theirs, OTHER_RUN, b.identity), BadSignature),
        (sign_report(another, RUN_ID, stranger), BadSignature),
        (b"", BadSignature),
        (bytes(MAX_REPORT_BYTES + 1), LimitExceeded),
    ):
        answers(b, data)
        with pytest.raises(error):
            await a.wire.report(b.peer_id, wait_s=5.0)
    answers(b, genuine)
    assert (await a.wire.report(b.peer_id, wait_s=5.0)).report == theirs


async def test_who_cannot_be_reached_gives_no_report(net: Any) -> None:
    a, b = await net.start(1), await net.start(2)
    net.ports[b.peer_id] = 9  # nobody is there
    with pytest.raises(TransportError):
        await a.wire.report(b.peer_id, wait_s=5.0)
    with pytest.raises(TransportError, match="no address"):
        await a.wire.report(Identity(b"z" * 32).peer_id, wait_s=5.0)


async def test_an_older_version_has_no_reports_and_that_is_no_fault(net: Any) -> None:
    a = await net.start(1)

    async def fetch(request: bytes, context: Any) -> None:
        raise AssertionError("nobody fetches")

    old, _ = await net.start_scripted(2, fetch)
    with pytest.raises(NotAvailable):
        await a.wire.report(old, wait_s=5.0)


async def test_ties_are_the_peers_that_we_are_connected_to(net: Any) -> None:
    a, b = await net.start(1), await net.start(2)
    assert a.wire.ties == ()
    await a.wire.send(b.peer_id, NOTE)
    (tie,) = a.wire.ties
    assert (tie.peer_id, tie.way) == (b.peer_id, "direct")
    assert tie.round_trip_s is not None
    assert 0 < tie.round_trip_s < 5
    await a.wire.forget(b.peer_id)
    assert a.wire.ties == ()
