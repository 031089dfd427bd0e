"""The last exchanges, as the driver tells of them."""

import pytest

from peer.contribution import Tally
from peer.exchange_record import ExchangeRecord
from protocol.identity import PeerId
from protocol.machine import Land, Tell
from protocol.messages import Member
from protocol.report import Witness
from protocol.report_limits import MAX_EXCHANGES
from protocol.terms import Terms

A, B = PeerId("a"), PeerId("b")
NOW_UNIX_S = 1.6e9


class Scene:
    def __init__(self, num_fragments: int = 2) -> None:
        self.now_s = 100.0
        self.tally = Tally()
        self.record = ExchangeRecord(lambda: self.now_s, num_fragments, self.tally)

    def tell(self, event: str, fragment: int = 0, **fields: object) -> None:
        self.record.hear(Tell(event, {"fragment": fragment, "round": 7, **fields}))

    def begin(self, fragment: int = 0, *partners: PeerId, event: str = "exchange_begins") -> None:
        self.tell(event, fragment, partners=partners or (A, B), exchange_id="e")

    def land(
        self, fragment: int = 0, tokens: int = 60, *members: Member, late: bool = False
    ) -> None:
        land = Land(fragment, 7, b"e" * 16, Terms(), rebase_on_anchor=late, members=members)
        self.record.landed(land, tokens, had_work=True)

    def outcomes(self) -> list[tuple[int, str, str]]:
        last = self.record.last(NOW_UNIX_S)
        return [(each.fragment, each.outcome, each.reason) for each in last]


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_an_exchange_from_its_beginning_to_its_landing(scene: Scene) -> None:
    scene.begin()
    scene.now_s += 4.0
    (each,) = scene.record.last(NOW_UNIX_S)
    assert (each.outcome, each.partners, each.round) == ("under way", (A, B), 7)
    assert (each.began_unix_s, each.took_s) == (NOW_UNIX_S - 4.0, 4.0)
    scene.land()
    scene.now_s += 10.0
    (each,) = scene.record.last(NOW_UNIX_S)
    assert (each.outcome, each.began_unix_s, each.took_s) == ("landed", NOW_UNIX_S - 14.0, 4.0)


def test_an_exchange_that_fails_says_why_and_counts(scene: Scene) -> None:
    scene.begin()
    scene.tell("exchange_failed", reason="b does not answer")
    assert scene.outcomes() == [(0, "failed", "b does not answer")]
    assert scene.tally.contribution.refused == (("b does not answer", 1),)


def test_fragments_do_not_mix_and_the_newest_comes_last(scene: Scene) -> None:
    for fragment in (1, 0):
        scene.begin(fragment)
        scene.now_s += 1.0
    scene.land(1)
    assert scene.outcomes() == [(1, "landed", ""), (0, "under way", "")]


def test_an_exchange_that_gives_way_to_another_has_failed_without_being_refused(
    scene: Scene,
) -> None:
    scene.begin()
    scene.now_s += 1.0
    scene.begin(0, A, event="replay_begins")
    assert [outcome for _, outcome, _ in scene.outcomes()] == ["failed", "under way"]
    assert scene.tally.contribution.refused == ()


def test_a_step_alone_is_no_exchange(scene: Scene) -> None:
    scene.tell("exchange_begins", partners=[], exchange_id="e")
    scene.land()
    assert scene.outcomes() == []
    assert scene.tally.contribution.used_tokens == 30  # one of two fragments


def test_only_the_last_ones_are_kept(scene: Scene) -> None:
    for _ in range(MAX_EXCHANGES + 3):
        scene.now_s += 1.0
        scene.begin()
        scene.land()
    last = scene.record.last(NOW_UNIX_S)
    assert len(last) == MAX_EXCHANGES
    assert last[-1].began_unix_s == NOW_UNIX_S


def test_others_work_is_witnessed_and_ours_counts(scene: Scene) -> None:
    scene.begin()
    scene.land(0, 60, Member(A, 100), Member(B, 40))
    seen = {each.peer_id: each for each in scene.tally.witnesses}
    assert seen[A] == Witness(peer_id=A, rounds=1, tokens=50)
    assert seen[B] == Witness(peer_id=B, rounds=1, tokens=20)
    assert scene.tally.contribution.used_rounds == 1


def test_who_had_work_to_give_and_was_not_in_it_is_late(scene: Scene) -> None:
    scene.land(0, 0, late=True)
    land = Land(0, 8, b"f" * 16, Terms(), rebase_on_anchor=True)
    scene.record.landed(land, 0, had_work=False)
    scene.record.passed_by(3)
    scene.record.passed_by(-1)  # an anchor of an earlier round, after a merge
    assert scene.tally.contribution.late_rounds == 4


def test_what_the_driver_says_of_other_things_changes_nothing(scene: Scene) -> None:
    scene.record.hear(Tell("note_refused", {"reason": "there is no codec 3"}))
    scene.tell("catching_up", partners=[A])
    scene.tell("exchange_begins", partners="abc", exchange_id="e")
    assert scene.outcomes() == []
