"""The models in a folder: an export, or what a peer keeps of a run.

Nothing is ever unpickled, and no tensor is read before its shape is known to be the one that the
configuration promises, which may be a stranger's.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from blake3 import blake3
from safetensors import SafetensorError, safe_open
from torch import Tensor

from optim.layout import shapes_of
from peer.experts.catalogue import CATALOGUE, ExpertEntry, read_catalogue
from peer.experts.expert import Expert, expert_of, require_one_tokenizer
from peer.identity_file import load_identity
from peer.run_folder import IDENTITY, MANIFEST
from peer.train.checkpoint import (
    Checkpoint,
    CheckpointInfo,
    Unusable,
    committed,
    open_checkpoint,
)
from peer.train.model import VOCAB_SIZE, Transformer, layout_of_run
from peer.train.tensor_file import read_tensors
from protocol.errors import ConfigError, MalformedMessage
from protocol.manifest import DataSpec, Manifest, parse_manifest
from protocol.models import ModelSpec

_CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelFolder:
    """What is in a folder, and what ought to be.

    Attributes:
        path: The folder.
        run_id: Of the run that trained them; empty if nobody knows.
        experts: At least one; all share a tokenizer.
        absent: Experts of the run that are not here.
        texts: By domain of the run, its text, also where its expert is absent.
        prior: By expert, as the export has it; None: uniform.
    """

    path: Path
    run_id: str
    experts: list[Expert]
    absent: tuple[str, ...] = ()
    texts: Mapping[str, DataSpec] = field(default_factory=dict)
    prior: Mapping[str, float] | None = None


def read_models(folder: Path) -> list[Expert]:
    """Returns the models in a folder: those of an export, or those that a peer keeps of its run.

    Raises:
        ConfigError: there is no such folder, no model in it, or one that is missing, damaged or
            not finite.
    """
    return read_folder(folder).experts


def read_folder(folder: Path) -> ModelFolder:
    """Returns the models in a folder with what is known of them; see `read_models`.

    Raises:
        ConfigError: as `read_models` does.
    """
    if not folder.exists():
        raise ConfigError(f"there is no folder {folder}")
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; give that of an export, or of a peer")
    if (folder / CATALOGUE).exists():
        models = _exported(folder)
    elif (folder / MANIFEST).exists():
        models = _kept(folder)
    elif (folder / "thinwire.json").exists():
        raise ConfigError(
            f"{folder} is an export for other programs, such as transformers; give the folder of a "
            "peer, or one of thinwire experts export"
        )
    else:
        raise ConfigError(
            f"there is no model in {folder}: neither {CATALOGUE} of an export nor a peer's "
            f"{MANIFEST}"
        )
    for expert in models.experts:
        _require_finite(expert, folder)
    return models


def _require_finite(expert: Expert, folder: Path) -> None:
    for name, tensor in expert.theta.items():
        if not tensor.isfinite().all():
            raise ConfigError(
                f"expert {expert.name} in {folder} is of no use: {name} has values that are not "
                "finite; get it from another peer, or train it anew"
            )


def _exported(folder: Path) -> ModelFolder:
    catalogue = read_catalogue(folder)
    require_one_tokenizer((entry.name, entry.tokenizer) for entry in catalogue.experts)
    return ModelFolder(
        path=folder,
        run_id=catalogue.run_id,
        experts=[_read_expert(folder, entry) for entry in catalogue.experts],
        absent=tuple(catalogue.absent),
        texts={entry.name: entry.data for entry in catalogue.experts if entry.data},
        prior=catalogue.prior,
    )


def _read_expert(folder: Path, entry: ExpertEntry) -> Expert:
    path = folder / entry.file
    if not path.is_file():
        raise ConfigError(
            f"expert {entry.name} is missing: {CATALOGUE} names {entry.file}, "
            f"which is not in {folder}"
        )
    try:
        digest = blake3().update_mmap(path).hexdigest()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    if digest != entry.blake3:
        raise ConfigError(
            f"expert {entry.name} is damaged: the digest of {path} is not the one in {CATALOGUE}; "
            "copy or export it again"
        )
    names = _require_shapes(path, entry)
    theta = read_tensors(path)
    return Expert(
        name=entry.name,
        spec=entry.model,
        theta={name: theta[name] for name in names},
        tokenizer=entry.tokenizer,
        recipe=entry.data.recipe if entry.data else "",
        step=entry.step,
        total_steps=entry.total_steps,
    )


def _require_shapes(path: Path, entry: ExpertEntry) -> list[str]:
    """Returns the parameters' names in the model's order, from the file's header alone."""
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in list(file.keys())}
            found = {name: (s.get_dtype(), tuple(s.get_shape())) for name, s in slices.items()}
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"expert {entry.name} is damaged: {path} is no safetensors file: {error}"
        ) from None
    problem = f"{len(found)} tensors are too few for {entry.model.layers} layers"
    if len(found) > entry.model.layers:  # else nobody builds so many for nothing
        expected = {
            name: ("F32", shape)
            for name, shape in _shapes(entry.model, VOCAB_SIZE[entry.tokenizer]).items()
        }
        if found == expected:
            return list(expected)
        name = min(n for n in found.keys() | expected.keys() if found.get(n) != expected.get(n))
        problem = f"{name} is {_spelled(found.get(name))} instead of {_spelled(expected.get(name))}"
    raise ConfigError(f"expert {entry.name} does not fit the shape in {CATALOGUE}: {problem}")


