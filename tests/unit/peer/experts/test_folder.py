import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from blake3 import blake3

import peer.experts.folder
from peer.domains.kept import DomainState, FragmentState, KeptStates
from peer.domains.sizes import DomainSizes
from peer.experts.export import export
from peer.experts.folder import read_folder, read_models
from peer.export.folder import FACTS
from peer.identity_file import load_identity
from peer.run_folder import IDENTITY, MANIFEST
from peer.train.checkpoint import INNER, OUTER, CheckpointInfo, commit, stage
from peer.train.model import initial_anchors
from peer.train.tensor_file import write_tensors
from protocol.domains import domain_manifest
from protocol.errors import ConfigError
from protocol.lineage import EMPTY
from protocol.manifest import Manifest, manifest_from
from tests.unit.peer.experts.tiny import LARGE, SMALL, a_data_spec, a_folder, an_expert


def exported(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    models = a_folder(an_expert("law"), an_expert("code", LARGE))
    export(models, models.experts, folder)
    return folder


def said_of(folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_models(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def altered(folder: Path, alter: Callable[[dict[str, Any]], object]) -> Path:
    path = folder / "experts.json"
    fields = json.loads(path.read_text())
    alter(fields)
    path.write_text(json.dumps(fields))
    return folder


# ---- an export


def test_an_export_is_read_as_it_was(tmp_path: Path) -> None:
    texts = {"law": a_data_spec(tmp_path, "law")}
    models = a_folder(
        an_expert("law", step=3, total_steps=7), an_expert("code", LARGE), texts=texts
    )
    export(models, models.experts, tmp_path / "out")
    found = read_folder(tmp_path / "out")
    assert (found.run_id, found.texts, found.absent) == (models.run_id, texts, ())
    for before, after in zip(models.experts, found.experts, strict=True):
        assert (before.name, before.spec, before.step, before.total_steps) == (
            after.name, after.spec, after.step, after.total_steps
        )  # fmt: skip
        assert list(before.theta) == list(after.theta)
        assert all(torch.equal(before.theta[key], after.theta[key]) for key in before.theta)
        after.model()
    assert found.experts[0].recipe == texts["law"].recipe


def test_no_such_folder(tmp_path: Path) -> None:
    assert said_of(tmp_path / "no") == f"there is no folder {tmp_path / 'no'}"
    (tmp_path / "file").write_text("")
    assert said_of(tmp_path / "file").startswith(f"{tmp_path / 'file'} is no folder")


def test_nothing_in_it(tmp_path: Path) -> None:
    assert said_of(tmp_path) == (
        f"there is no model in {tmp_path}: neither experts.json of an export nor a peer's "
        "manifest.json"
    )


def test_a_model_for_transformers_is_not_ours_to_read(tmp_path: Path) -> None:
    (tmp_path / FACTS).write_text("{}")
    assert said_of(tmp_path).startswith(f"{tmp_path} is an export for other programs")


def test_a_missing_file(tmp_path: Path) -> None:
    folder = exported(tmp_path)
    (folder / "law.safetensors").unlink()
    assert said_of(folder) == (
        f"expert law is missing: experts.json names law.safetensors, which is not in {folder}"
    )


def test_a_damaged_file(tmp_path: Path) -> None:
    folder = exported(tmp_path)
    path = folder / "code.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert said_of(folder) == (
        f"expert code is damaged: the digest of {path} is not the one in experts.json; "
        "copy or export it again"
    )


def test_a_file_that_holds_no_tensors_although_its_digest_fits(tmp_path: Path) -> None:
    folder = exported(tmp_path)
    path = folder / "law.safetensors"
    path.write_bytes(b"cposix\nsystem\n(S'true'\ntR.")  # a pickle
    digest = blake3(path.read_bytes()).hexdigest()
    altered(folder, lambda fields: fields["experts"][0].update(blake3=digest))
    assert said_of(folder).startswith(f"expert law is damaged: {path} is no safetensors file: ")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ffn_dim": 32}, "blocks.0.ffn.out.weight is F32 [16, 24] instead of F32 [16, 32]"),
        ({"tied_embeddings": False}, "head.weight is nothing instead of F32 [256, 16]"),
        ({"dim": 1 << 20}, "blocks.0.attention.out.weight is F32 [16, 16] instead of F32 [1048576"),
        ({"layers": 4096}, "8 tensors are too few for 4096 layers"),
    ],
    ids=str,
)
def test_what_does_not_fit_its_shape_is_never_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], said: str
) -> None:
    folder = altered(
        exported(tmp_path), lambda fields: fields["experts"][0]["model"].update(change)
    )

    def read(path: Path) -> None:
        pytest.fail(f"{path} was loaded")

    monkeypatch.setattr(peer.experts.folder, "read_tensors", read)
    assert said_of(folder).startswith(f"expert law does not fit the shape in experts.json: {said}")


