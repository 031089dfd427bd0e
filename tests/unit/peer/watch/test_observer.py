"""An observer over a directory in memory, with a wire that answers as the test says."""

import asyncio

import pytest

from peer.net.directory_memory import MemoryBoard, MemoryDirectory
from peer.net.record_rules import RecordRules
from peer.presence import Presence
from peer.watch import observer as observer_module
from peer.watch.heard import LASTING_S
from peer.watch.observer import MAX_ASKED, SPARED_S, Observer, Own
from protocol.errors import BadSignature, NotAvailable, TransportError
from protocol.identity import Identity, PeerId
from protocol.report import Report
from protocol.report_codec import SignedReport
from tests.unit.peer.watch.swarms import (
    NOW_UNIX_S,
    RUN_ID,
    A,
    B,
    C,
    card_of,
    manifest_of,
    report_of,
    signed,
)


class Wire:
    """Answers with reports, or with the errors that stand in their place."""

    def __init__(self) -> None:
        self.answers: dict[PeerId, Report | Exception] = {}
        self.asked: list[PeerId] = []
        self.never: frozenset[PeerId] = frozenset()
        """Who neither answers nor refuses."""
        self.asked_once = asyncio.Event()
        self.num_at_once = self.most_at_once = 0

    async def report(self, peer_id: PeerId, *, wait_s: float) -> SignedReport:
        self.asked.append(peer_id)
        self.asked_once.set()
        self.num_at_once += 1
        self.most_at_once = max(self.most_at_once, self.num_at_once)
        if peer_id in self.never:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        self.num_at_once -= 1
        answer = self.answers.get(peer_id, TransportError("not there"))
        if isinstance(answer, Exception):
            raise answer
        return signed(answer)


class Scene:
    def __init__(self) -> None:
        self.now_s = NOW_UNIX_S
        board = MemoryBoard(RecordRules(RUN_ID), lambda: self.now_s)
        self.presence = Presence(MemoryDirectory(Identity(b"n" * 32), board), PeerId("nobody"))
        self.wire = Wire()
        self.num_refreshed = 0
        self.refreshed_thrice = asyncio.Event()
        self.refresh_error: Exception | None = None

    def observer(self, own: Own | None = None) -> Observer:
        async def refresh() -> None:
            self.num_refreshed += 1
            if self.num_refreshed == 3:
                self.refreshed_thrice.set()
            if self.refresh_error is not None:
                raise self.refresh_error

        return Observer(
            *(manifest_of(), self.presence, self.wire),
            own=own,
            refresh=refresh,
            clock=lambda: self.now_s,
        )


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(observer_module, "count_parameters", lambda manifest: 123)
    return Scene()


async def test_before_the_first_look_the_cards_are_all_there_is(scene: Scene) -> None:
    scene.presence.cards = {A: card_of(step=3)}
    view = scene.observer().view
    assert [(peer.peer_id, peer.step, peer.has_report) for peer in view.peers] == [(A, 3, False)]


async def test_a_look_asks_those_who_train_and_keeps_what_they_signed(scene: Scene) -> None:
    scene.presence.cards = {A: card_of(), B: card_of("bootstrap"), C: card_of("left")}
    scene.wire.answers[A] = report_of(A, phase="training")
    observer = scene.observer()
    await observer.look_once()
    assert (scene.wire.asked, scene.num_refreshed) == ([A], 1)
    assert dict(observer.signed) == {A: signed(report_of(A, phase="training")).data}
    assert observer.view.peers[0].phase == "training"
    assert (observer.view.parameters, len(observer.view.history)) == (123, 1)


@pytest.mark.parametrize(
    "error", [TransportError("x"), NotAvailable("x"), BadSignature("x"), RuntimeError("a bug")]
)
async def test_who_gives_no_report_is_shown_by_its_card_and_spared_for_a_while(
    scene: Scene, error: Exception
) -> None:
    scene.presence.cards = {A: card_of(step=3), B: card_of()}
    scene.wire.answers = {A: error, B: report_of(B)}
    observer = scene.observer()
    await observer.look_once()
    scene.now_s += 2
    await observer.look_once()
    assert scene.wire.asked.count(A) == 1
    assert scene.wire.asked.count(B) == 2
    assert [peer.has_report for peer in observer.view.peers if peer.peer_id == A] == [False]
    scene.now_s += SPARED_S
    scene.wire.answers[A] = report_of(A)
    await observer.look_once()
    assert all(peer.has_report for peer in observer.view.peers)


