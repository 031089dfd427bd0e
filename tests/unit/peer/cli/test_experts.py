"""What `thinwire experts` prints and writes, and what it says to mistakes."""

import json
import re
import sys
from pathlib import Path

import pytest

import peer.experts.folder
from peer.experts.export import export
from peer.experts.folder import ModelFolder, read_folder
from tests.unit.peer.experts.tiny import (
    LARGE,
    SMALL,
    a_data_spec,
    a_folder,
    an_expert,
    write_text,
)
from thinwire.__main__ import main


def run(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["thinwire", "experts", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


@pytest.fixture(autouse=True)
def columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An export of two experts, whose texts are here."""
    texts = {name: a_data_spec(tmp_path, name) for name in ("law", "code")}
    models = a_folder(an_expert("law"), an_expert("code"), texts=texts)
    export(models, models.experts, tmp_path / "models")
    return tmp_path / "models"


def short_of(models: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has a run's folder hold these models."""
    monkeypatch.setattr(peer.experts.folder, "_kept", lambda path: models)
    (models.path).mkdir()
    (models.path / "manifest.json").write_text("")


# ---- eval


@pytest.mark.parametrize("width", [45, 80, 100])
def test_the_matrix_fits_and_names_everything(
    width: int,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    poems = f"a-very-long-name-of-some-poems={write_text(tmp_path, 'verse')}"
    assert run(monkeypatch, "eval", folder, "--text", poems, "--bytes", 200) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in "\n".join(lines)
    # 5 rows of law, code, their mean and the poems: none was folded.
    assert len(re.findall(r"\d\.\d{3}\b", "\n".join(lines))) == 20
    starts = [line.split("  ")[0].strip() for line in lines]
    assert "ensemble, estimated prior" in starts
    assert "average of parameters" in starts
    assert {"law", "code"} <= set(starts)
    words = " ".join(" ".join(lines).split())
    assert "better than every single expert on" in words
    assert "of another part, which is not tested" in words
    assert words.endswith("*: no expert here is of this domain")


def test_json_is_one_object_and_the_picture_is_one(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    poems, picture = f"poems={write_text(tmp_path, 'verse')}", tmp_path / "matrix.png"
    words = ["--text", poems, "--bytes", "200", "--top-k", "1", "--sparse", "--prior", "estimated"]
    assert run(monkeypatch, "eval", folder, *words, "--json", "--png", picture) == 0
    (line,) = capsys.readouterr().out.splitlines()
    data = json.loads(line)
    assert [(text["name"], text["is_unseen"]) for text in data["texts"]] == [
        ("law", False), ("code", False), ("poems", True)
    ]  # fmt: skip
    assert [(row["kind"], row["name"]) for row in data["rows"]] == [
        ("expert", "law"), ("expert", "code"), ("ensemble", "estimated"), ("average", "average")
    ]  # fmt: skip
    assert all(len(row["bits_per_byte"]) == 3 for row in data["rows"])
    assert data["top_k"] == 1
    assert 0 < data["asked_frac"] <= 1
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_an_evaluation_goes_with_an_export(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, "eval", folder, "--bytes", "200", "--json") == 0
    found = tmp_path / "evaluation.json"
    found.write_text(capsys.readouterr().out)
    out = tmp_path / "again"
    assert run(monkeypatch, "export", folder, "--to", out, "--evaluation", found) == 0
    data, fields = json.loads(found.read_text()), json.loads((out / "experts.json").read_text())
    assert fields["prior"] == pytest.approx(data["prior"])
    assert [expert["bits_per_byte"] for expert in fields["experts"]] == [
        data["rows"][n]["bits_per_byte"][name] for n, name in enumerate(("law", "code"))
    ]
    assert read_folder(out).prior == fields["prior"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["eval", "NOWHERE"], "there is no folder NOWHERE"),
        (["eval", "DIR", "--domains", "law,maths"],
         "--domains: there is no domain 'maths'; there are law, code"),
        (["eval", "DIR", "--text", "poems"],
         "--text poems: give NAME=RECIPE, such as poems=text:poems/*.txt"),
        (["eval", "DIR", "--text", "law=stdlib"],
         "--text law=stdlib: law is a domain; choose another name"),
        (["eval", "DIR", "--text", "a=stdlib", "--text", "a=stdlib"],
         "--text a=stdlib: a is given twice; choose another name"),
        (["eval", "DIR", "--text", "poems=text:NOWHERE/*"],
         "the text of poems: data.recipe 'text:NOWHERE/*' matches no file on this machine"),
        (["eval", "DIR", "--prior", "best"], "--prior best: it is uniform or estimated"),
        (["eval", "DIR", "--top-k", "3"], "--top-k must be from 1 to 2 (all), not 3"),
        (["eval", "DIR", "--png", "NOWHERE/m.png"],
         "--png NOWHERE/m.png: there is no folder NOWHERE"),
        (["eval", "DIR", "--png", "NOWHERE.pdf"],
         "--png NOWHERE.pdf: the picture is a PNG; let its name end with .png"),
        (["eval", "DIR", "--png", "FOLDER.png"],
         "--png FOLDER.png: that is a folder; name a file in it"),
        (["export", "DIR", "--to", "OUT", "--average", "--evaluation", "NOWHERE"],
         "--evaluation is of each expert, and --average makes one of all: give one of the two"),
        (["export", "DIR", "--to", "DIR"], "DIR is there already; choose another folder with --to"),
        (["export", "DIR", "--to", "OUT", "--evaluation", "NOWHERE"],
         "cannot read NOWHERE: No such file or directory"),
    ],
    ids=lambda words: " ".join(words)[-40:] if isinstance(words, list) else "",
)  # fmt: skip
def test_a_mistake_is_one_line_and_code_2(
    words: list[str],
    said: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "folder.png").mkdir()
    places = {
        "DIR": folder,
        "FOLDER.png": tmp_path / "folder.png",
        "NOWHERE": tmp_path / "nowhere",
        "OUT": tmp_path / "out",
    }
    for name, place in places.items():
        words = [word.replace(name, str(place)) for word in words]
        said = said.replace(name, str(place))
    assert run(monkeypatch, *words) == 2
    captured = capsys.readouterr()
    assert captured.err.strip() == f"thinwire: {said}"
    assert captured.out.strip() == ""
    assert not (tmp_path / "out").exists()


# ---- export


def test_a_missing_expert_is_one_line_and_partial_takes_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experts = [an_expert("law"), an_expert("code", LARGE, step=3, total_steps=9)]
    models = ModelFolder(
        path=tmp_path / "peer", run_id="ab" * 32, experts=experts, absent=("verse",)
    )
    short_of(models, monkeypatch)
    out = tmp_path / "out"
    assert run(monkeypatch, "export", models.path, "--to", out) == 2
    assert capsys.readouterr().err.strip() == (
        f"thinwire: {models.path} is not complete: expert verse is missing, expert code is at "
        "step 3 of 9; wait until this peer keeps the final ones, export from the folder of a "
        "peer that keeps the final ones, or take what is there with --partial"
    )
    assert not out.exists()
    assert run(monkeypatch, "export", models.path, "--to", out, "--partial") == 0
    shown = capsys.readouterr().out.splitlines()
    assert f"{out}: law, code" in shown
    assert "not in it: verse" in shown
    assert read_folder(out).absent == ("verse",)


def test_an_average_is_one_model(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert run(monkeypatch, "export", folder, "--to", out, "--average") == 0
    (average,) = read_folder(out).experts
    one, other = (expert.theta["norm.weight"] for expert in read_folder(folder).experts)
    assert average.name == "average"
    assert average.theta["norm.weight"].tolist() == pytest.approx(((one + other) / 2).tolist())
    mixed = a_folder(an_expert("law", SMALL), an_expert("code", LARGE))
    export(mixed, mixed.experts, tmp_path / "mixed")
    capsys.readouterr()
    assert run(monkeypatch, "export", tmp_path / "mixed", "--to", tmp_path / "x", "--average") == 2
    assert "experts law and code cannot be averaged: model.dim is 16 in law, 24 in code" in (
        capsys.readouterr().err
    )
