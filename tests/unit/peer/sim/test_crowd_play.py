"""A crowd is played the same way each time, its figures add up, and its theory holds."""

import io
import json
import math
import signal
import sys
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import peer.sim.crowd_play
from optim.codec.codec import codec_named
from optim.codec.grains import grain_elements
from peer.sim import crowd_picture, crowd_report
from peer.sim.crowd_outcome import CrowdOutcome, random_pairs_factor
from peer.sim.crowd_play import play_crowd
from peer.sim.crowd_scenario import crowd_spec
from peer.sim.crowd_tally import Tally
from peer.sim.play import Progress
from peer.sim.scenario import Scenario, read_scenario
from thinwire.__main__ import main

FEW = 20
INTERVAL_S = 50.0
ROUNDS = 12
CHURN = {"crash_per_hour": 144.0, "join_per_hour": 144.0}
"""Two in a round of fifty seconds: a tenth of twenty."""


def scenario(**changes: Any) -> Scenario:
    settings: dict[str, Any] = {
        "title": "Twenty homes",
        "level": "sizes",
        "seed": 3,
        "duration": (1 + ROUNDS) * INTERVAL_S,
        "stands_for_params": "1M",
        "run": {"method": {"preset": "noloco", "codec": {"name": "mod4"}}},
        "groups": [{"name": "homes", "count": FEW, "step": 1.0, "step_cv": 0.3}],
        "churn": CHURN,
    }
    return Scenario.model_validate(settings | changes)


@pytest.fixture(scope="module")
def played() -> CrowdOutcome:
    return play_crowd(scenario())


def text_of(outcome: CrowdOutcome) -> str:
    console = Console(record=True, width=80, file=io.StringIO())
    crowd_report.show(outcome, console)
    return console.export_text()


# ---- from a scenario to a crowd


def test_a_contribution_weighs_its_frame_and_a_state_anchor_and_momentum() -> None:
    chosen = scenario()
    spec = crowd_spec(chosen, chosen.manifest(0))
    codec, limits = codec_named("mod4"), chosen.manifest(0).limits
    grains = torch.zeros(1_000_000).split(grain_elements(codec, limits.chunk_bytes))
    assert spec.part_bytes == sum(len(codec.encode(grain, near=grain)) for grain in grains)
    assert spec.state_bytes == 2 * 4 * 1_000_000
    assert (spec.mixing, spec.momentum, spec.gamma) == ("pairs", 0.5, 0.7)
    assert (spec.interval_steps, spec.interval_s, spec.entry_s) == (50, INTERVAL_S, INTERVAL_S)


def test_two_lanes_are_twice_the_bytes() -> None:
    method = {"preset": "noloco", "outer": {"gamma": 0.5}}
    chosen = scenario(run={"method": method})
    spec = crowd_spec(chosen, chosen.manifest(0))
    assert spec.gamma == 0.5
    assert spec.part_bytes == pytest.approx(2 * 4 * 1_000_000, rel=1e-3)


def test_without_a_stand_in_the_runs_own_model_is_weighed() -> None:
    model = {"dim": 64, "layers": 2, "heads": 2, "ffn_dim": 176, "context": 64}
    chosen = scenario(
        stands_for_params=None, run={"method": "noloco", "model": model, "name": "own"}
    )
    spec = crowd_spec(chosen, chosen.manifest(0))
    embedding, attention, mlp, norms = 256 * 64, 4 * 64**2, 3 * 64 * 176, 2 * 64
    num_params = embedding + 2 * (attention + mlp + norms) + 64
    assert spec.state_bytes == pytest.approx(8 * num_params, rel=0.1)


def test_the_runs_patience_is_the_crowds() -> None:
    patience = {"exchange_s": 90.0, "progress_s": 7.0, "quorum_frac": 0.75, "grace_s": 2.0}
    chosen = scenario(run={"method": "noloco", "round": patience})
    spec = crowd_spec(chosen, chosen.manifest(0))
    assert {name: getattr(spec, name) for name in patience} == patience


def test_a_peer_looks_around_as_often_as_the_products_unless_told() -> None:
    for crowd, refresh_s, lifetime_s in (({}, 5.0, 30.0), ({"refresh": "20s"}, 20.0, 120.0)):
        chosen = scenario(crowd=crowd)
        spec = crowd_spec(chosen, chosen.manifest(0))
        assert (spec.refresh_s, spec.lifetime_s) == (refresh_s, lifetime_s)


# ---- playing


def test_equal_seeds_give_equal_outcomes_and_others_do_not(played: CrowdOutcome) -> None:
    again = play_crowd(scenario())
    assert again.digest == played.digest
    clocks = {"wall_s": 0, "times_real": 0}
    assert again.to_json() | clocks == played.to_json() | clocks
    assert play_crowd(scenario(), seed=4).digest != played.digest


