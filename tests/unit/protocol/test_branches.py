"""The stated rule, from both ends, and what becomes of any number of branches that meet."""

import hashlib
from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from protocol.branches import LEAST_FRAC, Branch, Verdict, judge, lineage_after
from protocol.lineage import EMPTY

HISTORY = st.lists(st.tuples(st.integers(0, 7), st.integers(1, 100)), max_size=6)
"""Of each landing, what was in it and its tokens."""
CAMPS = st.integers(1, 5)


def digest_of(*past: object) -> bytes:
    return hashlib.sha256(repr(past).encode()).digest()


START = Branch(round=0, digest=digest_of(), lineage=EMPTY, camp=1)


def landed(branch: Branch, what: object, tokens: int) -> Branch:
    """One round later."""
    round, digest = branch.round + 1, digest_of(branch.digest, what)
    lineage = branch.lineage.landed(round, digest, tokens)
    return replace(branch, round=round, digest=digest, lineage=lineage)


def grown(branch: Branch, history: list[tuple[int, int]], camp: int = 2) -> Branch:
    for what, tokens in history:
        branch = landed(branch, (what, tokens), tokens)
    return replace(branch, camp=camp)


def after(ours: Branch, theirs: Branch) -> Branch:
    """Returns where our side is when it has done what the judge says."""
    verdict = judge(ours, theirs)
    if verdict.keeps and verdict.round == ours.round:
        return ours
    if verdict.keeps:
        digest = ours.digest
    elif not verdict.weights[0]:
        digest = theirs.digest
    else:
        digest = digest_of(sorted(zip(verdict.weights, (ours.digest, theirs.digest), strict=True)))
    lineage = lineage_after(ours, theirs, verdict)
    if not lineage.knows(verdict.round, digest):
        lineage = lineage.landed(verdict.round, digest, 0)
    return replace(ours, round=verdict.round, digest=digest, lineage=lineage)


def met(ours: Branch, theirs: Branch) -> tuple[Branch, Branch]:
    """Both look at once; who kept everything as it is sees the other follow."""
    return after(ours, theirs), after(theirs, ours)


def place(branch: Branch) -> tuple[int, bytes]:
    return branch.round, branch.digest


@st.composite
def two_branches(draw: st.DrawFn) -> tuple[Branch, Branch]:
    past = grown(START, draw(HISTORY))
    return grown(past, draw(HISTORY), draw(CAMPS)), grown(past, draw(HISTORY), draw(CAMPS))


# ---- from both ends


@settings(max_examples=100)
@given(branches=two_branches())
def test_both_ends_say_the_same(branches: tuple[Branch, Branch]) -> None:
    ours, theirs = branches
    mine, other = judge(ours, theirs), judge(theirs, ours)
    if place(ours) == place(theirs):
        assert mine == other == Verdict((1.0, 0.0), ours.round)
        return
    assert mine.weights == other.weights[::-1]
    assert sum(mine.weights) == pytest.approx(1.0)
    assert mine.round == other.round
    assert mine.round >= max(ours.round, theirs.round)  # nobody goes back


@settings(max_examples=100)
@given(branches=two_branches())
def test_both_ends_arrive_at_the_same_anchor_and_nothing_is_forgotten(
    branches: tuple[Branch, Branch],
) -> None:
    one, two = met(*branches)
    assert place(one) == place(two)
    for branch in branches:
        for moved in (one, two):
            # Whoever kept all as it was may not have heard yet of what it was weighed against.
            is_unmoved = place(moved) in map(place, branches)
            assert is_unmoved or branch.lineage.tokens_beyond(moved.lineage) == 0
    assert judge(one, two).weights == (1.0, 0.0)


@given(history=HISTORY, more=HISTORY, camps=st.tuples(CAMPS, CAMPS))
def test_who_is_merely_behind_takes_over(
    history: list[tuple[int, int]], more: list[tuple[int, int]], camps: tuple[int, int]
) -> None:
    assume(more)
    behind = grown(START, history, camps[0])
    ahead = replace(grown(behind, more), camp=camps[1])
    assert judge(behind, ahead) == Verdict((0.0, 1.0), ahead.round)
    assert judge(ahead, behind) == Verdict((1.0, 0.0), ahead.round)
    assert judge(ahead, behind).keeps


def test_who_has_work_of_its_own_is_averaged_by_what_the_other_lacks() -> None:
    past = grown(START, [(0, 1000)] * 3)  # known to both, so it weighs for neither
    ours, theirs = grown(past, [(1, 100), (2, 200)]), grown(past, [(3, 100)])
    assert judge(ours, theirs) == Verdict((0.75, 0.25), 6)
    assert judge(theirs, ours) == Verdict((0.25, 0.75), 6)


@given(rounds=st.tuples(st.integers(1, 3), st.integers(1, 3)), camps=st.tuples(CAMPS, CAMPS))
def test_of_equal_histories_exactly_one_side_follows(
    rounds: tuple[int, int], camps: tuple[int, int]
) -> None:
    """Rounds first, then camps, then digests: as when two merged in different ways."""
    ours, theirs = (
        Branch(round=round, digest=digest, lineage=EMPTY, camp=camp)
        for round, digest, camp in zip(rounds, (b"a" * 32, b"b" * 32), camps, strict=True)
    )
    verdict = judge(ours, theirs)
    later = max(ours, theirs, key=lambda side: (side.round, side.camp, side.digest))
    assert verdict == Verdict((1.0, 0.0) if later is ours else (0.0, 1.0), later.round)
    assert judge(theirs, ours).keeps != verdict.keeps


