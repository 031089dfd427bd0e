"""An outer copy's life, and what error feedback adds to it (SparseLoCo)."""

import math
import re
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optim.codec.topk import TopK
from optim.outer.co2 import CO2, no_gap
from optim.outer.copy import _PIECE, Departure, Outer, OuterCopy
from optim.outer.delayed_nesterov import DelayedNesterov
from optim.outer.eager import Eager
from optim.outer.heavyball import HeavyBall
from optim.outer.named import OUTER_RULES
from optim.outer.nesterov import Nesterov
from optim.outer.noloco import NoLoCo
from optim.outer.plain import Plain
from optim.outer.rule import OuterRule

N = 40


def name_of(rule: OuterRule) -> str:
    """Return what it is called, without addresses: they differ from process to process."""
    return re.sub(r"<function (\w+) at 0x\w+>", r"\1", repr(rule))


AHEAD_RULES = [Eager(0.5, 0.5), CO2(momentum=0.5, gap="none"), CO2(gap="norm", keep=0.25)]
TWO_LANES = NoLoCo(gamma=0.5)
ALL_RULES = [Nesterov(), HeavyBall(), Plain(), NoLoCo(), DelayedNesterov(), *AHEAD_RULES]


def small_integers(*shape: int, seed: int = 0) -> Tensor:
    """Return multiples of 1/4 so small that sums and halves of them are never rounded."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-64, 65, shape, generator=generator) / 4


def vectors_of(copy: OuterCopy) -> dict[str, Tensor]:
    return {
        "anchor": copy.anchor,
        **{f"state {name}": x for name, x in copy.state.items()},
        **{f"own {name}": x for name, x in copy.own.items()},
    }


def same(a: OuterCopy, b: OuterCopy) -> bool:
    x, y = vectors_of(a), vectors_of(b)
    return a.round == b.round and x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def moved(theta: Tensor, departure: Departure) -> Tensor:
    return theta if departure.shift is None else theta + departure.shift


@pytest.mark.parametrize("feedback", [None, 0.5])
@pytest.mark.parametrize("rule", [Plain(), Nesterov(), *AHEAD_RULES], ids=name_of)
def test_what_was_lost_is_as_if_it_had_never_departed(
    rule: OuterRule, feedback: float | None
) -> None:
    outer = Outer(rule, feedback)
    start, first, second = small_integers(3, N)
    copy = outer.first(start)
    copy, departure = outer.depart(copy, first)
    copy = outer.deliver(outer.land(copy, departure.contribution), departure, first)
    theta = second
    before = copy
    copy, departure = outer.depart(copy, theta)
    theta = moved(theta, departure) + 0.5  # training goes on, and only then the loss is known
    copy, back = outer.lose(copy, departure)
    theta = theta if back is None else theta + back
    assert same(copy, before)
    torch.testing.assert_close(theta, second + 0.5, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rule", [Plain(), Nesterov(), *AHEAD_RULES], ids=name_of)
def test_the_work_of_a_lost_exchange_is_in_the_next_contribution(rule: OuterRule) -> None:
    outer = Outer(rule)
    start, first, second = small_integers(3, N)
    copy, theta = outer.first(start), start - first
    copy, lost = outer.depart(copy, theta)
    copy, back = outer.lose(copy, lost)
    theta = moved(theta, lost) + (0 if back is None else back) - second
    _, departure = outer.depart(copy, theta)
    torch.testing.assert_close(departure.contribution, first + second, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rule", AHEAD_RULES, ids=name_of)
def test_ahead_each_contribution_holds_the_steps_since_the_last_departure(rule: OuterRule) -> None:
    outer = Outer(rule)
    work = small_integers(6, N)
    copy = outer.first(small_integers(N, seed=1))
    theta = copy.start
    for t, steps in enumerate(work):
        theta = theta - steps
        copy, departure = outer.depart(copy, theta, share=0.5)
        torch.testing.assert_close(departure.contribution, steps, rtol=0, atol=1e-4)
        theta = moved(theta, departure)
        torch.testing.assert_close(theta, copy.start, rtol=0, atol=1e-4)
        if t % 2:  # it lands in the middle of the next round, or at its end
            continue
        old = copy
        copy = outer.land(copy, departure.contribution)
        theta = theta + (copy.start - old.start)


@pytest.mark.parametrize("rule", ALL_RULES, ids=name_of)
def test_a_landing_is_the_rules_step_and_counts(rule: OuterRule) -> None:
    outer = Outer(rule)
    copy, state = outer.first(small_integers(N)), rule.init_state(N)
    for t in range(5):
        average = small_integers(rule.lanes, N, seed=10 + t)
        anchor, state = rule.step(copy.anchor, average, state, round=t)
        copy = outer.land(copy, average.flatten())
        assert torch.equal(copy.anchor, anchor)
        assert all(torch.equal(copy.state[name], state[name]) for name in state)
        assert copy.round == t + 1


@pytest.mark.parametrize("feedback", [None, 0.5])
@pytest.mark.parametrize("rule", ALL_RULES, ids=name_of)
def test_nothing_is_changed_in_place(rule: OuterRule, feedback: float | None) -> None:
    outer = Outer(rule, None if rule.sends_parameters else feedback)
    theta = small_integers(N, seed=1)
    copy = outer.first(small_integers(N))
    vectors = [theta, copy.anchor, *copy.state.values(), *copy.own.values()]
    kept = [x.clone() for x in vectors]
    new, departure = outer.depart(copy, theta)
    sent = departure.contribution.clone()
    new = outer.deliver(outer.land(new, sent), departure, sent)
    outer.lose(new, departure)
    assert all(torch.equal(x, y) for x, y in zip(vectors, kept, strict=True))
    assert torch.equal(sent, departure.contribution)


@pytest.mark.parametrize("rule", ALL_RULES, ids=name_of)
def test_c6_a_contribution_aliases_nothing_that_training_changes(rule: OuterRule) -> None:
    outer = Outer(rule)
    theta, copy = small_integers(N, seed=1), outer.first(small_integers(N))
    copy, departure = outer.depart(copy, theta)
    sent, start = departure.contribution.clone(), copy.start.clone()
    theta.zero_()
    assert torch.equal(departure.contribution, sent)
    assert torch.equal(copy.start, start)


# ---- error feedback


def lossy(a: Tensor) -> Tensor:
    codec = TopK(chunk=16, k=3)
    return codec.decode(codec.encode(a), a.numel())


@given(seed=st.integers(0, 1000), rounds=st.integers(1, 20))
def test_with_decay_one_all_that_was_sent_and_the_residual_are_all_deltas(
    seed: int, rounds: int
) -> None:
    Delta_Tn = torch.randn(rounds, N, generator=torch.Generator().manual_seed(seed))
    outer = Outer(Plain(), feedback=1.0)
    copy = outer.first(torch.zeros(N))
    for Delta in Delta_Tn:
        copy, departure = outer.depart(copy, copy.anchor - Delta)
        sent = lossy(departure.contribution)
        copy = outer.deliver(outer.land(copy, sent), departure, sent)
    # With lr = 1 the anchor is minus all that was sent.
    owed = copy.own["residual"]
    torch.testing.assert_close(owed - copy.anchor, Delta_Tn.sum(0), rtol=0, atol=1e-4)
    assert owed.any()


@pytest.mark.parametrize("decay", [0.3, 0.95, 1.0])
@pytest.mark.parametrize("lr", [1.0, 0.65])
def test_a_codec_that_keeps_all_makes_it_fedavg_for_any_decay(decay: float, lr: float) -> None:
    Delta_Tn = small_integers(8, N)
    outer = Outer(Plain(lr), decay)
    copy = outer.first(torch.zeros(N))
    for Delta in Delta_Tn:
        copy, departure = outer.depart(copy, copy.anchor - Delta)
        sent = departure.contribution
        copy = outer.deliver(outer.land(copy, sent), departure, sent)
        assert not copy.own["residual"].any()
    torch.testing.assert_close(copy.anchor, -lr * Delta_Tn.sum(0), rtol=1e-5, atol=1e-5)


def test_the_residual_follows_sparselocos_recursion() -> None:
    beta, outer = 0.95, Outer(Plain(), feedback=0.95)
    copy, e = outer.first(torch.zeros(N)), torch.zeros(N, dtype=torch.float64)
    for t in range(10):
        Delta = torch.randn(N, generator=torch.Generator().manual_seed(t))
        copy, departure = outer.depart(copy, copy.anchor - Delta)
        q = lossy(departure.contribution)
        copy = outer.deliver(outer.land(copy, q), departure, q)
        e = beta * e + Delta.double() - q.double()
        torch.testing.assert_close(copy.own["residual"].double(), e, rtol=1e-5, atol=1e-5)


@given(fates=st.lists(st.booleans(), max_size=20), which=st.sampled_from(range(4)))
def test_whatever_is_lost_every_step_is_sent_or_owed_or_live(fates: list[bool], which: int) -> None:
    rule = [Plain(), CO2(momentum=0, gap="none", keep=0.5), CO2(momentum=0, gap="none"), Eager()][
        which
    ]
    outer, theta = Outer(rule, feedback=1.0), torch.zeros(N)
    copy, sent_in_all, work = outer.first(theta), torch.zeros(N), torch.zeros(N)
    for t, lands in enumerate(fates):
        steps = small_integers(N, seed=t)
        work, theta = work + steps, theta - steps
        copy, departure = outer.depart(copy, theta)
        theta = moved(theta, departure)
        if not lands:
            copy, back = outer.lose(copy, departure)
            theta = theta if back is None else theta + back
            continue
        sent, old = lossy(departure.contribution), copy
        copy = outer.deliver(outer.land(copy, sent), departure, sent)
        if departure.shift is None:
            theta = copy.anchor.clone()
        else:
            theta = theta + (copy.start - old.start)
        sent_in_all += sent
    accounted = sent_in_all + copy.own["residual"] + (copy.start - theta)
    torch.testing.assert_close(accounted, work, rtol=0, atol=1e-2)


@pytest.mark.parametrize("decay", [0.0, -0.1, 1.1, math.nan])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="feedback must be above 0 and at most 1"):
        Outer(Plain(), decay)


def test_feedback_is_for_pseudo_gradients() -> None:
    with pytest.raises(ValueError, match="this rule sends parameters; leave feedback out"):
        Outer(NoLoCo(), 0.95)
    assert Outer(NoLoCo()).feedback is None


# ---- a contribution made piece by piece


@pytest.mark.parametrize("feedback", [None, 0.5])
@pytest.mark.parametrize("rule", [*ALL_RULES, TWO_LANES], ids=name_of)
@settings(deadline=None)
@given(data=st.data())
def test_a_contribution_in_pieces_is_the_whole_to_the_bit(
    rule: OuterRule, feedback: float | None, data: st.DataObject
) -> None:
    lanes = rule.lanes
    outer = Outer(rule, None if isinstance(rule, NoLoCo) else feedback)
    start, first, theta = small_integers(3, N)
    copy, departure = outer.depart(outer.first(start), first)
    copy = outer.land(copy, departure.contribution)  # so that there is a state, and an offset
    after, whole = outer.depart(copy, theta, share=0.25)
    after_pieces, departed = outer.depart(copy, theta, share=0.25, piecewise=True)
    assert same(after, after_pieces)
    assert (whole.shift is None) == (departed.shift is None)
    cuts = data.draw(st.sets(st.integers(1, lanes * N - 1), max_size=6))
    bounds = [0, *sorted(cuts), lanes * N]
    pieces = [
        outer.contribution(copy, theta, departed, begin, end) for begin, end in pairwise(bounds)
    ]
    assert [len(piece) for piece in pieces] == [e - b for b, e in pairwise(bounds)]
    assert torch.equal(torch.cat(pieces), whole.contribution)


@pytest.mark.parametrize("rule", [Nesterov(), Plain(), NoLoCo(), TWO_LANES], ids=name_of)
def test_what_can_be_made_in_pieces_is_not_made_whole(rule: OuterRule) -> None:
    outer = Outer(rule)
    start, theta = small_integers(2, N)
    _, departure = outer.depart(outer.first(start), theta, piecewise=True)
    assert departure.contribution.numel() == 0


# ---- an outer step taken piece by piece

WHOLE = [TWO_LANES, CO2(gap="norm"), CO2(gap="elementwise"), CO2(gap=no_gap)]
"""Two lanes, and those that measure the whole vector (or may: a function could do anything)."""
STEPS = [
    *(make() for make in OUTER_RULES.values()),
    DelayedNesterov(buffer=2, c=0.25),
    CO2(gap="none", clip=0.1),
    *WHOLE,
]


def any_copy(rule: OuterRule, n: int, *, round: int, seed: int) -> tuple[OuterCopy, Tensor]:
    """Return a copy in the middle of a run, and an average to land; bits of all of fp32."""
    generator = torch.Generator().manual_seed(seed)
    first = Outer(rule).first(torch.randn(n, generator=generator))
    state = {name: torch.randn(n, generator=generator) for name in first.state}
    average = torch.randn(rule.lanes * n, generator=generator)
    return OuterCopy(first.anchor, state, first.own, round), average


@pytest.mark.parametrize("rule", STEPS, ids=name_of)
@settings(deadline=None, max_examples=12)
@given(
    num_pieces=st.integers(0, 2),
    more=st.integers(-40, 40),
    round=st.integers(0, 4),
    seed=st.integers(0, 1000),
)
def test_a_step_in_pieces_is_the_whole_one_to_the_bit(
    rule: OuterRule, num_pieces: int, more: int, round: int, seed: int
) -> None:
    outer, n = Outer(rule), max(1, num_pieces * _PIECE + more)
    copy, average = any_copy(rule, n, round=round, seed=seed)
    kept = {name: x.clone() for name, x in vectors_of(copy).items()}
    whole = outer.land(copy, average.clone())
    assert same(outer.land(copy, average, piecewise=True), whole)
    assert all(torch.equal(x, kept[name]) for name, x in vectors_of(copy).items())


@pytest.mark.parametrize("rule", STEPS, ids=name_of)
def test_a_step_in_pieces_takes_the_averages_place_and_nothing_else(rule: OuterRule) -> None:
    copy, average = any_copy(rule, 2 * _PIECE + 7, round=1, seed=0)
    before = average.clone()
    landed = Outer(rule).land(copy, average, piecewise=True)
    if rule in WHOLE or rule == CO2():
        assert torch.equal(average, before)
    else:
        assert landed.anchor is average
    new = [landed.anchor, *landed.state.values()]
    places = {x.data_ptr() for x in (*new, copy.anchor, *copy.state.values())}
    assert len(places) == 2 * len(new)