def test_looking_at_it_more_or_less_often_changes_nothing(
    played: CrowdOutcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer.sim.crowd_play, "NUM_SAMPLES", 7)
    monkeypatch.setattr(peer.sim.crowd_play, "SLICES_PER_SAMPLE", 1)
    again = play_crowd(scenario())
    assert len(again.samples) == 8
    assert again.digest == played.digest


def test_counters_only_grow_and_the_crowd_stays_as_large_as_it_was(played: CrowdOutcome) -> None:
    samples = played.samples
    assert len(samples) == 101
    assert (samples[0].t_s, samples[0].peers, samples[0].died) == (0.0, 0, 0)
    assert samples[-1].t_s == played.simulated_s == scenario().duration_s
    for before, after in pairwise(samples):
        assert before.died <= after.died
        for field in fields(Tally):
            assert getattr(before.tally, field.name) <= getattr(after.tally, field.name)
    assert {sample.peers for sample in samples if sample.t_s >= INTERVAL_S} == {FEW}


def test_as_many_die_as_the_churn_says() -> None:
    rounds = 40
    long = play_crowd(scenario(duration=(1 + rounds) * INTERVAL_S))
    expected = rounds * FEW / 10
    assert abs(long.settled.died - expected) < 4 * math.sqrt(expected)
    calm = play_crowd(scenario(churn={}))
    assert calm.settled.died == calm.whole.died == 0


def test_a_calm_crowd_lands_once_a_round_and_moves_one_contribution_each() -> None:
    calm = play_crowd(scenario(churn={}, crowd={"pace_cv": 0.0}))
    stretch = calm.settled
    done, bulk_bytes = stretch.each("done"), stretch.each("bulk_bytes")
    assert done is not None
    assert bulk_bytes is not None
    assert stretch.count("intervals") == pytest.approx(FEW * ROUNDS, rel=0.06)
    assert 0.9 < done <= 1.05
    assert bulk_bytes / done == pytest.approx(1.01 * calm.spec.part_bytes, rel=0.03)
    assert stretch.each("refreshes") == pytest.approx(INTERVAL_S / 5.0, rel=0.1)
    assert (stretch.each("alone") or 0.0) < 0.1


def test_pieces_of_a_round_are_all_of_it(played: CrowdOutcome) -> None:
    pieces = played.stretches()
    assert all(0.9 * INTERVAL_S <= piece.duration_s < 1.5 * INTERVAL_S for piece in pieces)
    assert pieces[0].begin is played.samples[0]
    for one, other in pairwise(pieces):
        assert one.end is other.begin
    assert sum(piece.count("done") for piece in pieces) <= played.whole.count("done")


def test_the_spread_is_of_those_who_have_entered() -> None:
    """A newcomer whose state is still on its way has no value that could be far off."""
    slow = {"up": "1M", "down": "100M"}  # its state takes a round
    groups = [{"name": "homes", "count": FEW, "step": 1.0, "step_cv": 0.3, "link": slow}]
    outcome = play_crowd(scenario(groups=groups, duration=(1 + 30) * INTERVAL_S))
    spread, factor = outcome.settled.end.spread, outcome.spread_factor
    assert spread is not None
    assert factor is not None
    assert spread < 0.05
    assert factor < 0.9


def test_a_crowd_that_averages_all_together_has_no_spread() -> None:
    outcome = play_crowd(scenario(run={"method": "diloco"}, duration=4 * 100.0, churn={}))
    assert outcome.spec.mixing == "all"
    assert outcome.settled.count("done") > 0
    assert {sample.spread for sample in outcome.samples} == {None}
    assert outcome.spread_factor is outcome.random_pairs_factor is None
    assert "spread" not in text_of(outcome)


# ---- the factor of theory


@pytest.mark.parametrize("gamma", [0.3, 0.7, 1.0])
def test_without_momentum_the_factor_has_a_closed_form(gamma: float) -> None:
    expected = math.sqrt(1 - gamma + gamma**2 / 2)
    assert random_pairs_factor(0.0, gamma) == pytest.approx(expected)


