import hashlib
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from bootstrap.found import found
from peer.experts.flops import flops_per_token
from peer.run_folder import MANIFEST, SIGNATURE
from peer.train.data import load_text
from protocol.errors import ConfigError
from protocol.identity import PeerId
from protocol.manifest import DomainSpec, Manifest, verify_manifest
from thinwire.__main__ import main

BASE: dict[str, Any] = {
    "model": {"dim": 16, "layers": 1, "heads": 1, "ffn_dim": 16, "context": 16},
    "inner": {"total_steps": 400, "warmup_steps": 5, "batch_sequences": 2},
    "method": "noloco",
}


def prose(seed: int, letters: str) -> str:
    draw = random.Random(seed)
    words = ["".join(draw.choices(letters, k=draw.randint(2, 9))) for _ in range(300)]
    return "\n\n".join(" ".join(draw.choices(words, k=50)) for _ in range(200))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for seed, (name, letters) in enumerate(
        {"law": "abcd", "code": "efghijkl", "far": "mnopq"}.items()
    ):
        (folder / f"{name}.txt").write_text(prose(seed, letters))
    (folder / "copy.txt").write_text(prose(0, "abcd")[:20_000] + "\n\n" + prose(9, "rst"))
    return folder


@pytest.fixture
def domain(texts: Path) -> Any:
    def table(name: str, difficulty: float | None = 2.0, **settings: Any) -> dict[str, Any]:
        given = {} if difficulty is None else {"difficulty": difficulty}
        recipe = settings.pop("recipe", f"text:{texts}/{name}.txt")
        return {"name": name, "recipe": recipe, **given, **settings}

    return table


def flops(domain: DomainSpec) -> float:
    tokens = domain.inner.batch_sequences * domain.model.context
    return domain.inner.total_steps * tokens * flops_per_token(domain.model)


def total(manifest: Manifest) -> float:
    return sum(map(flops, manifest.domains))


def test_a_run_with_domains_can_be_verified_by_a_stranger(domain: Any, tmp_path: Path) -> None:
    manifest = found({**BASE, "domains": [domain("law"), domain("code")]}, tmp_path)
    data, signature = (tmp_path / MANIFEST).read_bytes(), (tmp_path / SIGNATURE).read_bytes()
    founder = PeerId(manifest.founder)
    assert verify_manifest(data, signature, run_id=manifest.run_id, founder=founder) == manifest
    assert [each.name for each in manifest.domains] == ["law", "code"]
    for each in manifest.domains:
        validation = load_text(each.data.recipe, each.data.validation_frac).validation.tobytes()
        assert each.data.validation_bytes == len(validation)
        assert each.data.validation_digest == hashlib.sha256(validation).hexdigest()
        assert each.method.preset == "noloco"
        assert each.inner.total_steps == 400


@pytest.mark.parametrize("division", ["steps", "size", "both"])
def test_all_divisions_cost_what_equal_costs(domain: Any, tmp_path: Path, division: str) -> None:
    domains = [domain("law", 1.0), domain("far", 1.5), domain("code", 2.0)]
    equal = found({**BASE, "domains": domains}, tmp_path / "equal")
    experts = {"division": division, "spread": 2.0}
    other = found({**BASE, "domains": domains, "experts": experts}, tmp_path / "other")
    assert 0.98 * total(equal) <= total(other) <= total(equal)
    assert flops(other.domains[2]) > 1.5 * flops(other.domains[0])


def test_a_budget_is_kept_to_and_a_domain_has_exceptions(domain: Any, tmp_path: Path) -> None:
    domains = [
        domain("law", model={"layers": 2}, inner={"lr": 0.01}),
        domain("code", total_steps=150, method={"schedule": {"interval_steps": 10}}),
        domain("far", method="diloco", data={"validation_frac": 0.2}),
    ]
    manifest = found({**BASE, "domains": domains, "experts": {"budget_flops": 1e9}}, tmp_path)
    law, code, far = manifest.domains
    assert 0.98e9 <= total(manifest) <= 1e9
    assert (law.model.layers, law.model.dim, law.inner.lr, far.model.layers) == (2, 16, 0.01, 1)
    assert (code.inner.total_steps, code.method.schedule.interval_steps) == (150, 10)
    assert (code.method.preset, far.method.preset) == ("noloco", "diloco")
    assert far.data.validation_bytes > 3 * code.data.validation_bytes


def test_difficulty_is_measured_where_it_is_needed_and_not_given(
    domain: Any, tmp_path: Path
) -> None:
    domains = [domain("law", None), domain("code", None), domain("far", 9.0)]
    experts = {"division": "steps", "probe_steps": 3}
    said: list[str] = []
    manifest = found(
        {**BASE, "domains": domains, "experts": experts}, tmp_path / "run", on_progress=said.append
    )
    law, code, far = (each.difficulty for each in manifest.domains)
    assert law is not None
    assert code is not None
    assert 0 < law < 9
    assert law != code
    assert far == 9.0
    assert [line for line in said if "law" in line and "difficult" in line]
    assert not [line for line in said if "far" in line and "difficult" in line]
    again = found({**BASE, "domains": domains, "experts": experts}, tmp_path / "run")
    assert again.run_id == manifest.run_id
    equal = found({**BASE, "domains": domains[:2]}, tmp_path / "equal")
    assert [each.difficulty for each in equal.domains] == [None, None]


