"""What a run asks of a machine is known before anything is allocated."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import peer.needs
from peer.doctor.finding import Finding
from peer.doctor.machine import Disk, Machine, Torch
from peer.doctor.needs import needs_of, packages, trainable
from peer.experts.memory import peer_bytes
from peer.needs import Needs, require_memory
from protocol.domains import domain_manifest
from protocol.errors import ConfigError
from protocol.manifest import Manifest, manifest_from

SMALL = {"dim": 64, "layers": 2, "heads": 2, "ffn_dim": 128, "context": 32}
HUGE = {"dim": 8192, "layers": 200, "heads": 2, "ffn_dim": 8192, "context": 32}
WELL = Machine(
    torch=Torch(version="2.13.0", built_for="CPU"),
    free_memory_bytes=16 << 30,
    disk=Disk(place=Path("/home/me"), free_bytes=100 << 30),
)


FEW_FILES = {"recipe": "stdlib:json/*.py"}
"""A walk through all of the library would take most of a second."""


def run(**settings: Any) -> Manifest:
    return manifest_from({"founder": "somebody", "model": SMALL, "data": FEW_FILES, **settings})


def found(machine: Machine, manifest: Manifest) -> dict[str, Finding]:
    return {each.subject: each for each in needs_of(machine, manifest, members=4)}


def test_a_machine_that_suffices_is_told_so() -> None:
    findings = found(WELL, run())
    assert list(findings) == ["method", "memory for the run", "disk for the run", "text"]
    assert {each.verdict for each in findings.values()} == {"good"}


def test_needs_are_those_that_peers_of_a_domain_say() -> None:
    manifest = run(domains=[{"name": "law", "model": SMALL}])
    needs = Needs(domain_manifest(manifest, "law"))
    assert needs.trainer_bytes + needs.wire_bytes == pytest.approx(peer_bytes(manifest, "law"))


def test_a_model_that_does_not_fit_fails_and_says_how_much_is_missing() -> None:
    finding = found(WELL, run(model=HUGE))["memory for the run"]
    assert finding.verdict == "fatal"
    assert "TB" in finding.why
    assert "17.2 GB" in finding.why


def test_memory_that_is_nearly_all_used_is_poor() -> None:
    needs = Needs(run(), members=4)
    host = int(needs.trainer_bytes + needs.wire_bytes + peer.doctor.needs.PROCESS_BYTES)
    tight = replace(WELL, free_memory_bytes=host + 1)
    assert found(tight, run())["memory for the run"].verdict == "poor"
    short = replace(WELL, free_memory_bytes=host - 1)
    assert found(short, run())["memory for the run"].verdict == "fatal"
    bounded = replace(WELL, memory_limit_bytes=host - 1)
    assert found(bounded, run())["memory for the run"].verdict == "fatal"


def test_a_gpu_has_memory_of_its_own() -> None:
    needs = Needs(run(model=HUGE))
    gpu = Torch(version="2", built_for="CUDA", device="cuda", memory_bytes=80 << 30)
    machine = replace(WELL, torch=gpu, free_memory_bytes=int(2 * needs.wire_bytes))
    findings = found(machine, run(model=HUGE))
    assert findings["memory for the run"].verdict == "good"
    assert findings["GPU memory"].verdict == "fatal"


def test_checkpoints_that_do_not_fit_are_poor_and_fewer_would_do() -> None:
    needs = Needs(run())
    free = int(2.5 * needs.checkpoint_bytes)
    small = replace(WELL, disk=Disk(place=Path("/x"), free_bytes=free))
    finding = found(small, run())["disk for the run"]
    assert finding.verdict == "poor"
    assert "--keep 1" in finding.fix
    fewer = found(replace(small, keep_checkpoints=1), run())["disk for the run"]
    assert fewer.verdict == "good"


def test_files_that_do_not_fit_fail() -> None:
    files = [{"name": "tokenizer.json", "size_bytes": 1 << 39, "digest": "ab" * 32}]
    finding = found(WELL, run(files=files))["disk for the run"]
    assert finding.verdict == "fatal"
    assert "549.8 GB" in finding.found


@pytest.mark.parametrize(
    ("recipe", "verdict"),
    [
        ("dataset:text:{}/*.txt", "good"),
        ("dataset:json:{}/*.json?column=body", "fatal"),
        ("dataset:org/name", "unknown"),
    ],
)
def test_a_dataset_of_files_is_here_or_not(tmp_path: Path, recipe: str, verdict: str) -> None:
    (tmp_path / "a.txt").write_text("text")
    manifest = run(data={"recipe": recipe.format(tmp_path)})
    machine = replace(WELL, allow_text=True)
    assert found(machine, manifest)["text"].verdict == verdict


@pytest.mark.parametrize(
    ("recipe", "verdict", "fix"),
    [
        ("package:no_such_package/**/*.py", "fatal", "https://pypi.org/project/no_such_package"),
        ("text:/nowhere/*.txt", "fatal", "--allow-text"),
        ("stdlib:no/such/*.file", "fatal", ""),
    ],
)
def test_text_that_is_not_here_fails_with_its_fix(recipe: str, verdict: str, fix: str) -> None:
    finding = found(WELL, run(data={"recipe": recipe}))["text"]
    assert finding.verdict == verdict
    assert fix in finding.fix
    assert "pip install no" not in finding.fix  # whoever founded the run may have named a trap


def test_with_consent_files_of_ones_own_are_looked_for(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    machine = replace(WELL, allow_text=True)
    assert found(machine, run(data={"recipe": f"text:{tmp_path}/*.txt"}))["text"].verdict == "good"
    missing = found(machine, run(data={"recipe": f"text:{tmp_path}/*.md"}))["text"]
    assert missing.verdict == "fatal"
    assert "*.md" in missing.fix


def test_packages_that_are_missing_are_to_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = run(
        model={"kind": "huggingface", "config": {"model_type": "gpt2"}},
        data={"recipe": "mix:dataset:org/a + stdlib", "tokenizer": "file:t.json", "vocab_size": 9},
        files=[{"name": "t.json", "size_bytes": 9, "digest": "ab" * 32}],
    )
    assert list(packages(manifest)) == ["transformers", "tokenizers", "datasets"]
    assert not list(packages(run()))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (finding,) = needs_of(WELL, manifest, members=4)
    assert finding.verdict == "fatal"
    assert finding.fix == "pip install 'thinwire[hf]'"


def test_what_a_loop_of_ones_own_trains_on_is_its_own_affair() -> None:
    tensors = [{"name": "weight", "shape": [64, 64]}]
    files = [{"name": "initial.safetensors", "size_bytes": 1 << 16, "digest": "ab" * 32}]
    model = {"kind": "own", "tensors": tensors}
    findings = found(WELL, run(model=model, files=files, data={"recipe": "text:/nowhere/*"}))
    assert "text" not in findings
    assert findings["loop"].verdict == "unknown"
    assert {each.verdict for each in findings.values()} == {"good", "unknown"}


def test_a_method_that_this_version_does_not_know_says_upgrade() -> None:
    finding = found(WELL, run(method={"outer": {"rule": "quantum"}}))["method"]
    assert finding.verdict == "fatal"
    assert "upgrade" in finding.fix


def test_of_domains_one_that_can_be_trained_is_enough() -> None:
    large = {"name": "large", "model": HUGE, "data": FEW_FILES}
    domains = [large, {"name": "small", "model": SMALL, "data": FEW_FILES}]
    manifest = run(domains=domains)
    finding = found(WELL, manifest)["domains"]
    assert finding.verdict == "good"
    assert finding.found == "1 of 2 can be trained here: small"
    assert trainable(WELL, manifest) == domain_manifest(manifest, "small")
    none = found(WELL, run(domains=domains[:1]))["domains"]
    assert none.verdict == "fatal"
    assert "large" in none.why


# ---- what join refuses


def test_join_refuses_a_model_before_it_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer.needs, "free_memory_bytes", lambda: 16 << 30)
    require_memory(run(), torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"needs .* TB of memory at the least, and 17\.2 GB"):
        require_memory(run(model=HUGE), torch.device("cpu"))
    monkeypatch.setattr(peer.needs, "free_memory_bytes", lambda: 0)
    require_memory(run(model=HUGE), torch.device("cpu"))  # nobody knows