@pytest.mark.parametrize(("momentum", "gamma"), [(0.5, 0.7), (0.5, 0.3), (0.9, 0.2)])
def test_the_factor_is_that_of_many_values_paired_at_random(momentum: float, gamma: float) -> None:
    rng = np.random.default_rng(1)
    phi = rng.normal(size=200_000)
    delta = np.zeros_like(phi)
    spreads = []
    for _ in range(60):
        order = rng.permutation(len(phi))
        mean = np.empty_like(phi)
        one, other = order[::2], order[1::2]
        mean[one] = mean[other] = (phi[one] + phi[other]) / 2
        delta = momentum * delta - gamma * (phi - mean)
        phi = phi + delta
        spreads.append(phi.std())
    measured = (spreads[-1] / spreads[29]) ** (1 / 30)
    assert random_pairs_factor(momentum, gamma) == pytest.approx(measured, rel=0.01)


# ---- stopping, and telling


@pytest.mark.parametrize("num_slices", [0, 1, 15, 500])
def test_whatever_was_played_can_be_shown_and_drawn(tmp_path: Path, num_slices: int) -> None:
    seen: list[Progress] = []
    outcome = play_crowd(
        scenario(), on_progress=seen.append, is_wanted=lambda: len(seen) < num_slices
    )
    assert not outcome.is_whole
    duration_s = scenario().duration_s
    assert outcome.simulated_s == pytest.approx(num_slices / 1000 * duration_s)
    assert outcome.samples[-1].t_s == outcome.simulated_s
    text = text_of(outcome)
    assert "stopped after" in text
    assert "nan" not in text
    crowd_picture.draw(outcome, tmp_path / "picture.png")
    json.dumps(outcome.to_json(), allow_nan=False)
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_the_screen_says_what_counts(played: CrowdOutcome) -> None:
    text = text_of(played)
    assert "Twenty homes" in text
    assert f"{played.settled.count('intervals'):,.0f} rounds" in text
    assert f"{played.settled.died} crashed" in text
    assert f"{played.spread_factor:.3f} in an outer step" in text
    assert played.digest[:16] in text
    assert "records read" in text


# ---- from the command line

FILE = """
title = "Twenty homes"
level = "sizes"
duration = "5min"
stands_for_params = "1M"
run = { method = "noloco" }
groups = [{ name = "homes", count = 20, step = "1s" }]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("crowd.toml").write_text(FILE)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["thinwire", "simulate", *words])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code is None or isinstance(left.value.code, int)
    return left.value.code or 0


@pytest.mark.usefixtures("here")
def test_it_ends_with_a_report_a_picture_and_the_way_to_replay_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "crowd.toml", "--seed", "5", "--out", "a") == 0
    said = capsys.readouterr().out
    outcome = json.loads(Path("a/outcome.json").read_text())
    assert Path("a/picture.png").read_bytes().startswith(b"\x89PNG")
    assert outcome["digest"][:16] in said
    assert "replay" in said
    assert "thinwire simulate crowd.toml --seed 5" in said
    assert run(monkeypatch, "crowd.toml", "--seed", "5", "--out", "b", "--json") == 0
    again = json.loads(capsys.readouterr().out)
    assert again["digest"] == outcome["digest"]
    assert (again["level"], again["peers"], again["simulated_s"]) == ("sizes", 20, 300.0)


@pytest.mark.usefixtures("here")
def test_ctrl_c_ends_with_the_report_of_what_was_simulated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = peer.sim.crowd_play.play_crowd

    def pressed(*args: Any, on_progress: Any, **options: Any) -> CrowdOutcome:
        def press(progress: Progress) -> None:
            on_progress(progress)
            if 150.0 <= progress.now_s < 150.1:
                signal.raise_signal(signal.SIGINT)

        return original(*args, on_progress=press, **options)

    monkeypatch.setattr(peer.sim.crowd_play, "play_crowd", pressed)
    assert run(monkeypatch, "crowd.toml", "--out", "a") == 0
    assert "stopped after" in capsys.readouterr().out
    outcome = json.loads(Path("a/outcome.json").read_text())
    assert outcome["is_whole"] is False
    assert outcome["simulated_s"] == pytest.approx(150.0, abs=0.4)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("more", "words", "expected"),
    [
        ('faults = [{ kind = "crash", at = 1 }]', [], "crowd.toml: faults: does nothing at level"),
        ("", ["--trace", "t.jsonl"], "--trace: at level sizes"),
    ],
    ids=["a fault", "a trace"],
)
def test_what_there_is_not_is_one_line_and_code_2(
    more: str,
    words: list[str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("crowd.toml").write_text(FILE + more)
    assert run(monkeypatch, "crowd.toml", *words) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert expected in said


def test_the_ready_crowd_loses_one_in_a_hundred_each_round() -> None:
    ready = read_scenario("crowd")
    spec = crowd_spec(ready, ready.manifest(ready.seed))
    assert spec.num_peers == 1000
    assert spec.churn_frac == pytest.approx(0.01)
    assert ready.duration_s > 30 * spec.interval_s
