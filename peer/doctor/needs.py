"""What a run asks of a machine: packages, a method that is known here, memory, disk, and text."""

import glob
import importlib.util
import re
from collections.abc import Iterator

from peer.doctor.finding import Finding
from peer.doctor.machine import Machine
from peer.domains.capability import PROCESS_BYTES
from peer.method import check_method
from peer.needs import Needs
from peer.remedies import UPGRADE
from peer.train.dataset_recipe import HUB, DatasetRecipe
from peer.train.library import INSTALL
from peer.train.recipes import DATASET, files_of, operator_globs, parts_of
from peer.units import format_bytes, format_count
from protocol.domains import domain_manifest
from protocol.errors import ConfigError
from protocol.manifest import Manifest
from protocol.models import HuggingFaceSpec, OwnSpec

COMPLETE = ("stdlib", "package", "text")
"""Recipes whose text is on a machine, or is not: nothing is fetched."""
SPARE_FRAC = 0.1
"""Memory that the system and others need."""


def needs_of(machine: Machine, manifest: Manifest, *, members: int) -> Iterator[Finding]:
    """What the run asks of the machine, item by item; nothing is allocated.

    Args:
        machine: The machine.
        manifest: The run's.
        members: How many there are.
    """
    if manifest.domains:
        yield from _of_domains(machine, manifest, members)
    else:
        yield from _of_one(machine, manifest, members)


def trainable(machine: Machine, manifest: Manifest) -> Manifest:
    """Returns what would be trained here; of a run with domains, the first that can be."""
    for domain in manifest.domains:
        own = domain_manifest(manifest, domain.name)
        if not any(found.verdict == "fatal" for found in _of_one(machine, own, 2)):
            return own
    return domain_manifest(manifest, manifest.domains[0].name) if manifest.domains else manifest


def _of_one(machine: Machine, manifest: Manifest, members: int) -> Iterator[Finding]:
    if missing := [each for each in packages(manifest) if importlib.util.find_spec(each) is None]:
        found, why = f"{', '.join(missing)} not installed", "this run's model or text needs it"
        yield Finding("packages", "fatal", found, why, INSTALL)
        return
    try:
        check_method(manifest)
        needs = Needs(manifest, members=members)
    except (ConfigError, KeyError, ValueError) as error:
        why = "this version does not know what the run was founded with"
        yield Finding("method", "fatal", str(error), why, UPGRADE)
        return
    method = manifest.method
    name = method.preset or f"mixing {method.mixing}, {method.outer.rule}"
    found = f"{name}, {format_count(needs.num_params)} parameters"
    yield Finding("method", "good", found)
    yield from memory(machine, needs)
    yield disk(machine, needs)
    if isinstance(manifest.model, OwnSpec):
        yield Finding("loop", "unknown", "the model is of a training loop of your own, not join's")
    else:
        yield from text(machine, manifest.data.recipe)


def packages(manifest: Manifest) -> Iterator[str]:
    """Yields the packages that a run without domains needs besides thinwire's own."""
    if isinstance(manifest.model, HuggingFaceSpec):
        yield "transformers"
    if manifest.data.tokenizer != "bytes":
        yield "tokenizers"
    if any(part.startswith(DATASET) for part in parts_of(manifest.data.recipe)):
        yield "datasets"


def _of_domains(machine: Machine, manifest: Manifest, members: int) -> Iterator[Finding]:
    fit, problems = [], []
    for domain in manifest.domains:
        own = domain_manifest(manifest, domain.name)
        worst = [f for f in _of_one(machine, own, members) if f.verdict == "fatal"]
        if worst:
            problems.append((domain.name, worst[0]))
        else:
            fit.append(domain.name)
    count = f"{len(fit)} of {len(manifest.domains)} can be trained here"
    if fit:
        yield Finding("domains", "good", f"{count}: {', '.join(fit)}")
        return
    name, first = problems[0]
    why = f"{name}, say: {first.subject}: {first.why or first.found}"
    yield Finding("domains", "fatal", count, why, first.fix)