def test_another_dtype_does_not_fit(tmp_path: Path) -> None:
    folder = exported(tmp_path)
    halves = {key: value.half() for key, value in an_expert("law").theta.items()}
    digest = write_tensors(folder / "law.safetensors", halves).digest
    altered(folder, lambda fields: fields["experts"][0].update(blake3=digest))
    assert "is F16 [16, 16] instead of F32 [16, 16]" in said_of(folder)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_expert_that_is_not_finite_is_refused(tmp_path: Path, value: float) -> None:
    good, broken = an_expert("law"), an_expert("code")
    broken.theta["norm.weight"][3] = value
    models = a_folder(good, broken)
    export(models, models.experts, tmp_path / "models")
    assert said_of(tmp_path / "models") == (
        f"expert code in {tmp_path / 'models'} is of no use: norm.weight has values that are not "
        "finite; get it from another peer, or train it anew"
    )


def test_experts_with_different_tokenizers(tmp_path: Path) -> None:
    folder = altered(
        exported(tmp_path), lambda fields: fields["experts"][1].update(tokenizer="words")
    )
    assert said_of(folder) == (
        "experts share one tokenizer, and these do not: law has 'bytes', code has 'words'"
    )
    altered(folder, lambda fields: fields["experts"][0].update(tokenizer="words"))
    assert said_of(folder) == "the experts' tokenizer is 'words'; there is bytes"


@pytest.mark.parametrize(
    ("alter", "said"),
    [
        (lambda f: f.update(format="zip"), "is none of thinwire's: its format is not"),
        (lambda f: f.update(version=2), "has version 2, this thinwire reads 1"),
        (lambda f: f.update(experts=[]), "is damaged: experts: List should have at least 1"),
        (lambda f: f.update(run_id="\x1b[2J"), "is damaged: run_id: String should match"),
        (lambda f: f.update(prior={"law": 1.0}), "the prior is not of these experts"),
        (lambda f: f.update(prior={"law": 1.0, "code": 1.0}), "the prior sums to 2 instead of 1"),
        (lambda f: f["experts"][0].update(name="code"), "two experts share a name or a file"),
        (lambda f: f["experts"][0].update(file="../law.safetensors"), "experts.0.file: String sh"),
        (lambda f: f["experts"][0].update(code="x"), "experts.0.code: Extra inputs are not"),
        (lambda f: f["experts"][0]["model"].update(dim=7), "dim 7 is not a multiple of 2 x heads"),
    ],
)
def test_a_catalogue_that_makes_no_sense(
    tmp_path: Path, alter: Callable[[dict[str, Any]], object], said: str
) -> None:
    folder = altered(exported(tmp_path), alter)
    found = said_of(folder)
    assert found.startswith(str(folder / "experts.json"))
    assert said in found


def test_a_catalogue_that_is_no_json(tmp_path: Path) -> None:
    folder = exported(tmp_path)
    (folder / "experts.json").write_text("{" * 100_000)
    assert said_of(folder) == f"{folder / 'experts.json'} is damaged: it is no JSON"
    (folder / "experts.json").write_text(" " * (1 << 21))
    assert said_of(folder) == f"{folder / 'experts.json'} has more than 1048576 bytes"


# ---- a plain run

PLAIN = manifest_from(
    {
        "founder": "nobody",
        "name": "My first run",
        "model": SMALL | {"layers": 2},
        "method": {"schedule": {"fragments": 2}},
    }
)


def a_peer(folder: Path, manifest: Manifest) -> Path:
    folder.mkdir()
    (folder / MANIFEST).write_bytes(manifest.to_bytes())
    load_identity(folder / IDENTITY)
    return folder


def save(folder: Path, step: int, *, of: Manifest = PLAIN) -> Path:
    """Writes a checkpoint whose anchors are those of the start plus its step."""
    identity = load_identity(folder / IDENTITY)
    staged = stage(folder / "checkpoints", step)
    anchors = {f"anchor.{n}": part + step for n, part in enumerate(initial_anchors(of))}
    files = {
        INNER: write_tensors(staged / INNER, {"theta": torch.zeros(3)}),
        OUTER: write_tensors(staged / OUTER, anchors | {"state.0.momentum": torch.ones(5)}),
    }
    info = CheckpointInfo(
        run_id=of.run_id, peer_id=identity.peer_id, step=step, tokens=9, rounds=(1, 1)
    )
    return commit(staged, info, files, identity=identity)


