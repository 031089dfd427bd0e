import errno
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import peer.experts.export
from peer.experts.ensemble import Ensemble
from peer.experts.export import export, require_complete
from peer.experts.figures import Figures, read_figures
from peer.experts.folder import read_folder
from protocol.errors import ConfigError
from tests.unit.peer.experts.tiny import LARGE, SMALL, a_data_spec, a_folder, an_expert

LONE = "import sys; sys.modules['thinwire'] = sys.modules['peer'] = None\n"
"""There is no thinwire for the loader."""


def by_the_loader(folder: Path, tokens: Tensor) -> Tensor:
    """Returns what the loader in the folder makes of tokens, in a process of its own."""
    script = LONE + (
        "import json, torch, load_experts\n"
        f"tokens = torch.tensor(json.loads({json.dumps(tokens.tolist())!r}))\n"
        "print(json.dumps(load_experts.load()(tokens).tolist()))\n"
    )
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return torch.tensor(json.loads(done.stdout))


@pytest.mark.parametrize("weights", [None, [0.9, 0.07, 0.03]], ids=["uniform", "estimated"])
def test_the_loader_alone_says_what_the_ensemble_says(
    tmp_path: Path, weights: list[float] | None
) -> None:
    experts = [
        an_expert("law"),
        an_expert("code", LARGE),
        an_expert("verse", SMALL | {"heads": 1, "tied_embeddings": False}),
    ]
    names = [expert.name for expert in experts]
    prior = None if weights is None else dict(zip(names, weights, strict=True))
    export(a_folder(*experts), experts, tmp_path / "out", Figures(prior=prior))
    tokens = torch.randint(256, (3, 16), generator=torch.Generator().manual_seed(1))
    ensemble = Ensemble.of(read_folder(tmp_path / "out").experts, prior=weights)
    ours = ensemble(tokens)
    assert by_the_loader(tmp_path / "out", tokens) == pytest.approx(ours.detach(), abs=1e-4)
    # Else it would be enough to read one of them, or to forget the text so far.
    posterior = ensemble.posterior(tokens)
    assert posterior.std(dim=1).max() > 0.05


def test_the_loader_continues_a_prompt(tmp_path: Path) -> None:
    expert = an_expert("law")
    export(a_folder(expert), [expert], tmp_path / "out")
    command = [sys.executable, "-W", "error", "load_experts.py", "the court"]
    done = subprocess.run(command, cwd=tmp_path / "out", capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"the court")
    assert len(done.stdout.decode()) > 100


