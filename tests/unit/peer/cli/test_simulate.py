"""`thinwire simulate` from the command line: what it leaves, what it says, and how it ends."""

import json
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import peer.sim.play
from peer.sim.play import Progress
from thinwire.__main__ import main

LEAST = """
title = "Two of them"
duration = "20s"
[toy]
parameters = 40
[run.method.schedule]
interval_steps = 10
[[groups]]
name = "pair"
count = 2
step = 0.5
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("two.toml").write_text(LEAST)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["thinwire", "simulate", *words])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code is None or isinstance(left.value.code, int)
    return left.value.code or 0


def digest(out: str) -> str:
    return next(line.split()[1] for line in out.splitlines() if line.startswith(" trace"))


def test_it_ends_with_a_table_a_picture_and_the_way_to_replay_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "two.toml", "--seed", "5", "--out", "a", "--trace", "a.jsonl") == 0
    first = capsys.readouterr().out
    assert "Two of them" in first
    assert Path("a/picture.png").read_bytes().startswith(b"\x89PNG")
    outcome = json.loads(Path("a/outcome.json").read_text())
    assert outcome["digest"].startswith(digest(first))
    events = [json.loads(line) for line in Path("a.jsonl").read_text().splitlines()]
    assert {"joined", "landed"} <= {event["event"] for event in events}
    replay = next(line for line in first.splitlines() if "replay" in line)
    _, _, command, *words = shlex.split(replay)
    assert command == "simulate"
    assert run(monkeypatch, *words, "--out", "b") == 0
    assert digest(capsys.readouterr().out) == digest(first)


def test_without_a_folder_it_makes_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "two.toml") == 0
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("simulate-two-")
    assert str(folder / "picture.png") in capsys.readouterr().out


def test_as_json_it_says_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "two.toml", "--json", "--duration", "10s", "--out", "a") == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["simulated_s"] == 10.0
    assert len(outcome["peers"]) == 2
    assert outcome == json.loads(Path("a/outcome.json").read_text())


def test_ctrl_c_ends_with_the_report_of_what_was_simulated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original: Callable[..., Any] = peer.sim.play.play

    def pressed(*args: Any, on_progress: Callable[[Progress], None], **options: Any) -> Any:
        def press(progress: Progress) -> None:
            on_progress(progress)
            if 10.0 <= progress.now_s < 10.01:
                signal.raise_signal(signal.SIGINT)

        return original(*args, on_progress=press, **options)

    monkeypatch.setattr(peer.sim.play, "play", pressed)
    before = signal.getsignal(signal.SIGINT)
    assert run(monkeypatch, "two.toml", "--out", "a") == 0
    assert signal.getsignal(signal.SIGINT) is before
    out = capsys.readouterr().out
    assert "stopped after" in out
    assert "10 s" in out
    assert json.loads(Path("a/outcome.json").read_text())["is_whole"] is False
    assert Path("a/picture.png").exists()


def test_what_breaks_a_simulated_peer_is_told_with_the_way_to_replay_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*args: object, **options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(peer.sim.play, "play", broken)
    monkeypatch.setattr(sys, "argv", ["thinwire", "simulate", "two.toml", "--seed", "3"])
    with pytest.raises(ZeroDivisionError) as raised:
        main()
    assert raised.value.__notes__ == ["replay: thinwire simulate two.toml --seed 3"]


def test_the_ready_scenarios_are_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--list") == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert {"home", "continents", "datacentres", "split"} <= set(names)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "give a scenario.toml"),
        (["nowhere"], "no scenario 'nowhere'; there are continents, "),
        (["nowhere.toml"], "cannot read nowhere.toml"),
        (["bad.toml"], "bad.toml: speed: there is no such setting"),
        (["two.toml", "--duration", "soon"], "--duration: 'soon' is not a time"),
        (["two.toml", "--duration", "0s"], "--duration: "),
        (["two.toml", "--out", "two.toml"], "cannot write two.toml"),
        (["two.toml", "--out", "a", "--trace", "no/where.jsonl"], "cannot write no/where.jsonl"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else None,
)
def test_a_mistake_of_the_operator_is_one_line_and_code_2(
    words: list[str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("bad.toml").write_text("speed = 1" + LEAST)
    assert run(monkeypatch, *words) == 2
    captured = capsys.readouterr()
    (said,) = captured.err.splitlines()
    assert said.startswith("thinwire: ")
    assert expected in said


def test_a_seed_below_zero_is_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "two.toml", "--seed", "-1") == 2
