import asyncio
import gc
import json
import math
import threading
from typing import Any

import pytest

from peer.waits import GRACE_S, MAX_NAMED, SHOWN_S, Waits
from protocol.identity import PeerId

A, B = PeerId("peer a"), PeerId("peer b")


class Clock:
    """A time that the test sets."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def waits(clock: Clock) -> Waits:
    return Waits(clock)


def test_a_wait_is_there_while_its_block_runs_and_not_after_it_failed(waits: Waits) -> None:
    with waits.on("an average", whom=(A,), within_s=9) as wait:
        assert waits.now() == [wait]
        assert wait.ended_s is None
    assert waits.now() == []
    assert wait.ended_s == 0
    with pytest.raises(KeyError), waits.on("an average", within_s=9):
        raise KeyError
    assert waits.now() == []


def test_waits_of_one_name_are_apart(waits: Waits) -> None:
    with waits.on("an average", "part 1", within_s=9) as outer:
        with waits.on("an average", "part 1", within_s=9) as inner:
            assert set(waits.now()) == {outer, inner}
        assert waits.now() == [outer]


def test_the_longest_come_first_and_short_ones_are_not_shown(waits: Waits, clock: Clock) -> None:
    for second in range(6):
        clock.now_s = float(second)
        waits.begin(second, f"wait {second}", until="the end")
    assert [wait.what for wait in waits.longest()] == ["wait 0", "wait 1", "wait 2"]
    assert {wait.what for wait in waits.longest(9)} == {
        f"wait {s}" for s in range(6 - int(SHOWN_S))
    }
    assert len(waits.now()) == 6


def test_a_wait_without_an_end_must_say_why(waits: Waits) -> None:
    with pytest.raises(ValueError, match="waiting for a quorum: give within_s"):
        waits.begin("key", "a quorum")
    assert waits.begin("key", "a quorum", until="it is there").deadline_s is None


def test_the_deadline_is_the_earlier_of_what_is_said(waits: Waits, clock: Clock) -> None:
    clock.now_s = 100.0
    done = [0]
    wait = waits.begin(
        "key", "an average", within_s=60, stall_s=10, progress=lambda: (done[0], 100)
    )
    assert wait.deadline_s == 110
    for clock.now_s in (105.0, 109.0):
        waits.now()
        assert wait.deadline_s == 110
    done[0], clock.now_s = 1, 109.5
    waits.now()
    assert wait.deadline_s == 119.5
    done[0], clock.now_s = 2, 155.0
    waits.now()
    assert wait.deadline_s == 160


def test_a_wait_is_overdue_when_it_has_not_ended_after_its_deadline_and_the_grace(
    waits: Waits,
) -> None:
    wait = waits.begin("key", "an average", within_s=60)
    assert not wait.is_overdue(60 + GRACE_S)
    assert wait.is_overdue(math.nextafter(60 + GRACE_S, math.inf))
    assert not waits.begin("other", "a quorum", until="it is there").is_overdue(1e9)


def test_a_machine_that_says_the_same_again_goes_on_waiting(waits: Waits, clock: Clock) -> None:
    wait = waits.begin("exchange", "parts", "exchange 1", whom=(A, B), within_s=60)
    clock.now_s = 5.0
    assert waits.begin("exchange", "parts", "exchange 1", whom=(A, B), within_s=60) is wait
    assert (wait.since_s, wait.moved_s) == (0, 0)


def test_it_is_asked_for_whom_it_still_is_when_somebody_looks(waits: Waits, clock: Clock) -> None:
    missing = [A, B]
    wait = waits.begin("exchange", "a quorum", whom=lambda: tuple(missing), until="all are ready")
    clock.now_s = 5.0
    assert waits.now()[0].whom == (A, B)
    assert wait.moved_s == 0
    missing.remove(A)
    clock.now_s = 7.0
    assert waits.now()[0].whom == (B,)
    assert wait.moved_s == 7


@pytest.mark.parametrize("changed", [("averages", "exchange 1"), ("parts", "exchange 2")])
def test_a_machine_that_waits_for_something_else_begins_anew(
    waits: Waits, clock: Clock, changed: tuple[str, str]
) -> None:
    former = waits.begin("exchange", "parts", "exchange 1", within_s=60)
    clock.now_s = 5.0
    wait = waits.begin("exchange", *changed, within_s=60)
    assert waits.now() == [wait]
    assert (former.ended_s, wait.since_s) == (5, 5)
    waits.end("exchange")
    waits.end("exchange")
    assert waits.now() == []


def test_facts_are_plain_and_name_only_some_peers(waits: Waits, clock: Clock) -> None:
    everybody = tuple(PeerId(f"peer {number}") for number in range(100))
    wait = waits.begin("key", "a quorum", whom=everybody, until="it is there")
    clock.now_s = 3.0
    facts: dict[str, Any] = json.loads(json.dumps(wait.facts(clock.now_s)))
    assert facts["whom"] == list(everybody[:MAX_NAMED])
    assert facts["num_whom"] == 100
    assert (facts["what"], facts["until"], facts["left_s"]) == ("a quorum", "it is there", None)
    assert facts["waited_s"] == facts["unmoved_s"] == 3
    waits.end("key")
    assert wait.facts(99.0)["waited_s"] == 3


def test_facts_say_how_far_it_has_come(waits: Waits, clock: Clock) -> None:
    with waits.on("an average", "part 2", within_s=60, fragment=1, progress=lambda: (3, 4)) as wait:
        clock.now_s = 70.0
        waits.now()
        facts = wait.facts(clock.now_s)
    assert facts["done"] == (3, 4)
    assert (facts["fragment"], facts["left_s"], wait.name) == (1, -10, "an average (part 2)")


def test_ages_are_counted_by_name_without_looking_at_progress(waits: Waits, clock: Clock) -> None:
    def progress() -> tuple[int, int]:
        raise AssertionError("it is not this thread's to look at")

    waits.begin(1, "an average", "part 1", within_s=60, progress=progress)
    clock.now_s = 4.0
    waits.begin(2, "an average", "part 2", within_s=60, progress=progress)
    waits.begin(3, "a quorum", until="it is there")
    clock.now_s = 5.0
    ages: list[dict[str, tuple[int, float]]] = []
    thread = threading.Thread(target=lambda: ages.append(waits.ages()))
    thread.start()
    thread.join()
    assert ages == [{"an average": (2, 5.0), "a quorum": (1, 1.0)}]


async def test_the_time_is_that_of_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "time", lambda: 1234.5)
    assert Waits().begin("key", "a quorum", until="it is there").since_s == 1234.5


def test_a_wait_that_is_dropped_after_its_loop_is_gone_ends_quietly() -> None:
    waits = Waits()

    async def wait_for_ever() -> None:
        with waits.on("nothing", until="nobody knows"):
            await asyncio.get_running_loop().create_future()

    async def start() -> Any:
        coroutine = wait_for_ever()
        coroutine.send(None)
        return coroutine

    coroutine = asyncio.run(start())
    assert len(waits.now()) == 1
    del coroutine
    gc.collect()
    assert waits.now() == []