def memory(machine: Machine, needs: Needs) -> Iterator[Finding]:
    """Whether trainer and wire process fit."""
    torch = machine.torch
    on_gpu = torch is not None and torch.memory_bytes > 0
    host_bytes = needs.wire_bytes + PROCESS_BYTES + (0.0 if on_gpu else needs.trainer_bytes)
    free = machine.free_memory_bytes
    limit = machine.memory_limit_bytes
    if limit is not None:
        free = min(free or limit, limit)
    parts = f"trainer {format_bytes(needs.trainer_bytes)}, wire {format_bytes(needs.wire_bytes)}"
    found = f"needs {format_bytes(host_bytes)} ({parts}), has {format_bytes(free)}"
    if not free:
        yield Finding("memory for the run", "unknown", found)
    elif host_bytes > free:
        why = f"training needs {format_bytes(host_bytes)}, and {format_bytes(free)} are free"
        fix = "end other programs, or join from a machine with more memory"
        yield Finding("memory for the run", "fatal", found, why, fix)
    elif host_bytes > (1 - SPARE_FRAC) * free:
        why = "nearly all memory would be in use, so the system may end a process at any moment"
        yield Finding("memory for the run", "poor", found, why, "end other programs")
    else:
        yield Finding("memory for the run", "good", found)
    if torch is not None and on_gpu:
        found = f"needs {format_bytes(needs.trainer_bytes)}, has {format_bytes(torch.memory_bytes)}"
        if needs.trainer_bytes > torch.memory_bytes:
            why = "model, gradients, optimizer and activations do not fit on the GPU"
            yield Finding("GPU memory", "fatal", found, why, "--device cpu, or a larger GPU")
        else:
            yield Finding("GPU memory", "good", found)


def disk(machine: Machine, needs: Needs) -> Finding:
    """Whether checkpoints and the run's files fit."""
    # While one is written, those that are kept are still there.
    kept_bytes = (machine.keep_checkpoints + 1) * needs.checkpoint_bytes
    of_files = f", files {format_bytes(needs.file_bytes)}" if needs.file_bytes else ""
    each = format_bytes(needs.checkpoint_bytes)
    asked = f"checkpoints {machine.keep_checkpoints} + 1 of {each}{of_files}"
    if machine.disk is None or machine.disk.problem:
        return Finding("disk for the run", "unknown", f"needs {asked}")
    free = machine.disk.free_bytes
    found = (
        f"needs {format_bytes(kept_bytes + needs.file_bytes)} ({asked}), has {format_bytes(free)}"
    )
    if needs.file_bytes > free:
        why = "the run's files do not fit, and nothing begins without them"
        return Finding("disk for the run", "fatal", found, why, "another disk: --dir DIR")
    if kept_bytes + needs.file_bytes > free:
        why = "checkpoints would fail, and what is trained would be lost at a crash"
        keep = "another disk: --dir DIR" + (", or --keep 1" if machine.keep_checkpoints > 1 else "")
        return Finding("disk for the run", "poor", found, why, keep)
    return Finding("disk for the run", "good", found)


def text(machine: Machine, recipe: str) -> Iterator[Finding]:
    """Whether the text to train on is here."""
    globs = operator_globs(recipe)
    if globs and not machine.allow_text:
        found = f"the run trains on your own files {globs[0]!r}"
        why = "the model that others get may remember them, so you have to agree"
        yield Finding(
            "text", "fatal", found, why, "if you agree: thinwire join TICKET --allow-text"
        )
        return
    for part in parts_of(recipe):
        kind = part.partition(":")[0]
        if kind not in COMPLETE:
            yield _of_dataset(part)
            continue
        try:
            files, description = files_of(part)
        except ConfigError as error:
            yield Finding("text", "fatal", str(error), "the text is not here", _text_fix(part))
        else:
            total = sum(path.stat().st_size for _, path in files)
            yield Finding("text", "good", f"{description}, {format_bytes(total)}")


def _of_dataset(recipe: str) -> Finding:
    """Whether the files of a dataset are here; what is on the hub shows itself when it is read."""
    wanted = DatasetRecipe.parse(recipe)
    if wanted.kind == HUB:
        return Finding("text", "unknown", f"{recipe}: it is fetched by who joins")
    if not any(glob.iglob(wanted.place, recursive=True)):
        found, fix = f"no file matches {wanted.place}", f"put files there: {wanted.place}"
        return Finding("text", "fatal", found, "the text is not here", fix)
    return Finding("text", "good", f"{wanted.kind} files: {wanted.place}")


def _text_fix(recipe: str) -> str:
    package = re.match(r"package:([A-Za-z_][A-Za-z0-9_]*)/", recipe)
    if package:
        name = package[1]  # a stranger chose it, and to install a package runs its code
        return f"look at what {name} is (https://pypi.org/project/{name}), then install it with pip"
    if recipe.startswith("text:"):
        return f"put files there that match: {recipe.removeprefix('text:')}"
    return UPGRADE
