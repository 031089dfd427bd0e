"""A scenario is played the same way each time, and its figures add up."""

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from peer.sim.ledger import CAUSES
from peer.sim.outcome import Outcome
from peer.sim.picture import draw
from peer.sim.play import Progress, play, reason_of
from peer.sim.report import show
from peer.sim.scenario import Scenario

END_S = 60.0


def scenario(**changes: Any) -> Scenario:
    """Five peers in two places, who are crashed, frozen, slowed down and split."""
    settings: dict[str, Any] = {
        "title": "Five peers",
        "seed": 7,
        "duration": END_S,
        "toy": {"parameters": 60},
        "run": {
            "method": {"preset": "streaming", "schedule": {"interval_steps": 12}},
            "round": {"exchange_s": 20.0},
        },
        "groups": [
            {"name": "homes", "count": 3, "step": 0.5, "link": {"up": "2M", "latency": "20ms"}},
            {"name": "office", "count": 2, "step": 0.4, "step_cv": 0.1},
        ],
        "distances": [{"between": ["homes", "office"], "latency": "30ms"}],
        "faults": [
            {"kind": "freeze", "at": 12, "for": "4s"},
            {"kind": "slow", "at": 15, "for": "10s", "times": 2.0},
            {"kind": "partition", "at": 20, "for": "5s"},
            {"kind": "crash", "at": 30},
            {"kind": "leave", "at": 35},
            {"kind": "join", "at": 40, "count": 2},
        ],
    }
    return Scenario.model_validate(settings | changes)


@pytest.fixture(scope="module")
def played() -> Outcome:
    return play(scenario())


def test_equal_seeds_give_equal_traces_byte_for_byte(played: Outcome) -> None:
    again = play(scenario())
    assert again.trace.lines() == played.trace.lines()
    assert again.digest == played.digest
    clocks = {"wall_s": 0, "times_real": 0}
    assert again.to_json() | clocks == played.to_json() | clocks


def test_another_seed_is_another_run(played: Outcome) -> None:
    assert play(scenario(duration=5.0), seed=8).digest != play(scenario(duration=5.0)).digest