def _shapes(spec: ModelSpec, vocab_size: int) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return shapes_of(Transformer(spec, vocab_size))


def _spelled(outline: tuple[str, tuple[int, ...]] | None) -> str:
    return f"{outline[0]} {list(outline[1])}" if outline else "nothing"


def _kept(folder: Path) -> ModelFolder:
    try:
        manifest = parse_manifest((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {folder / MANIFEST}: {error.strerror}") from None
    except MalformedMessage as error:
        raise ConfigError(f"{folder / MANIFEST} is damaged: {error}") from None
    if not manifest.domains:
        _require_ours(folder, manifest)
        expert = _anchor(folder, manifest)
        texts = {expert.name: manifest.data}
        return ModelFolder(path=folder, run_id=manifest.run_id, experts=[expert], texts=texts)
    # Most folders are no run's with domains, and need not load what takes part in one.
    from peer.domains.kept import kept_experts

    texts = {domain.name: domain.data for domain in manifest.domains if domain.is_expert}
    experts = kept_experts(folder, manifest)
    if not experts:
        raise ConfigError(
            f"{folder} keeps no expert yet, of {', '.join(texts)}; join the run and wait, "
            "or give the folder of a peer that trained one"
        )
    kept = {expert.name for expert in experts}
    return ModelFolder(
        path=folder,
        run_id=manifest.run_id,
        experts=experts,
        absent=tuple(name for name in texts if name not in kept),
        texts=texts,
    )


def _require_ours(folder: Path, manifest: Manifest) -> None:
    tokenizer = manifest.data.tokenizer
    if not isinstance(manifest.model, ModelSpec) or tokenizer not in VOCAB_SIZE:
        raise ConfigError(
            f"{folder} has a model of kind {manifest.model.kind!r} with the tokenizer "
            f"{tokenizer!r}, and this is for thinwire's own transformer on bytes: `thinwire export "
            f"{folder}` makes a folder that other programs read"
        )


def newest_anchors(folder: Path, manifest: Manifest) -> tuple[list[Tensor], CheckpointInfo]:
    """Returns the anchors in the newest good checkpoint of a peer, one `[m]` a fragment.

    Args:
        folder: The peer's.
        manifest: Of its run, without domains.

    Raises:
        ConfigError: there is no such checkpoint, or it is of another model.
    """
    checkpoint = _newest_good(folder, manifest)
    tensors = checkpoint.outer()
    lengths = [len(span) for span in layout_of_run(manifest).fragments]
    anchors = [tensors.get(f"anchor.{fragment}") for fragment in range(len(lengths))]
    fitting = [
        anchor
        for anchor, length in zip(anchors, lengths, strict=True)
        if anchor is not None and anchor.shape == (length,) and anchor.dtype == torch.float32
    ]
    if len(fitting) < len(lengths):
        raise ConfigError(f"{checkpoint.path} does not fit the model in {folder / MANIFEST}")
    return fitting, checkpoint.info


def _anchor(folder: Path, manifest: Manifest) -> Expert:
    anchors, info = newest_anchors(folder, manifest)
    name = re.sub(r"[^a-z0-9_-]+", "-", manifest.name.lower()).strip("-_")[:32] or "run"
    return expert_of(manifest, torch.cat(anchors), name=name, step=info.step)


def _newest_good(folder: Path, manifest: Manifest) -> Checkpoint:
    paths = committed(folder / _CHECKPOINTS)
    if not paths:
        raise ConfigError(
            f"{folder} keeps no model yet: there is no checkpoint in it; join the run and wait, "
            "or give the folder of a peer that trained"
        )
    if not (folder / IDENTITY).is_file():
        raise ConfigError(f"{folder / IDENTITY} is missing: it says whose the checkpoints are")
    peer_id = load_identity(folder / IDENTITY).peer_id
    problems = []
    for path in reversed(paths):
        try:
            return open_checkpoint(path, run_id=manifest.run_id, peer_id=peer_id)
        except Unusable as error:
            problems.append(str(error))
    raise ConfigError(f"no checkpoint in {folder} can be used: {'; '.join(problems)}")
