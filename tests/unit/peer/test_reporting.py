"""A peer's own reports: what is in them, and how often they are made."""

import math
from typing import Any

from peer.contribution import Tally
from peer.exchange_record import ExchangeRecord
from peer.reporting import KEPT_S, STALLED_S, Reporting
from peer.status import PeerStatus
from peer.waits import MAX_NAMED, Waits
from protocol.identity import Identity, PeerId
from protocol.machine import Tell
from protocol.manifest import RunId
from protocol.report import Report, Tie, Waiting
from protocol.report_codec import verify_report
from protocol.report_limits import MAX_NOTICES, MAX_TIES

RUN = RunId("ab" * 32)
US = Identity(b"u" * 32)
IDS = [Identity(bytes([n]) * 32).peer_id for n in range(1, 20)]


class Scene:
    def __init__(self) -> None:
        self.now_s, self.began_unix_s = 50.0, 1.6e9
        self.status = PeerStatus(waits=Waits(lambda: self.now_s), **TRAINING)
        self.tally = Tally()
        self.ties: tuple[Tie, ...] = ()
        self.record = ExchangeRecord(lambda: self.now_s, 1, self.tally)
        self.reporting = Reporting(
            *(US, RUN),
            status=self.status,
            tally=self.tally,
            ties=lambda: self.ties,
            record=self.record,
            clock=lambda: self.began_unix_s + self.now_s,
        )

    def report(self) -> Report:
        """What others read."""
        self.now_s += KEPT_S
        return verify_report(self.reporting.answer(), RUN, US.peer_id)


TRAINING: dict[str, Any] = {
    "phase": "training",
    "step": 9,
    "tokens": 1000,
    "tokens_per_s": 70.0,
    "loss_bits_per_byte": 2.5,
    "round": 3,
    "members": (IDS[0], IDS[1]),
    "progressed_s": 50.0,
    "training_since_s": 10.0,
    "overhead_s": 3.0,
    "evaluated_s": 1.0,
    "sent_bytes": 5,
}


def test_a_report_says_what_the_peer_knows_of_itself() -> None:
    scene = Scene()
    report = scene.report()
    assert (report.step, report.round, report.tokens) == (9, 3, 1000)
    assert (report.tokens_per_s, report.loss_bits_per_byte) == (70.0, 2.5)
    assert (report.num_members, report.sent_bytes) == (2, 5)
    assert report.validation_bits_per_byte is None
    assert report.utilisation_frac == 1 - 4 / 40
    assert report.contribution.trained_tokens == 1000


def test_before_training_begins_nothing_counts_as_trained() -> None:
    scene = Scene()
    scene.status.training_since_s, scene.status.progressed_s = None, None
    report = scene.report()
    assert (report.contribution.trained_tokens, report.utilisation_frac) == (0, None)
    assert report.tokens_per_s == 0.0


def test_a_silent_or_finished_trainer_has_no_speed() -> None:
    scene = Scene()
    scene.now_s += STALLED_S + 1
    assert scene.report().tokens_per_s == 0.0
    scene.status.progressed_s = scene.now_s
    assert scene.report().tokens_per_s == 70.0
    scene.status.is_done = True
    assert scene.report().tokens_per_s == 0.0


def test_all_who_ask_within_a_second_get_the_same_bytes() -> None:
    scene = Scene()
    first = scene.reporting.answer()
    scene.now_s += KEPT_S / 2
    scene.status.step = 10
    assert scene.reporting.answer() == first
    scene.now_s += KEPT_S
    assert scene.reporting.signed().report.step == 10
    scene.now_s -= 3600  # the clock was set back
    scene.status.step = 11
    assert scene.reporting.signed().report.step == 11


def test_what_is_waited_for_longest_comes_first_and_short_waits_are_left_out() -> None:
    scene = Scene()
    scene.status.waits.begin("x", "partners", whom=tuple(IDS[: MAX_NAMED + 2]), until="ready")
    scene.now_s += 5.0
    scene.status.waits.begin("y", "an average", "part 1", whom=(IDS[0],), within_s=9.0)
    scene.now_s += 1.0
    names = ", ".join(peer[-6:] for peer in IDS[:MAX_NAMED])
    expected = [
        Waiting(name="partners", whom=f"{names} and 2 more", for_s=7.0),
        Waiting(name="an average (part 1)", whom=IDS[0][-6:], for_s=2.0),
    ]
    assert list(scene.report().waits) == expected
    scene.status.waits.begin("z", "a checkpoint", until="it is on the disk")
    assert [wait.name for wait in scene.report().waits if wait.for_s < 1.0] == []


def test_exchanges_ties_and_notices_are_in_it_as_far_as_there_is_room() -> None:
    scene = Scene()
    fields: dict[str, object] = {"fragment": 0, "round": 3, "partners": (IDS[0],)}
    scene.record.hear(Tell("exchange_begins", fields))
    scene.ties = tuple(Tie(peer_id=PeerId(IDS[0]), way="direct") for _ in range(MAX_TIES + 1))
    scene.status.notices += [f"note {n}" for n in range(MAX_NOTICES + 1)]
    report = scene.report()
    assert [each.outcome for each in report.exchanges] == ["under way"]
    assert len(report.ties) == MAX_TIES
    assert report.notices[-1] == f"note {MAX_NOTICES}"


def test_addresses_and_paths_are_nobody_elses_business() -> None:
    scene = Scene()
    scene.status.phase = "waiting for 192.0.2.7:4000"
    scene.status.notices.append(
        "no checkpoint: [Errno 28] No space left on device: '/home/ada/runs/p1/checkpoints/step-5'"
    )
    scene.record.hear(Tell("exchange_begins", {"fragment": 0, "round": 3, "partners": (IDS[0],)}))
    reason = "not reachable: ipv6:%5B2001:db8::7%5D:4000 or [2001:db8::8]:4000, 1.5 MB/s/peer"
    scene.record.hear(Tell("exchange_failed", {"fragment": 0, "reason": reason}))
    report = scene.report()
    assert report.phase == "waiting for an address"
    assert report.notices == ("no checkpoint: [Errno 28] No space left on device: 'a file'",)
    said = "not reachable: ipv6:an address or an address, 1.5 MB/s/peer"
    assert [each.reason for each in report.exchanges] == [said]


def test_utilisation_is_never_below_zero_and_not_known_at_first() -> None:
    status = PeerStatus(training_since_s=5.0, progressed_s=5.0)
    assert status.utilisation_frac is None
    status.progressed_s, status.overhead_s = 6.0, 3.0
    assert status.utilisation_frac == 0.0
    status.begin_life()
    assert status.utilisation_frac is None
    assert math.isnan(status.loss_bits_per_byte)