def test_who_takes_an_anchor_over_never_goes_back() -> None:
    """The winner may be behind in rounds; then it counts on, or nobody would follow it."""
    past = grown(START, [(0, 1)])
    many, few = grown(past, [(1, 1000)]), grown(past, [(2, 1)] * 5)
    assert judge(many, few) == Verdict((1.0, 0.0), few.round + 1)
    assert judge(few, many) == Verdict((0.0, 1.0), few.round + 1)


@pytest.mark.parametrize(("tokens", "is_worth_it"), [(49, False), (50, False), (51, True)])
def test_a_side_with_hardly_any_tokens_is_not_worth_it(tokens: int, is_worth_it: bool) -> None:
    assert LEAST_FRAC == 0.05
    past = grown(START, [(0, 7)])
    large, small = grown(past, [(1, 1000 - tokens)]), grown(past, [(2, tokens)])
    assert judge(large, small).keeps != is_worth_it
    assert (judge(small, large).weights == (0.0, 1.0)) != is_worth_it


# ---- the one that landed alone


@pytest.mark.parametrize("tokens", [1, 10_000])
def test_a_lone_landing_that_the_others_made_anew_counts_as_none(tokens: int) -> None:
    past = grown(START, [(0, 7)])
    lone, rest = grown(past, [(1, tokens)], camp=1), grown(past, [(2, 100)], camp=2)
    assert judge(lone, rest) == Verdict((0.0, 1.0), rest.round)
    assert judge(rest, lone) == Verdict((1.0, 0.0), rest.round)


def test_a_lone_landing_that_nobody_made_anew_is_followed() -> None:
    past = grown(START, [(0, 7)], camp=3)
    lone = grown(past, [(1, 100)], camp=1)
    assert judge(past, lone) == Verdict((0.0, 1.0), lone.round)
    assert judge(lone, past).keeps


@pytest.mark.parametrize(
    ("num_landings", "their_camp"), [(2, 2), (1, 1)], ids=["two landings", "both alone"]
)
def test_work_that_was_done_alone_counts(num_landings: int, their_camp: int) -> None:
    past = grown(START, [(0, 7)])
    lone = grown(past, [(1, 100)] * num_landings, camp=1)
    rest = grown(past, [(2, 100)], camp=their_camp)
    assert all(judge(lone, rest).weights)


# ---- more than two


@settings(max_examples=100)
@given(
    past=HISTORY,
    histories=st.tuples(HISTORY, HISTORY, HISTORY),
    order=st.permutations(list(permutations(range(3), 2))),
)
def test_three_branches_converge_whoever_looks_first(
    past: list[tuple[int, int]],
    histories: tuple[list[tuple[int, int]], ...],
    order: list[tuple[int, int]],
) -> None:
    start = grown(START, past)
    sides = [grown(start, history) for history in histories]
    for _ in range(6):
        for looker, seen in order:  # one at a time, and each sees what the others are by then
            sides[looker] = after(sides[looker], sides[seen])
    assert len(set(map(place, sides))) == 1


@given(
    tokens=st.tuples(*(st.integers(50, 100),) * 3),
    order=st.permutations(list(permutations(range(3), 2))),
)
def test_of_three_branches_that_are_worth_it_none_is_lost(
    tokens: tuple[int, ...], order: list[tuple[int, int]]
) -> None:
    before = [grown(START, [(name, n)]) for name, n in enumerate(tokens)]
    sides = list(before)
    for _ in range(6):
        for looker, seen in order:
            sides[looker] = after(sides[looker], sides[seen])
    for old in before:
        assert all(old.lineage.tokens_beyond(side.lineage) == 0 for side in sides)
    assert {sum(side.lineage.tokens.values()) for side in sides} == {sum(tokens)}


@settings(max_examples=100)
@given(past=HISTORY, histories=st.tuples(HISTORY, HISTORY, HISTORY))
def test_what_was_averaged_in_already_weighs_for_neither_side(
    past: list[tuple[int, int]], histories: tuple[list[tuple[int, int]], ...]
) -> None:
    start = grown(START, past)
    one, two, three = (grown(start, history) for history in histories)
    merged, other = met(one, two)
    with_three = judge(merged, three)
    if not all(with_three.weights):
        return
    ours, theirs = merged.lineage.beyond(three.lineage), three.lineage.beyond(merged.lineage)
    assert not ours.keys() & theirs.keys()
    assert with_three.weights[0] == sum(ours.values()) / (sum(ours.values()) + sum(theirs.values()))
    everything = one.lineage.united(two.lineage).united(three.lineage)
    assert ours | theirs == {
        landing: tokens
        for landing, tokens in merged.lineage.united(everything).tokens.items()
        if (landing in merged.lineage.tokens) != (landing in three.lineage.tokens)
    }
    # And once they have met, the parts of it that come late bring nothing any more.
    last, _ = met(merged, three)
    for late in (one, two, three, other):
        assert judge(last, late).keeps
        assert judge(late, last).weights == (0.0, 1.0) or place(late) == place(last)