def test_looking_at_it_more_or_less_often_changes_nothing(
    played: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.sim.play.NUM_SAMPLES", 7)
    monkeypatch.setattr("peer.sim.play.SLICES_PER_SAMPLE", 1)
    again = play(scenario())
    assert len(again.samples) == 7
    assert again.digest == played.digest


def test_work_and_causes_are_all_of_a_peers_time(played: Outcome) -> None:
    for peer in played.peers:
        until_s = peer.ended_at_s if peer.fate == "left" else END_S
        assert until_s is not None
        assert peer.alive_s == pytest.approx(until_s - peer.began_at_s)
        assert peer.busy_s + sum(peer.lost_s.values()) == pytest.approx(peer.alive_s)
        assert 0 < peer.utilisation_frac < 1


def test_the_trainers_never_wait(played: Outcome) -> None:
    assert sum(peer.lost_s["waiting"] for peer in played.peers) == pytest.approx(0.0, abs=1e-6)


def test_time_is_lost_to_what_happened_and_only_to_that(played: Outcome) -> None:
    lost_s = {cause: sum(peer.lost_s[cause] for peer in played.peers) for cause in CAUSES}
    assert lost_s["dead"] == pytest.approx(END_S - 30.0)
    assert 3.0 < lost_s["frozen"] <= 4.0  # a step may have been under way
    assert 0 < lost_s["slow"] <= 6.0
    assert 0 < lost_s["leaving"] < 2.0
    calm = play(scenario(faults=[]))
    assert {cause for peer in calm.peers for cause, s in peer.lost_s.items() if s > 1e-6} == {
        "entering"
    }


def test_work_is_steps_at_the_machines_own_pace(played: Outcome) -> None:
    homes = played.of_group("homes")
    assert len(homes) >= 3
    for peer in homes:  # whose steps are all equal
        assert peer.busy_s == pytest.approx(0.5 * peer.steps, abs=0.5 + 1e-6)


def test_every_planned_fault_happened_and_is_counted(played: Outcome) -> None:
    expected = {"freeze": 1, "slow": 1, "halves": 1, "crash": 1, "leave": 1, "join": 2}
    assert {name: played.fired[name] for name in expected} == expected
    assert [mark.at_s for mark in played.faults] == [12, 15, 20, 30, 35, 40]
    assert [mark.for_s for mark in played.faults] == [4, 10, 5, 0, 0, 0]
    fates = sorted(peer.fate for peer in played.peers)
    assert fates == ["crashed", "left", *5 * ["running"]]


def test_the_series_end_where_the_peers_are(played: Outcome) -> None:
    last = played.samples[-1]
    assert len(played.samples) == 100
    assert last.t_s == END_S
    assert last.peers == 5
    assert last.sent_bytes == sum(peer.sent_bytes for peer in played.peers)
    assert last.exchanges_done == sum(peer.exchanges_done for peer in played.peers)
    assert sum(played.failures.values()) == last.exchanges_failed
    assert last.rounds == max(peer.rounds for peer in played.peers)
    for before, after in zip(played.samples, played.samples[1:], strict=False):
        assert before.sent_bytes <= after.sent_bytes
    assert played.final_loss < played.first_loss
    assert min(loss for _, loss in played.validation) < played.first_loss


def test_a_stand_in_sends_as_much_as_what_it_stands_for() -> None:
    calm = scenario(
        faults=[],
        groups=[{"name": "a", "count": 2, "step": 0.5}],
        run={"method": {"preset": "diloco", "schedule": {"interval_steps": 20}}},
        toy={"parameters": 5000},
        stands_for_params="500k",
        duration=58.0,
    )
    outcome = play(calm)
    one, other = outcome.peers
    assert one.rounds == other.rounds == 5
    bulk_bytes = 5 * 4 * 500e3  # of fp32: half as a part, and half as an average
    notes_bytes = 150e3
    for peer in (one, other):
        assert bulk_bytes < peer.sent_bytes < 1.011 * bulk_bytes + notes_bytes
    assert 8 * 4 * 500e3 / 100e6 < one.exchange_s < 1.0


def test_a_group_may_come_later() -> None:
    groups = [
        {"name": "first", "count": 2, "step": 0.5},
        {"name": "late", "joins": "20s", "step": 0.5},
    ]
    outcome = play(scenario(groups=groups, faults=[]))
    (late,) = outcome.of_group("late")
    assert late.began_at_s == 20.0
    assert late.alive_s == END_S - 20.0
    assert late.steps > 70


# ---- stopping, and telling


def test_a_play_that_is_stopped_is_the_beginning_of_the_whole(played: Outcome) -> None:
    seen: list[Progress] = []
    half = play(scenario(), on_progress=seen.append, is_wanted=lambda: len(seen) < 500)
    assert not half.is_whole
    assert played.is_whole
    assert half.simulated_s == pytest.approx(END_S / 2) == seen[-1].now_s
    assert half.trace.lines() == [
        line for line in played.trace.lines() if json.loads(line)["t_s"] <= half.simulated_s
    ]
    assert all(peer.alive_s <= END_S / 2 for peer in half.peers)


@pytest.mark.parametrize("num_slices", [0, 1, 300])
def test_whatever_was_played_can_be_shown_and_drawn(tmp_path: Path, num_slices: int) -> None:
    seen: list[Progress] = []
    outcome = play(scenario(), on_progress=seen.append, is_wanted=lambda: len(seen) < num_slices)
    console = Console(record=True, width=90, file=io.StringIO())
    show(outcome, console)
    draw(outcome, tmp_path / "picture.png")
    json.dumps(outcome.to_json(), allow_nan=False)
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_says_what_counts_on_few_columns(played: Outcome) -> None:
    console = Console(record=True, width=80, file=io.StringIO())
    show(played, console)
    lines = console.export_text().splitlines()
    text = "\n".join(lines)
    assert "Five peers" in lines[1]
    assert {"homes", "office"} <= {line.split()[0] for line in lines if line.strip()}
    assert f"{sum(peer.steps for peer in played.of_group('homes')):,}" in text
    assert played.digest[:16] in text
    assert "crash 1" in text
    assert "nan" not in text


def test_threads_are_as_before(played: Outcome) -> None:
    before = torch.get_num_threads()
    play(scenario(duration=1.0, faults=[]))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("12D3KooWAXpY55mkrcKSAFmn4vDjrMB1NttdFiw does not answer", "a peer does not answer"),
        ("not done after 12.5 s", "not done after N s"),
        ("only 3 of 4 peers brought their part", "only N of N peers brought their part"),
        (None, "None"),
    ],
)
def test_reasons_are_told_without_whom_and_how_many(said: object, reason: str) -> None:
    assert reason_of(said) == reason


def test_nothing_that_did_not_happen_is_a_number(played: Outcome) -> None:
    nobody = play(scenario(), is_wanted=lambda: False)
    assert nobody.peers == []
    assert math.isnan(nobody.final_loss)
    assert nobody.to_json()["final_loss"] is None