def test_a_seed_reads_what_all_experts_read(domain: Any, texts: Path, tmp_path: Path) -> None:
    seed = domain("seed", None, recipe="domains", is_expert=False, total_steps=100)
    domains = [seed, domain("law", branch_from="seed"), domain("code", branch_from="seed")]
    short = [each | {"recipe": each["recipe"].replace(str(texts), "T")} for each in domains]
    experts = {"division": "steps"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        Path("T").symlink_to(texts)
        manifest = found({**BASE, "domains": short, "experts": experts}, tmp_path / "run")
        first = manifest.domains[0]
        assert first.data.recipe == "mix:text:T/law.txt + text:T/code.txt"
        corpus = load_text(first.data.recipe, first.data.validation_frac)
    assert len(corpus.validation) == first.data.validation_bytes
    assert (first.inner.total_steps, first.model) == (100, manifest.domains[1].model)


# ---- mistakes


@pytest.mark.parametrize(
    ("names", "change", "says"),
    [
        (["law", "copy"], {}, "domains law and copy overlap: "),
        (["law", "nothing"], {}, "domain nothing: data.recipe "),
        (["law"], {"experts": {"budget_flops": 1e5}}, "experts.budget_flops: a budget of 1e+05 "),
        (["law"], {"inner": {"total_steps": 20, "warmup_steps": 1}}, "total_steps: a budget of "),
        (["law"], {"experts": {"division": "best"}}, "experts.division: "),
        (["law", "law"], {}, "two domains are called law"),
        (["Law"], {}, "domain name 'Law': "),
        (["law"], {"experts": {"probe_steps": 0}}, "experts.probe_steps: "),
        (["law"], {"inner": {"lr": -1.0}}, "inner.lr: "),
        ([], {"experts": {"division": "both"}}, "domains: write each domain as a table"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_is_one_line_and_founds_nothing(
    domain: Any, tmp_path: Path, names: list[str], change: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        found({**BASE, "domains": [domain(name) for name in names], **change}, tmp_path)
    assert str(refused.value).startswith(says)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / MANIFEST).exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"data": {"tokenizer": "bpe"}}, "domain far has tokenizer 'bpe' and domain law 'bytes'"),
        ({"branch_from": "sed"}, "domain far branches from 'sed', which is no domain before it"),
        ({"branch_from": "law", "model": {"dim": 32}}, "whose model has another shape"),
        ({"branch_from": "law"}, "needs equal shapes, but division 'both' gives each domain"),
        ({"size": 3}, "domain far: size: there is no such setting"),
        ({"inner": {"lr": -1.0}}, "domain far: inner.lr: "),
        ({"inner": 5}, "domain far: inner: write a table"),
        ({"method": "magic"}, "domain far: method: there is no preset 'magic'"),
        ({"recipe": 5}, "domain far has no text"),
    ],
    ids=lambda value: repr(value) if isinstance(value, dict) else "",
)
def test_a_wrong_domain_is_named(
    domain: Any, tmp_path: Path, settings: dict[str, Any], says: str
) -> None:
    domains = [domain("law", 1.0), domain("far", 3.0, **settings)]
    with pytest.raises(ConfigError) as refused:
        found({**BASE, "domains": domains, "experts": {"division": "both"}}, tmp_path)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


# ---- the command line


@pytest.fixture
def toml(texts: Path, tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(
        "[model]\ndim = 16\nlayers = 1\nheads = 1\nffn_dim = 16\ncontext = 16\n"
        "[inner]\ntotal_steps = 400\nwarmup_steps = 5\nbatch_sequences = 2\n"
        '[experts]\ndivision = "both"\nprobe_steps = 2\n'
        + "".join(
            f'[[domains]]\nname = "{n}"\nrecipe = "text:{texts}/{n}.txt"\n' for n in ("law", "code")
        )
    )
    return path


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", ["thinwire", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def test_plan_and_new_show_the_same_division(
    toml: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "plan", "--experts", toml) == 0
    planned = capsys.readouterr().out
    assert max(map(len, planned.splitlines())) <= 80
    assert "…" not in planned
    assert run(monkeypatch, "new", toml, "--dir", toml.parent / "run") == 0
    founded = capsys.readouterr().out
    rows = [line for line in founded.splitlines() if line.startswith(("law", "code", "division"))]
    assert len(rows) == 3
    assert all(row in planned for row in rows)
    assert "*" in rows[0]


def test_plan_as_json_compares_the_divisions(
    toml: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "plan", "--experts", toml, "--probe", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert [row["source"] for row in data["domains"]] == ["probe", "probe"]
    assert sum(row["share_frac"] for row in data["domains"]) == pytest.approx(1)
    equal, *others = (each["flops"] for each in data["totals"])
    assert all(0.98 * equal <= each <= equal for each in others)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--no-probe"], "domain law has no difficulty, and division 'both' needs one"),
        (["--division", "best"], "--division best: it is equal, steps, size or both"),
    ],
)
def test_what_cannot_be_planned_says_why(
    toml: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    says: str,
) -> None:
    assert run(monkeypatch, "plan", "--experts", toml, *words) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert says in said


@pytest.mark.parametrize(
    ("other", "says"),
    [("copy", "domains law and copy overlap: "), ("nothing", "domain nothing: data.recipe ")],
)
def test_texts_are_read_also_where_no_difficulty_is_to_be_measured(
    toml: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    other: str,
    says: str,
) -> None:
    toml.write_text(
        toml.read_text().replace("code", other).replace("recipe =", "difficulty = 2.0\nrecipe =")
    )
    assert run(monkeypatch, "plan", "--experts", toml) == 2
    assert says in capsys.readouterr().err


def test_a_division_without_experts_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "plan", "--division", "both") == 2
    assert "--experts" in capsys.readouterr().err


def test_equal_needs_no_probe_and_says_what_the_others_need(
    toml: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "plan", "--experts", toml, "--division", "equal", "--no-probe") == 0
    assert capsys.readouterr().out.count("needs difficulties") == 3
