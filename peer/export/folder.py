"""The folder that an export is: there in full, or not at all.

    OUT/model.safetensors       the parameters, by name
    OUT/thinwire.json           which run, which round, whose digests
    OUT/README.md               a model card

and, if `transformers` has the architecture, what its `from_pretrained` reads, too:

    OUT/config.json  generation_config.json  tokenizer.json  tokenizer_config.json
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from peer.export.architecture import config_of, renamed
from peer.export.byte_tokenizer import tokenizer_config, tokenizer_json
from peer.export.card import model_card
from peer.export.snapshot import Snapshot
from peer.export.special_tokens import added_tokens, special_ids, spelled
from peer.train.model import vocab_size_of
from peer.train.tensor_file import TensorFile, Written, require_room
from protocol.errors import ConfigError
from protocol.manifest import Manifest
from protocol.models import HuggingFaceSpec, ModelSpec

WEIGHTS = "model.safetensors"
FACTS = "thinwire.json"
README = "README.md"

Format = Literal["auto", "safetensors", "hf"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Export:
    """What was written.

    Attributes:
        folder: Where.
        is_huggingface: Whether `transformers` can load it.
        weights: Size and BLAKE3 of model.safetensors.
    """

    folder: Path
    is_huggingface: bool
    weights: Written


def require_place(out: Path, num_elements: int = 0, dtype: str = "fp32") -> None:
    """Refuses a place where something is, or without room.

    Args:
        out: The new folder.
        num_elements: Of the model, if that is known already.
        dtype: One of `DTYPES`.

    Raises:
        ConfigError: says what to do.
    """
    try:
        is_empty_folder = out.is_dir() and not out.is_symlink() and not any(out.iterdir())
        if (out.exists() or out.is_symlink()) and not is_empty_folder:
            raise ConfigError(f"{out} is there already; choose another folder with --out")
        around = next(folder for folder in out.absolute().parents if folder.is_dir())
    except OSError as error:  # a name that is too long, a folder that we may not read
        raise ConfigError(f"cannot write {out}: {error.strerror}") from None
    require_room(around, num_elements * DTYPES[dtype].itemsize)


def is_huggingface(manifest: Manifest, form: Format) -> bool:
    """Returns whether an export of this form is one that `transformers` can load.

    Raises:
        ConfigError: it has to be, and nothing there computes what the model does.
    """
    has_one = isinstance(manifest.model, ModelSpec | HuggingFaceSpec)
    if form == "hf" and not has_one:
        raise ConfigError(
            "--format hf: transformers does not know a model that its owner's loop builds; its "
            "parameters can be had with --format safetensors"
        )
    return has_one and form != "safetensors"


def tokenizer_file(manifest: Manifest) -> str:
    """Returns which of the run's files is the tokenizer; empty if its tokens are bytes."""
    name = manifest.data.tokenizer
    return name.removeprefix("file:") if name.startswith("file:") else ""


def write_export(
    snapshot: Snapshot, out: Path, *, at: datetime, form: Format = "auto", dtype: str = "fp32"
) -> Export:
    """Writes a model to a new folder.

    Args:
        snapshot: The model.
        out: Not there yet, or empty; the folder around it is made if need be.
        at: Now.
        form: `hf` for `transformers`, `safetensors` without, `auto` for the former if it can be.
        dtype: One of `DTYPES`.

    Raises:
        ConfigError: there is something at `out`, it cannot be written, or not in this form.
    """
    require_place(out, _num_elements(snapshot), dtype)
    with_config = is_huggingface(snapshot.manifest, form)
    staged = out.absolute().with_name(f".{out.absolute().name}-{os.getpid()}")
    shutil.rmtree(staged, ignore_errors=True)  # of one who had our number, and died
    try:
        staged.mkdir(parents=True)
        theta: Mapping[str, Tensor] = snapshot.theta
        if with_config:
            theta = _write_huggingface(staged, snapshot, dtype)
        weights = _write_weights(staged / WEIGHTS, theta, DTYPES[dtype])
        facts = _facts(snapshot, weights, dtype, at)
        (staged / FACTS).write_text(_json(facts))
        (staged / README).write_text(model_card(snapshot, facts, is_huggingface=with_config))
        staged.replace(out)
    except OSError as error:
        shutil.rmtree(staged, ignore_errors=True)
        raise ConfigError(f"cannot write {out}: {error.strerror}") from None
    except BaseException:  # Ctrl+C, too, leaves nothing half written
        shutil.rmtree(staged, ignore_errors=True)
        raise
    return Export(out, with_config, weights)


def _write_weights(path: Path, theta: Mapping[str, Tensor], dtype: torch.dtype) -> Written:
    like = {name: tensor.to("meta", dtype) for name, tensor in theta.items()}
    return TensorFile(path, like).write(tensor.to(dtype) for tensor in theta.values())


def _write_huggingface(folder: Path, snapshot: Snapshot, dtype: str) -> Mapping[str, Tensor]:
    """Writes all but the parameters, and returns those under the library's names."""
    manifest = snapshot.manifest
    theta: Mapping[str, Tensor] = snapshot.theta
    if isinstance(manifest.model, HuggingFaceSpec):
        config = dict(manifest.model.config)
    else:
        config = config_of(manifest.transformer, vocab_size_of(manifest))
        theta = renamed(theta, manifest.transformer)
    tokenizer = _tokenizer(snapshot)
    (folder / "tokenizer.json").write_bytes(tokenizer)
    added = added_tokens(tokenizer)
    ids = special_ids(config, added)
    config |= ids | {"dtype": str(DTYPES[dtype]).removeprefix("torch.")}
    (folder / "config.json").write_text(_json(config))
    (folder / "generation_config.json").write_text(_json({"do_sample": True} | ids))
    settings = tokenizer_config(manifest.context) | spelled(ids, added)
    (folder / "tokenizer_config.json").write_text(_json(settings))
    return theta


def _tokenizer(snapshot: Snapshot) -> bytes:
    name = tokenizer_file(snapshot.manifest)
    if not name:
        return tokenizer_json().encode()
    if snapshot.files is None:
        raise ConfigError(f"the run's file {name}, its tokenizer, is not here")
    path = snapshot.files / name
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the tokenizer {path}: {error.strerror}") from None


def _facts(snapshot: Snapshot, weights: Written, dtype: str, at: datetime) -> dict[str, Any]:
    manifest = snapshot.manifest
    return {
        "run_id": snapshot.run.run_id,
        "name": snapshot.run.name,
        "domain": snapshot.domain,
        "round": snapshot.round,
        "rounds": list(snapshot.rounds),
        "step": snapshot.step,
        "tokens": snapshot.tokens,
        "uncounted_rounds": snapshot.uncounted_rounds,
        "anchor_digests": list(snapshot.digests),
        "parameters": _num_elements(snapshot),
        "dtype": dtype,
        WEIGHTS: asdict(weights),
        "exported": at.isoformat(timespec="seconds"),
        "model": manifest.model.model_dump(mode="json"),
        "data": manifest.data.model_dump(mode="json"),
        "inner": manifest.inner.model_dump(mode="json"),
        "method": manifest.method.model_dump(mode="json"),
    }


def _num_elements(snapshot: Snapshot) -> int:
    return sum(tensor.numel() for tensor in snapshot.theta.values())


def _json(data: object) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"