def test_what_is_written_tells_all_about_the_experts(tmp_path: Path) -> None:
    texts = {"law": a_data_spec(tmp_path, "law")}
    models = a_folder(an_expert("law", step=5, total_steps=7), texts=texts, absent=("code",))
    figures = Figures(bits_per_byte={"law": 2.25}, prior={"law": 1.0})
    export(models, models.experts, tmp_path / "deep" / "out", figures)
    out = tmp_path / "deep" / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "experts.json", "law.safetensors", "load_experts.py"
    ]  # fmt: skip
    fields = json.loads((out / "experts.json").read_text())
    assert (fields["format"], fields["version"]) == ("thinwire experts", 1)
    assert fields["prior"] == {"law": 1.0}
    assert fields["absent"] == ["code"]
    (entry,) = fields["experts"]
    assert entry["data"]["recipe"] == texts["law"].recipe
    assert (entry["tokenizer"], entry["step"], entry["total_steps"]) == ("bytes", 5, 7)
    assert entry["bits_per_byte"] == 2.25
    readme = (out / "README.md").read_text()
    assert "| law | `law.safetensors` | 1 x 16 | 5 of 7 | 2.250 |" in readme
    assert "Not here: code." in readme


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_nothing_is_ever_overwritten(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
    elif kind == "file":
        out.write_text("precious")
    else:
        out.symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.iterdir())
    expert = an_expert("law")
    with pytest.raises(ConfigError) as caught:
        export(a_folder(expert), [expert], out)
    assert str(caught.value) == f"{out} is there already; choose another folder with --to"
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("fails", ["write_tensors", "_readme"])
def test_an_export_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(peer.experts.export, fails, full)
    expert = an_expert("law")
    with pytest.raises(ConfigError) as caught:
        export(a_folder(expert), [expert], tmp_path / "out")
    assert str(caught.value) == f"cannot write {tmp_path / 'out'}: No space left on device"
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_or_not_done_is_named() -> None:
    done, short = an_expert("law"), an_expert("code", step=3, total_steps=9)
    require_complete(a_folder(done))
    require_complete(a_folder(an_expert("law", step=9, total_steps=0)))  # nobody knows its budget
    todo = (
        "; wait until this peer keeps the final ones, export from the folder of a peer that keeps "
        "the final ones, or take what is there with --partial"
    )
    for models, said in (
        (a_folder(done, absent=("verse",)), "expert verse is missing"),
        (a_folder(done, short), "expert code is at step 3 of 9"),
        (
            a_folder(done, short, absent=("verse",)),
            "expert verse is missing, expert code is at step 3 of 9",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            require_complete(models)
        assert str(caught.value) == f"peer-1 is not complete: {said}{todo}"


def test_an_incomplete_export_is_not_told_to_wait(tmp_path: Path) -> None:
    done = a_folder(an_expert("law"), absent=("verse",))
    export(done, done.experts, tmp_path / "models")
    with pytest.raises(ConfigError) as caught:
        require_complete(read_folder(tmp_path / "models"))
    assert str(caught.value) == (
        f"{tmp_path / 'models'} is not complete: expert verse is missing; export from the folder "
        "of a peer that keeps the final ones, or take what is there with --partial"
    )


# ---- figures of an evaluation

EVALUATION = {
    "experts": [{"name": "law", "step": 9}, {"name": "code", "step": 9}],
    "rows": [
        {"name": "law", "kind": "expert", "bits_per_byte": {"law": 2.0, "code": 5.0}},
        {"name": "code", "kind": "expert", "bits_per_byte": {"law": 6.0, "code": None}},
        {"name": "uniform", "kind": "ensemble", "bits_per_byte": {"law": 2.0, "code": 3.0}},
    ],
    "prior": {"law": 0.25, "code": 0.75},
}


def test_an_evaluation_is_kept_beside_its_experts(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(EVALUATION))
    found = read_figures(path, [an_expert("law"), an_expert("code")])
    assert found == Figures({"law": 2.0}, {"law": 0.25, "code": 0.75})


def test_an_evaluation_of_other_experts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(EVALUATION))
    with pytest.raises(ConfigError) as caught:
        read_figures(path, [an_expert("law"), an_expert("code", step=10)])
    assert str(caught.value) == (
        f"{path} is of other experts: code at step 9, law at step 9 instead of code at step 10, "
        "law at step 9; evaluate these first"
    )


def test_an_evaluation_of_another_run_is_refused(tmp_path: Path) -> None:
    path, experts = tmp_path / "evaluation.json", [an_expert("law"), an_expert("code")]
    path.write_text(json.dumps(EVALUATION | {"run_id": "cd" * 32}))
    with pytest.raises(ConfigError) as caught:
        read_figures(path, experts, "ab" * 32)
    assert str(caught.value) == (
        f"{path} is of experts of run 'cdcdcdcdcdcd', and these are of abababababab; evaluate "
        "these first"
    )
    for run_id in ("cd" * 32, ""):  # its own, or nobody knows
        assert read_figures(path, experts, run_id).prior == EVALUATION["prior"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"prior": {"law": 0.25, "code": 0.5}},
        {"prior": {"law": 1.25, "code": -0.25}},
        {"prior": {"law": 0.25, "verse": 0.75}},
        {"prior": {"law": math.nan, "code": 0.75}},
        {"rows": [{"name": "law", "kind": "expert", "bits_per_byte": {"law": -1.0}}]},
        {"rows": [{"name": "law", "kind": "expert", "bits_per_byte": {"law": math.inf}}]},
    ],
    ids=str,
)
def test_figures_that_no_evaluation_has_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(EVALUATION | wrong))
    with pytest.raises(ConfigError, match="is no evaluation"):
        read_figures(path, [an_expert("law"), an_expert("code")])


@pytest.mark.parametrize("text", ["", "[]", '{"experts": 3}', "{" * 100_000])
def test_a_file_that_is_no_evaluation_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "evaluation.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"is no evaluation; write one with: thinwire experts"):
        read_figures(path, [])
    path.unlink()
    with pytest.raises(ConfigError, match=r"cannot read .*: No such file"):
        read_figures(path, [])
