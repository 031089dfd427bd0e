from dataclasses import dataclass, field
from typing import cast

import pytest

from peer.exchange_waits import ExchangeWaits
from peer.waits import Waits
from protocol.exchange import Exchange, Phase
from protocol.identity import PeerId
from protocol.machine import BlobRef, CatchUp, Fetch, Send, Tell
from protocol.messages import Ready
from protocol.terms import Terms

A, B = PeerId("peer a"), PeerId("peer b")
EXCHANGE_S = 600.0


@dataclass
class Config:
    fragment: int = 2
    exchange_s: float = EXCHANGE_S


@dataclass
class Machine:
    """What is asked of an exchange machine."""

    phase: Phase = Phase.IDLE
    missing: tuple[PeerId, ...] = (A, B)
    config: Config = field(default_factory=Config)

    def waiting_for(self) -> tuple[PeerId, ...]:
        return self.missing


class Scene:
    def __init__(self) -> None:
        self.now_s = 100.0
        self.waits = Waits(lambda: self.now_s)
        self.listed = ExchangeWaits(self.waits)
        self.machine = Machine()

    def follow(self, phase: Phase) -> None:
        self.machine.phase = phase
        self.listed.follow(cast("Exchange", self.machine))

    def begin(self, exchange_id: str) -> None:
        fields: dict[str, object] = {"fragment": 2, "exchange_id": exchange_id}
        self.listed.hear(Tell("exchange_begins", fields))
        self.follow(Phase.EXCHANGING)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_whoever_is_ready_waits_for_the_others_without_a_deadline(scene: Scene) -> None:
    scene.follow(Phase.READY)
    (wait,) = scene.waits.now()
    assert (wait.what, wait.whom, wait.fragment) == ("partners", (A, B), 2)
    assert (wait.deadline_s, wait.until) == (None, "enough peers are ready")
    scene.machine.missing = (B,)
    scene.now_s = 107.0
    scene.follow(Phase.READY)
    assert scene.waits.now() == [wait]
    assert (wait.whom, wait.since_s, wait.moved_s) == ((B,), 100, 107)


def test_an_exchange_has_its_deadline_from_when_it_began(scene: Scene) -> None:
    scene.follow(Phase.READY)
    scene.now_s = 107.0
    scene.begin("0123456789abcdef")
    scene.now_s = 110.0
    scene.follow(Phase.EXCHANGING)
    (wait,) = scene.waits.now()
    assert (wait.name, wait.whom) == ("an exchange (01234567)", (A, B))
    assert (wait.since_s, wait.deadline_s) == (107, 107 + EXCHANGE_S)


def test_the_next_exchange_has_a_deadline_of_its_own(scene: Scene) -> None:
    scene.begin("01234567")
    scene.now_s = 400.0
    scene.begin("89abcdef")  # in one event: the first one failed
    (wait,) = scene.waits.now()
    assert (wait.which, wait.deadline_s) == ("89abcdef", 400 + EXCHANGE_S)


@pytest.mark.parametrize("phase", [Phase.IDLE, Phase.LANDING, Phase.CATCHING_UP])
def test_other_phases_are_listed_by_those_who_do_the_work(scene: Scene, phase: Phase) -> None:
    scene.begin("01234567")
    scene.follow(phase)
    assert scene.waits.now() == []


def test_fragments_wait_apart_and_all_end_with_the_driver(scene: Scene) -> None:
    scene.follow(Phase.READY)
    scene.machine = Machine(config=Config(fragment=3))
    scene.follow(Phase.READY)
    assert [wait.fragment for wait in scene.waits.now()] == [2, 3]
    scene.listed.close()
    assert scene.waits.now() == []


def test_effects_are_listed_with_what_for_and_for_whom(scene: Scene) -> None:
    terms = Terms((1, 1), 0)
    part = Fetch(A, BlobRef("part", 1, b"id", 0), terms)
    average = Fetch(B, BlobRef("average", 1, b"id", 3), terms)
    note = Send(B, Ready(fragment=1, round=0, anchor_digest=b"", tokens=1))
    with (
        scene.listed.fetch(part, EXCHANGE_S),
        scene.listed.fetch(average, EXCHANGE_S, lambda: (1, 2)),
        scene.listed.catch_up(CatchUp((A, B), 1), lambda: (0, 9)),
        scene.listed.send(note),
    ):
        found = [(wait.name, wait.whom, wait.done, wait.deadline_s) for wait in scene.waits.now()]
        assert {wait.fragment for wait in scene.waits.now()} == {1}
    deadline_s = 100 + EXCHANGE_S
    assert found == [
        ("a contribution (part 0)", (A,), None, deadline_s),
        ("an average (part 3)", (B,), (1, 2), deadline_s),
        ("an anchor (fragment 1)", (A, B), (0, 9), None),
        ("an answer to a note", (B,), None, None),
    ]
    assert scene.waits.now() == []
