"""What `thinwire plan` prints, and what it says to mistakes."""

import json
import sys

import pytest

from optim.presets import PRESETS
from peer.plan.table import METHODS, MODELS
from thinwire.__main__ import main

ASKED = ("--params=1e9", "--step-s=0.5", "--up=20M", "--down=100M", "--rtt=80ms", "--peers=32")


@pytest.fixture(autouse=True)
def columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["thinwire", "plan", *words])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


@pytest.mark.parametrize("width", [80, 100, 200])
def test_it_fits_and_names_everything(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert run(monkeypatch, *ASKED) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= min(width, 100)
    assert "…" not in "\n".join(lines)  # nothing was cut off
    starts = [line.split()[0] for line in lines if line]
    assert set(PRESETS) <= set(starts)
    assert "best:" in starts
    assert any("would help most" in line for line in lines)
    assert any(line.startswith("arXiv:2503.09799") for line in lines)
    assert any(line.startswith('preset = "') for line in lines)


def test_one_preset_is_shown_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *ASKED, "--method", "noloco") == 0
    starts = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line]
    assert "noloco" in starts
    assert "diloco" not in starts


def test_json_is_one_object_with_the_same_plan(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *ASKED, "--tokens-per-step", "8k", "--loss-frac", "0.01", "--json") == 0
    (line,) = capsys.readouterr().out.splitlines()
    data = json.loads(line)
    assert [plan["preset"] for plan in data["presets"]] == list(PRESETS)
    assert data["asked"]["loss_frac"] == 0.01
    assert data["best"]["settings"]["method"]["preset"] == data["best"]["preset"]
    assert all(plan["up_bytes_per_day"] > 0 for plan in data["presets"])


def test_the_table_is_shown_and_is_data(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(monkeypatch, "--table") == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert all(model.name in shown for model in MODELS)
    assert run(monkeypatch, "--table", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == len(MODELS) * len(METHODS)
    assert set(rows[0]["bandwidth_bps"]) == {"0.5", "0.8", "0.9", "0.95", "0.99"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "give --params and --step-s, or --table"),
        (["--params", "1e9"], "give --params and --step-s"),
        (["--params", "big", "--step-s", "1"], "--params 'big' is not a number"),
        (["--params", "1e9", "--step-s", "0"], "--step-s 0: too small"),
        (["--params", "1e30", "--step-s", "1"], "--params 1e30: too large"),
        (["--params", "12", "--step-s", "1"], "--params 12: too small"),
        (["--params", "1e9", "--step-s", "1", "--up", "fast"], "--up 'fast' is not a rate"),
        (["--params", "1e9", "--step-s", "1", "--rtt", "far"], "--rtt 'far' is not a time"),
        (["--params", "1e9", "--step-s", "1", "--method", "magic"], "there is no preset 'magic'"),
        (
            ["--params", "1e9", "--step-s", "1", "--method", "diloco", "--peers", "999"],
            "use mixing pairs",
        ),
    ],
    ids=lambda words: " ".join(words)[-24:] if isinstance(words, list) else None,
)
def test_a_mistake_is_one_line_and_code_2(
    words: list[str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, *words) == 2
    captured = capsys.readouterr()
    (said,) = captured.err.splitlines()
    assert said.startswith("thinwire: ")
    assert expected in said
    assert captured.out == ""


@pytest.mark.parametrize("words", [["--peers", "1"], ["--loss-frac", "1"], ["--layers", "0"]])
def test_numbers_out_of_range_are_code_2(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, *ASKED, *words) == 2
