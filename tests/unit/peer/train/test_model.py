from typing import Any

import pytest
import torch
from torch.nn import functional

from optim.layout import load_from
from peer.train.model import (
    Transformer,
    build_model,
    initial_anchor,
    layout_of_run,
    loss,
    num_parameters,
)
from protocol.errors import ConfigError
from protocol.manifest import Manifest, manifest_from
from protocol.models import ModelSpec

SPEC = ModelSpec(dim=16, layers=2, heads=2, ffn_dim=24, context=16)


def model_of(spec: ModelSpec, seed: int = 0) -> Transformer:
    return build_model(spec, 256, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("activation", ["swiglu", "gelu"])
@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
def test_shapes_and_number_of_parameters(activation: str, is_tied: bool) -> None:
    spec = SPEC.model_copy(update={"activation": activation, "tied_embeddings": is_tied})
    model = model_of(spec)
    logits = model(torch.randint(0, 256, (3, 16)))
    assert logits.shape == (3, 16, 256)
    ffn = 16 * 24 * (3 if activation == "swiglu" else 2)
    expected = 256 * 16 * (1 if is_tied else 2) + 2 * (4 * 16 * 16 + ffn + 2 * 16) + 16
    assert sum(p.numel() for p in model.parameters()) == expected
    assert num_parameters(spec, 256) == expected


def test_there_are_no_buffers_beside_the_flat_vector() -> None:
    assert list(model_of(SPEC).buffers()) == []


def test_a_later_byte_does_not_change_earlier_logits() -> None:
    model = model_of(SPEC)
    tokens = torch.randint(0, 256, (1, 16), generator=torch.Generator().manual_seed(1))
    changed = tokens.clone()
    changed[0, 10] = (changed[0, 10] + 1) % 256
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :10], after[:, :10])
    assert not torch.equal(before[:, 10:], after[:, 10:])


def test_positions_matter() -> None:
    model = model_of(SPEC)
    tokens = torch.tensor([[1, 2, 3, 4]])
    swapped = torch.tensor([[2, 1, 3, 4]])
    assert not torch.allclose(model(tokens)[0, -1], model(swapped)[0, -1])


def test_init_depends_on_the_generator_alone() -> None:
    torch.manual_seed(1)
    first = model_of(SPEC)
    state = torch.get_rng_state()
    second, other = model_of(SPEC), model_of(SPEC, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    pairs = list(zip(first.parameters(), second.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.embedding.weight, other.embedding.weight)


def test_init_scales() -> None:
    model = model_of(ModelSpec(dim=128, layers=2, heads=4, ffn_dim=256))
    assert model.embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.blocks[0].ffn.out.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert torch.equal(model.norm.weight, torch.ones(128))


def test_loss_is_the_mean_cross_entropy() -> None:
    logits, targets = torch.randn(2, 3, 256), torch.randint(0, 256, (2, 3))
    expected = functional.cross_entropy(logits.view(6, 256), targets.view(6))
    assert torch.equal(loss(logits, targets), expected)


FRAGMENTS = pytest.mark.parametrize(
    "schedule",
    [
        {"fragments": 1},
        {"fragments": 2, "pattern": "sequential"},
        {"fragments": 2, "pattern": "strided"},
        {"fragments": 3, "pattern": "strided", "separate_embeddings": True},
    ],
    ids=lambda schedule: "-".join(map(str, schedule.values())),
)


def with_fragments(manifest: Manifest, schedule: dict[str, Any]) -> Manifest:
    changed = manifest.method.schedule.model_copy(update=schedule)
    method = manifest.method.model_copy(update={"schedule": changed})
    model = manifest.model.model_copy(update={"layers": 4})
    return manifest.model_copy(update={"method": method, "model": model})


@FRAGMENTS
def test_the_initial_anchor_is_the_initial_model_whatever_the_layout(
    manifest: Manifest, schedule: dict[str, Any]
) -> None:
    run = with_fragments(manifest, schedule)
    model, other = model_of(run.model, run.seed), model_of(run.model, seed=run.seed + 1)
    load_from(initial_anchor(run), layout_of_run(run), other)
    assert len(layout_of_run(run).fragments) == schedule["fragments"]
    for (name, ours), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_the_order_of_a_flat_vector_depends_on_the_pattern(manifest: Manifest) -> None:
    balanced, strided = (
        initial_anchor(with_fragments(manifest, {"fragments": 2, "pattern": pattern}))
        for pattern in ("balanced", "strided")
    )
    assert not torch.equal(balanced, strided)
    assert torch.equal(balanced.sort().values, strided.sort().values)


def test_initial_anchor_is_a_function_of_the_manifest(manifest: Manifest) -> None:
    anchor = initial_anchor(manifest)
    assert anchor.shape == (num_parameters(manifest.model, 256),)
    assert torch.equal(anchor, initial_anchor(manifest))
    other = manifest.model_copy(update={"seed": 8})
    assert not torch.equal(anchor, initial_anchor(other))


def test_a_model_that_no_machine_holds_is_refused() -> None:
    tensors = [{"name": "a", "shape": [1 << 32, 1 << 32]}]
    files = [{"name": "initial.safetensors", "size_bytes": 1, "digest": "00" * 32}]
    settings = {"founder": "12D3KooW", "model": {"kind": "own", "tensors": tensors}, "files": files}
    with pytest.raises(ConfigError, match="more than 274877906944 parameters"):
        layout_of_run(manifest_from(settings))