async def test_many_who_do_not_answer_hide_nobody(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observer_module, "LOOK_S", 0.05)
    silent = [Identity(bytes([7, n]) * 16).peer_id for n in range(3 * MAX_ASKED)]
    scene.presence.cards = {A: card_of()}
    scene.wire.answers[A] = report_of(A)
    observer = scene.observer()
    await observer.look_once()
    scene.wire.never = frozenset(silent)
    scene.presence.cards = dict.fromkeys(silent, card_of()) | {A: card_of(step=7)}
    async with asyncio.timeout(10):
        await observer.look_once()
    assert scene.wire.asked.count(A) == 2
    assert [peer.step for peer in observer.view.peers if peer.has_report] == [7]


async def test_a_clock_that_is_put_back_spares_nobody_for_longer(scene: Scene) -> None:
    scene.presence.cards = {A: card_of(), B: card_of()}
    scene.wire.answers[B] = report_of(B)
    observer = scene.observer()
    await observer.look_once()
    scene.now_s -= 3600
    scene.wire.answers = {A: report_of(A), B: TransportError("gone")}
    await observer.look_once()
    assert [peer.peer_id for peer in observer.view.peers if peer.has_report] == [A]


async def test_a_report_outlives_a_lost_answer_but_not_for_long(scene: Scene) -> None:
    scene.presence.cards = {A: card_of()}
    scene.wire.answers[A] = report_of(A, phase="training")
    observer = scene.observer()
    await observer.look_once()
    scene.wire.answers[A] = TransportError("lost")
    scene.now_s += 3
    await observer.look_once()
    assert observer.view.peers[0].phase == "training"
    scene.now_s += LASTING_S
    await observer.look_once()
    assert not observer.view.peers[0].has_report
    assert dict(observer.signed) == {}


async def test_a_peer_that_watches_its_swarm_sees_itself_without_asking(scene: Scene) -> None:
    scene.presence.cards = {A: card_of()}
    scene.presence.our_id = B
    own = signed(report_of(B, step=9))
    observer = scene.observer(lambda: (card_of(step=8), own))
    await observer.look_once()
    assert scene.wire.asked == [A]
    assert {peer.peer_id: peer.step for peer in observer.view.peers} == {A: 0, B: 9}
    assert observer.signed[B] == own.data


async def test_a_node_that_watches_its_swarm_is_seen_by_its_card(scene: Scene) -> None:
    scene.presence.cards = {A: card_of()}
    scene.presence.our_id = C
    observer = scene.observer(lambda: (card_of("bootstrap"), None))
    await observer.look_once()
    assert {peer.peer_id: peer.role for peer in observer.view.peers} == {A: "peer", C: "bootstrap"}
    assert C not in observer.signed
    assert observer.view.num_training == 1


async def test_of_many_peers_only_some_are_asked_at_once(scene: Scene) -> None:
    ids = [Identity(bytes([n]) * 32).peer_id for n in range(3 * MAX_ASKED)]
    scene.presence.cards = {peer: card_of() for peer in ids}
    await scene.observer().look_once()
    assert sorted(scene.wire.asked) == sorted(ids)
    assert scene.wire.most_at_once == MAX_ASKED


async def test_what_nobody_foresaw_does_not_end_the_watch_but_being_cancelled_does(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(observer_module, "LOOK_EVERY_S", 0.0)
    scene.presence.cards = {A: card_of()}
    scene.wire.answers[A] = RuntimeError("a bug")
    scene.refresh_error = RuntimeError("another bug")
    watching = asyncio.create_task(scene.observer().run())
    async with asyncio.timeout(10):
        await scene.refreshed_thrice.wait()
        scene.refresh_error = None
        await scene.wire.asked_once.wait()
    watching.cancel()  # while the answer is on its way, and then comes as an error
    await asyncio.wait([watching], timeout=10)
    assert watching.cancelled()
    assert "cannot watch the swarm" in caplog.text
