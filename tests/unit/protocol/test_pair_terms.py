"""In which codec two mix: `protocol.pair_exchange` where links differ. We are `m`."""

import pytest

from protocol.exchange import Failure, Phase
from protocol.machine import Discard, Fetch, Land, Offer, Send, Tell
from protocol.messages import Answer, Note, Propose
from protocol.pair_exchange import PairExchange
from protocol.terms import Terms
from tests.unit.protocol.test_pair_exchange import (
    HIGH,
    LOW,
    THEIR_ID,
    asked,
    drain,
    machine_of,
    part_of,
)


def ready(wanted_codec: int, *, partner: bool = True) -> tuple[PairExchange, bytes]:
    """It has asked HIGH at 0 s, if there is a partner."""
    machine = machine_of(*((HIGH,) if partner else ()), num_codecs=4)
    machine.wanted_codec = wanted_codec
    machine.on_departed(10, now_s=0.0)
    if not partner:
        return machine, THEIR_ID
    _, propose = asked(machine)
    assert (propose.codec, propose.begun) == (wanted_codec, False)
    return machine, propose.exchange_id


def terms_of(machine: PairExchange) -> set[Terms]:
    return {effect.terms for effect in drain(machine) if isinstance(effect, Offer | Fetch | Land)}


@pytest.mark.parametrize(("ours", "theirs"), [(0, 0), (0, 2), (2, 0), (3, 1)])
def test_a_yes_names_the_cheaper_of_both_and_that_is_used(ours: int, theirs: int) -> None:
    machine, id = ready(ours, partner=False)
    machine.on_note(LOW, Propose(0, 4, 30, id, theirs), now_s=0.5)
    answer, *effects = drain(machine)
    codec = max(ours, theirs)
    assert answer == Send(LOW, Answer(0, id, True, 10, codec))
    assert {effect.terms for effect in effects if isinstance(effect, Offer | Fetch)} == {
        Terms(codec=codec)
    }
    machine.on_fetched(LOW, part_of(id), now_s=1.0)
    assert terms_of(machine) == {Terms(codec=codec)}


def test_whoever_asked_begins_with_the_answers_codec() -> None:
    machine, id = ready(1)
    machine.on_note(HIGH, Answer(0, id, True, 30, 3), now_s=0.5)
    assert terms_of(machine) == {Terms(codec=3)}
    machine.on_fetched(HIGH, part_of(id), now_s=1.0)
    assert terms_of(machine) == {Terms(codec=3)}


def test_what_was_answered_stays_when_our_link_changes() -> None:
    machine, id = ready(1, partner=False)
    machine.on_note(LOW, Propose(0, 4, 30, id, 0), now_s=0.5)
    drain(machine)
    machine.wanted_codec = 3
    machine.on_note(LOW, Propose(0, 4, 30, id, 0), now_s=0.6)
    assert drain(machine) == [Send(LOW, Answer(0, id, True, 10, 1))]


def test_whoever_has_begun_asks_once_more_with_its_codec_and_we_keep_to_that() -> None:
    machine, id = ready(1, partner=False)
    machine.on_note(LOW, Propose(0, 4, 30, id, 0), now_s=0.5)
    drain(machine)
    machine.on_fetch_failed(LOW, part_of(id), failure=Failure.ABSENT, now_s=0.6)
    probe = Propose(0, 4, 10, id, 1, begun=True)
    assert drain(machine) == [Send(LOW, probe)]
    other, _ = ready(3, partner=False)
    other.on_note(LOW, probe, now_s=0.7)
    assert drain(other)[0] == Send(LOW, Answer(0, id, True, 10, 1))


def test_an_exchange_in_two_codecs_is_given_up() -> None:
    machine, id = ready(1)
    machine.on_note(HIGH, Answer(0, id, True, 30, 1), now_s=0.5)
    drain(machine)
    machine.on_note(HIGH, Answer(0, id, True, 40, 1), now_s=0.6)
    assert drain(machine) == []
    machine.on_note(HIGH, Answer(0, id, True, 40, 2), now_s=0.7)
    assert drain(machine)[0] == Discard(0, id)
    assert machine.phase is Phase.READY


def test_once_fetched_another_codec_is_no_news() -> None:
    machine, id = ready(1)
    machine.on_note(HIGH, Answer(0, id, True, 30, 1), now_s=0.5)
    machine.on_fetched(HIGH, part_of(id), now_s=0.6)
    drain(machine)
    machine.on_note(HIGH, Answer(0, id, True, 40, 2), now_s=0.7)
    assert drain(machine) == []
    assert machine.phase is Phase.LANDING


@pytest.mark.parametrize("is_answer", [True, False])
def test_a_codec_that_the_run_does_not_have_is_refused(is_answer: bool) -> None:
    machine, id = ready(0)

    def note(codec: int) -> Note:
        if is_answer:
            return Answer(0, id, True, 30, codec)
        return Propose(0, 4, 30, THEIR_ID, codec)

    src = HIGH if is_answer else LOW
    machine.on_note(src, note(4), now_s=0.6)
    (told,) = machine.drain()
    assert isinstance(told, Tell)
    assert told.event == "note_refused"
    assert machine.phase is Phase.READY
    machine.on_note(src, note(3), now_s=0.6)
    assert machine.phase is Phase.EXCHANGING


def test_a_yes_in_a_dearer_codec_than_our_link_wants_is_a_no() -> None:
    machine, id = ready(2)
    machine.on_note(HIGH, Answer(0, id, True, 30, 1), now_s=0.5)
    assert terms_of(machine) == set()
    assert machine.phase is Phase.READY