def test_a_peer_of_a_plain_run_has_the_anchors_of_its_newest_good_checkpoint(
    tmp_path: Path,
) -> None:
    folder = a_peer(tmp_path / "peer", PLAIN)
    save(folder, 10)
    newest = save(folder, 20)

    def is_of(step: int) -> None:
        (expert,) = read_models(folder)
        assert (expert.name, expert.step) == ("my-first-run", step)
        assert expert.total_steps == PLAIN.inner.total_steps
        assert expert.theta["norm.weight"].tolist() == [1.0 + step] * 16
        expert.model()

    is_of(20)
    (newest / OUTER).write_bytes(b"torn")
    is_of(10)


def test_a_peer_without_a_checkpoint(tmp_path: Path) -> None:
    folder = a_peer(tmp_path / "peer", PLAIN)
    assert said_of(folder) == (
        f"{folder} keeps no model yet: there is no checkpoint in it; join the run and wait, or "
        "give the folder of a peer that trained"
    )


def test_a_peer_whose_checkpoints_are_all_damaged(tmp_path: Path) -> None:
    folder = a_peer(tmp_path / "peer", PLAIN)
    path = save(folder, 10)
    (path / OUTER).unlink()
    assert said_of(folder) == (f"no checkpoint in {folder} can be used: {path / OUTER} is missing")


def test_a_peer_without_its_key_gets_no_new_one(tmp_path: Path) -> None:
    folder = a_peer(tmp_path / "peer", PLAIN)
    save(folder, 10)
    (folder / IDENTITY).unlink()
    assert said_of(folder) == (f"{folder / IDENTITY} is missing: it says whose the checkpoints are")
    assert not (folder / IDENTITY).exists()


def test_a_manifest_that_is_none(tmp_path: Path) -> None:
    folder = a_peer(tmp_path / "peer", PLAIN)
    (folder / MANIFEST).write_text("{}")
    assert said_of(folder).startswith(f"{folder / MANIFEST} is damaged: not a manifest that we")


# ---- a run with domains

DOMAINS = manifest_from(
    {
        "founder": "nobody",
        "domains": [
            {"name": "seed", "model": SMALL, "is_expert": False},
            {"name": "law", "model": SMALL, "branch_from": "seed"},
            {"name": "code", "model": LARGE},
            {"name": "verse", "model": LARGE},
        ],
    }
)


async def keep(
    folder: Path, name: str, *, step: int, is_final: bool = False, last: float = 0.0
) -> list[float]:
    """Has a peer keep a state, and returns the first parameters in it; `last` is its last one."""
    manifest = domain_manifest(DOMAINS, name)
    sizes = DomainSizes(manifest)
    (anchor,) = initial_anchors(manifest)
    anchor[-1] = last
    vectors = [anchor, *(torch.zeros(n) for n in sizes.state_lengths(0)[1:])]
    state = DomainState(step, is_final, [FragmentState(1, b"d" * 32, EMPTY, vectors)])
    await KeptStates(folder, DOMAINS).keep(name, state)
    return anchor[:16].tolist()


async def test_a_peer_of_a_run_with_domains_has_the_experts_that_it_keeps(tmp_path: Path) -> None:
    folder = a_peer(tmp_path / "peer", DOMAINS)
    assert said_of(folder) == (
        f"{folder} keeps no expert yet, of law, code, verse; join the run and wait, or give the "
        "folder of a peer that trained one"
    )
    first = {
        "verse": await keep(folder, "verse", step=5),
        "law": await keep(folder, "law", step=2000, is_final=True),
    }
    await keep(folder, "seed", step=7)
    found = read_folder(folder)
    assert [(e.name, e.step, e.total_steps) for e in found.experts] == [
        ("law", 2000, 2000),
        ("verse", 5, 2000),
    ]
    assert found.absent == ("code",)
    assert found.run_id == DOMAINS.run_id
    assert list(found.texts) == ["law", "code", "verse"]
    for expert in found.experts:
        assert expert.theta["embedding.weight"][0].tolist()[:16] == first[expert.name]


async def test_a_kept_expert_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    folder = a_peer(tmp_path / "peer", DOMAINS)
    await keep(folder, "law", step=5, last=math.nan)
    await keep(folder, "verse", step=5)
    assert said_of(folder).startswith(f"expert law in {folder} is of no use: ")
