"""Two branches of a run become one: equal from both ends, to the bit, with our work on top."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optim.outer.co2 import CO2
from optim.outer.copy import AHEAD
from optim.outer.eager import Eager
from optim.outer.nesterov import Nesterov
from optim.outer.noloco import NoLoCo
from optim.outer.plain import Plain
from optim.outer.rule import OuterRule
from peer.mixing import Mixing, OuterState, digest_of
from protocol.errors import MalformedMessage
from protocol.lineage import EMPTY, Lineage
from tests.unit.peer.test_mixing import NUM_ELEMENTS, mixing_of

RULES = pytest.mark.parametrize(
    "rule", [Plain(), Nesterov(), NoLoCo(), Eager(), CO2(), CO2(keep=0.0)], ids=repr
)
WEIGHTS = st.tuples(st.integers(1, 10**12), st.integers(1, 10**12)).map(
    lambda tokens: (tokens[0] / sum(tokens), tokens[1] / sum(tokens))
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads only slow tensors of this size down."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def branch_of(rule: OuterRule, seed: int, round: int = 5, tokens: int = 70) -> Mixing:
    """Somebody who went its own way; also what concerns it alone is not zero."""
    mixing, generator = mixing_of(rule=rule), torch.Generator().manual_seed(seed)
    copy = mixing.outer[0].copy

    def drawn() -> torch.Tensor:
        # Of all magnitudes, so that rounding differs with the order of whatever is added.
        scale = 10 ** (8 * torch.rand(NUM_ELEMENTS, generator=generator) - 4)
        return torch.randn(NUM_ELEMENTS, generator=generator) * scale

    anchor, state = drawn(), {name: drawn() for name in sorted(copy.state)}
    own = {name: drawn() for name in sorted(copy.own)}
    lineage = EMPTY.landed(round, digest_of(anchor), tokens)
    mixing.load_state(0, anchor, state, own, round, lineage)
    return mixing


def vectors_of(outer: OuterState) -> list[torch.Tensor]:
    copy = outer.copy
    return [copy.anchor.clone(), *(copy.state[name].clone() for name in sorted(copy.state))]


def meet(
    ours: Mixing, theirs: OuterState, weights: tuple[float, float], round: int, lineage: Lineage
) -> OuterState:
    return ours.load_state_blob(0, vectors_of(theirs), round, weights=weights, lineage=lineage)


@RULES
@settings(max_examples=25, deadline=None)
@given(weights=WEIGHTS, seeds=st.tuples(st.integers(0, 999), st.integers(1000, 1999)))
def test_both_ends_get_the_same_bits(
    rule: OuterRule, weights: tuple[float, float], seeds: tuple[int, int]
) -> None:
    one, two = (branch_of(rule, seed) for seed in seeds)
    before = one.outer[0], two.outer[0]
    both = before[0].lineage.united(before[1].lineage)
    first = meet(one, before[1], weights, 6, both)
    second = meet(two, before[0], weights[::-1], 6, both)
    assert first.digest == second.digest == digest_of(first.anchor)
    assert torch.equal(first.anchor, second.anchor)
    assert first.copy.state.keys() == second.copy.state.keys()
    for name in first.copy.state:
        assert torch.equal(first.copy.state[name], second.copy.state[name])
    assert (first.round, first.lineage) == (second.round, second.lineage)
    assert first.lineage.knows(6, first.digest)
    assert sum(first.lineage.tokens.values()) == 140  # a merge brings no tokens of its own
    # And it is the average, of the anchor and of the rule's state alike.
    for mine, theirs, new in zip(*map(vectors_of, (before[0], before[1], first)), strict=True):
        expected = mine.double() * weights[0] + theirs.double() * weights[1]
        bound = (mine.abs() * weights[0] + theirs.abs() * weights[1]).double() * 1e-6
        assert ((new.double() - expected).abs() <= bound + 1e-30).all()


@RULES
def test_what_concerns_us_alone_stays_as_it_is(rule: OuterRule) -> None:
    one, two = branch_of(rule, 1), branch_of(rule, 2)
    own = one.outer[0].copy.own
    new = meet(one, two.outer[0], (0.3, 0.7), 6, EMPTY)
    assert new.copy.own.keys() == own.keys()
    assert all(torch.equal(new.copy.own[name], own[name]) for name in own)
    offset = own[AHEAD] if AHEAD in own else torch.zeros(NUM_ELEMENTS)
    torch.testing.assert_close(new.copy.start, new.anchor + offset)


def test_nothing_of_the_old_state_is_changed_and_it_lands_only_later() -> None:
    one, two = branch_of(Nesterov(), 1), branch_of(Nesterov(), 2)
    old, copies = one.outer[0], vectors_of(one.outer[0])
    new = meet(one, two.outer[0], (0.5, 0.5), 6, EMPTY)
    assert all(map(torch.equal, vectors_of(old), copies))
    assert one.outer[0] is new
    assert one.landed[0] is old


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("weights", [(0.0, 1.0), (0.999, 0.001)], ids=str)
@pytest.mark.parametrize("place", [0, 1], ids=["anchor", "momentum"])
def test_a_branch_that_is_not_finite_is_not_merged(
    place: int, weights: tuple[float, float], value: float
) -> None:
    one, two = branch_of(Nesterov(), 1), branch_of(Nesterov(), 2)
    before, vectors = one.outer[0], vectors_of(two.outer[0])
    vectors[place][NUM_ELEMENTS // 2] = value
    with pytest.raises(MalformedMessage):
        one.load_state_blob(0, vectors, 6, weights=weights, lineage=EMPTY)
    assert one.outer[0] is before


def test_taking_over_is_their_anchor_to_the_bit_with_their_past() -> None:
    one, two = branch_of(Nesterov(), 1), branch_of(Nesterov(), 2, round=9)
    theirs = two.outer[0]
    both = one.outer[0].lineage.united(theirs.lineage)
    new = meet(one, theirs, (0.0, 1.0), 9, both)
    assert (new.digest, new.round, new.lineage) == (theirs.digest, 9, both)


@RULES
def test_a_later_round_for_the_same_anchor_is_all_that_changes(rule: OuterRule) -> None:
    one, two = branch_of(rule, 1), branch_of(rule, 2, round=9, tokens=1)
    old, theirs = one.outer[0], two.outer[0]
    both = old.lineage.united(theirs.lineage)
    kept = one.raise_round(0, 10, both)
    assert one.outer[0] is kept
    assert (kept.round, kept.digest) == (10, old.digest)
    assert kept.anchor is old.anchor
    assert (kept.copy.state, kept.copy.own) == (old.copy.state, old.copy.own)
    # Who follows has the same past, so nothing is between them any more.
    followed = meet(two, old, (0.0, 1.0), 10, both)
    assert (followed.round, followed.digest) == (kept.round, kept.digest)
    assert followed.lineage == kept.lineage
    assert kept.lineage.knows(10, kept.digest)
    assert kept.lineage.tokens_beyond(both) == 0
