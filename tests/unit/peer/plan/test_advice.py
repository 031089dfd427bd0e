"""What is recommended, and that it never becomes worse where the link becomes better."""

import tomllib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optim.presets import PRESETS
from peer.cli.plan_screen import toml_lines
from peer.method import check_method
from peer.plan.advice import (
    INTERVALS,
    Case,
    Help,
    Plan,
    best_plan,
    helps,
    needed_settings,
    plan_for,
    plans,
)
from peer.plan.answer import answer, as_data, loss_in_words
from peer.plan.cost import LossCost
from peer.plan.estimate import Link, layers_of
from peer.plan.utilisation import Workload
from peer.settings import method_settings
from protocol.identity import Identity
from protocol.manifest import manifest_from

FOUNDER = Identity(b"f" * 32).peer_id


def case_of(
    num_params: float = 1e9, *, peers: int = 32, step_s: float = 0.5, **link: float
) -> Case:
    work = Workload(num_params=num_params, layers=layers_of(num_params), step_s=step_s)
    return Case(work, Link(**{"up_bps": 20e6, "down_bps": 100e6, "rtt_s": 0.08, **link}), peers)


CASES = st.builds(
    case_of,
    st.sampled_from([1e7, 1.24e8, 1e9, 7e9]),
    peers=st.sampled_from([2, 8, 32, 300]),
    step_s=st.floats(0.05, 5),
    up_bps=st.floats(1e5, 1e9),
    rtt_s=st.floats(0, 0.5),
    loss_frac=st.sampled_from([0.0, 0.001, 0.02]),
)


def help_named(found: list[Help], change: str) -> Help:
    return next(help for help in found if help.change == change)


@settings(max_examples=15, deadline=None)
@given(CASES, st.floats(1, 50))
def test_more_bandwidth_never_makes_the_best_worse(case: Case, factor: float) -> None:
    link = case.link
    wider = replace(link, up_bps=factor * link.up_bps, down_bps=factor * link.down_bps)
    assert best_plan(replace(case, link=wider)).rank[:2] <= best_plan(case).rank[:2]


@settings(max_examples=15, deadline=None)
@given(CASES)
def test_the_best_is_no_worse_than_any_preset(case: Case) -> None:
    best = best_plan(case)
    assert all(best.rank[:2] <= plan.rank[:2] for plan in plans(case))


def test_on_a_thin_link_few_bits_and_long_intervals_win() -> None:
    best = best_plan(case_of())
    assert best.estimate.suffices
    assert best.method.codec.name in ("int4", "mod4", "topk")
    assert best.method.schedule.interval_steps >= 500


def test_on_a_wide_link_the_shortest_interval_wins() -> None:
    best = best_plan(case_of(1e8, peers=4, up_bps=2e9, down_bps=2e9))
    assert best.method.schedule.interval_steps == INTERVALS[0]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_search_among_one_presets_settings_stays_there(preset: str) -> None:
    case = case_of()
    best = best_plan(case, preset)
    assert best.preset == preset
    assert best.rank[:2] <= plan_for(case, preset).rank[:2]


def test_a_crowd_is_left_with_pairs() -> None:
    crowd = case_of(peers=1000)
    assert {plan.method.mixing for plan in plans(crowd)} == {"pairs"}
    assert best_plan(crowd).method.mixing == "pairs"
    with pytest.raises(ValueError, match="use mixing pairs"):
        best_plan(crowd, "streaming")


def test_on_a_full_link_the_upload_is_what_helps() -> None:
    case = case_of()
    found = helps(case, best_plan(case), best_plan)
    assert found[0].change == "twice the upload"
    assert found[0].gain_frac > 0.001
    assert help_named(found, "twice the download").gain_frac == pytest.approx(0, abs=1e-12)


def test_on_a_preset_with_wide_values_four_bits_help_most() -> None:
    case = case_of(1.24e8, peers=8, step_s=0.3)
    plan = plan_for(case, "diloco")
    found = helps(case, plan, lambda other: plan_for(other, "diloco"))
    assert found[0].change == "4 bits a value"
    assert found[0].plan.method.codec.name == "int4"
    assert plan_for(case, "noloco", codec={"name": "mod4"}).method.codec.name == "mod4"


@settings(max_examples=10, deadline=None)
@given(CASES)
def test_gains_are_those_of_the_expected_loss_best_first(case: Case) -> None:
    plan = best_plan(case)
    found = helps(case, plan, best_plan)
    assert [help.gain_frac for help in found] == sorted(
        (help.gain_frac for help in found), reverse=True
    )
    for help in found:
        if max(help.plan.loss.high_frac, plan.loss.high_frac) < 1:
            gain = plan.loss.middle_frac - help.plan.loss.middle_frac
            assert help.gain_frac == pytest.approx(gain)


def found_with(plan: Plan, peers: int) -> dict[str, Any]:
    """Return the settings that an operator's run.toml would have."""
    return tomllib.loads("\n".join(toml_lines(needed_settings(plan, peers))))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_settings_shown_found_a_run(preset: str) -> None:
    case = case_of(peers=200)
    plan = best_plan(case, preset)
    told = found_with(plan, case.peers)
    given = {**told, "method": method_settings(told["method"])}
    manifest = manifest_from({"founder": FOUNDER, "model": {"layers": 24}, **given})
    check_method(manifest)
    schedule = manifest.method.schedule
    assert schedule.interval_steps == plan.method.schedule.interval_steps
    assert schedule.fragments == plan.method.schedule.num_fragments
    assert manifest.method.codec.name == plan.method.codec.name
    assert manifest.round.progress_s > plan.estimate.least_progress_s
    assert manifest.round.exchange_s > plan.estimate.exchange_s
    assert manifest.limits.max_peers >= (200 if plan.method.mixing == "all" else 2)


def test_nothing_is_set_that_the_defaults_do() -> None:
    case = case_of(1e7, peers=4)
    assert needed_settings(plan_for(case, "streaming"), 4) == {"method": {"preset": "streaming"}}


# ---- in words


def test_a_late_joiner_is_warned_where_rounds_are_shorter_than_its_download() -> None:
    words = " ".join(answer(case_of()).sentences)
    assert "Who joins fetches 8.0 GB first" in words
    assert "may never catch up" in words
    assert "may never catch up" not in " ".join(answer(case_of(), "gossip-stream").sentences)


def test_few_rounds_are_said() -> None:
    few = answer(case_of(), tokens_per_step=8192.0).sentences
    assert any("rounds: few" in sentence for sentence in few)
    many = answer(case_of(), tokens_per_step=500.0).sentences
    assert any(sentence.endswith("rounds.") for sentence in many)


@pytest.mark.parametrize(
    ("low", "high", "reasons", "words"),
    [
        (0.0012, 0.0149, (), "0 to 1.5 %"),
        (-0.001, 0.031, ("far",), "-0.5 to 3.5 %*"),
        (0.04, float("inf"), ("far",), "4 % or more*"),
    ],
)
def test_a_range_is_widened_to_halves(
    low: float, high: float, reasons: tuple[str, ...], words: str
) -> None:
    assert loss_in_words(LossCost(low, high, (), reasons)) == words


@settings(max_examples=10, deadline=None)
@given(CASES)
def test_an_answer_is_plain_data_with_its_sources(case: Case) -> None:
    found = answer(case)
    data = as_data(found)
    named = {name for plan in (data["best"], *data["presets"]) for name in plan["loss"]["sources"]}
    assert named == set(data["sources"])
    assert all(0 < plan["waiting_trainer_frac"] <= 1 for plan in data["presets"])
