"""Schedules of faults: as many as told, as heavy as their weights, and calm at the end."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.chaos_faults import ALONE, AWAY, FAULTS
from benchmarks.chaos_schedule import CALM_S, KINDS, draw

seeds = st.integers(0, 1000)


@given(seeds, st.integers(2, 20), st.floats(60, 3600), st.floats(0, 2000))
def test_there_are_as_many_faults_as_told_and_none_lasts_into_the_calm(
    seed: int, seats: int, duration_s: float, per_hour: float
) -> None:
    planned = draw(seed, seats=seats, duration_s=duration_s, faults_per_hour=per_hour)
    stormy_s = duration_s - min(CALM_S, duration_s / 3)
    assert len(planned) == round(duration_s * per_hour / 3600)
    assert [fault.number for fault in planned] == list(range(len(planned)))
    assert [fault.at_s for fault in planned] == sorted(fault.at_s for fault in planned)
    for fault in planned:
        kind = KINDS[fault.kind]
        assert 0 <= fault.at_s <= stormy_s
        assert fault.at_s + fault.for_s <= stormy_s + 1e-9
        assert fault.for_s >= min(kind.shortest_s, stormy_s) - 1e-9
        assert fault.for_s <= kind.longest_s + 1e-9
        assert sorted(fault.order) == list(range(seats))
        assert abs(fault.clock_jump_s) == 300


@given(seeds)
def test_each_kind_comes_as_often_as_its_weight_says(seed: int) -> None:
    planned = draw(seed, seats=8, duration_s=600, faults_per_hour=1200)
    counts = Counter(fault.kind for fault in planned)
    total = sum(kind.weight for kind in KINDS.values())
    for name, kind in KINDS.items():
        assert abs(counts[name] - 200 * kind.weight / total) <= 1


def test_equal_seeds_give_equal_schedules_and_others_do_not() -> None:
    def of(seed: int) -> object:
        return draw(seed, seats=8, duration_s=600, faults_per_hour=1200)

    assert of(1) == of(1)
    assert of(1) != of(2)


def test_instants_are_spread_over_the_whole_storm() -> None:
    planned = draw(5, seats=8, duration_s=645, faults_per_hour=3600)
    by_minute = Counter(int(fault.at_s // 60) for fault in planned)
    assert sum(by_minute.values()) == 645
    assert min(by_minute[minute] for minute in range(10)) > 30


def test_without_a_laboratory_no_link_is_struck() -> None:
    planned = draw(0, seats=8, duration_s=600, faults_per_hour=1200, has_lab=False)
    assert len(planned) == 200
    assert not any(KINDS[fault.kind].has_lab for fault in planned)


@pytest.mark.parametrize("room_s", [0.5, 7.0, 1000.0])
def test_a_fault_that_had_to_wait_becomes_as_short_as_it_has_to_be(room_s: float) -> None:
    for fault in draw(0, seats=8, duration_s=600, faults_per_hour=1200):
        assert fault.within(room_s).for_s == min(fault.for_s, room_s)


def test_every_kind_has_a_fault_and_every_fault_a_kind() -> None:
    assert FAULTS.keys() == KINDS.keys()
    assert AWAY < ALONE < KINDS.keys()


def test_starts_are_a_fifth_of_all_faults_at_most() -> None:
    ending = {"kill", "kill-trainer", "kill-daemon", "kill-bootstrap", "leave-storm", "join-storm"}
    total = sum(kind.weight for kind in KINDS.values())
    starts = sum(KINDS[name].weight * KINDS[name].count for name in ending)
    assert starts / total < 0.28
