import pytest
import torch
from torch import Tensor

from peer.experts.memory import activation_bytes, peer_bytes, training_bytes
from peer.train.model import build_model, loss
from protocol.manifest import DomainSpec, InnerSpec, Manifest
from protocol.models import ModelSpec

SHAPES = [
    (ModelSpec(dim=64, layers=2, heads=4, ffn_dim=176, context=64), 4),
    (ModelSpec(dim=96, layers=6, heads=4, ffn_dim=384, context=64, activation="gelu"), 2),
    (ModelSpec(dim=128, layers=3, heads=4, ffn_dim=256, context=32, tied_embeddings=False), 2),
]


@pytest.mark.parametrize(("spec", "batch"), SHAPES, ids=["swiglu", "gelu", "head"])
def test_activations_are_what_autograd_keeps(spec: ModelSpec, batch: int) -> None:
    model = build_model(spec, 256, generator=torch.Generator().manual_seed(0))
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        alive.append(storage)
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = torch.zeros(batch, spec.context + 1, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss(model(tokens[:, :-1]), tokens[:, 1:])
    assert activation_bytes(spec, batch) == pytest.approx(sum(kept.values()), rel=0.12)


def test_adamw_keeps_two_moments_and_sgd_one() -> None:
    adamw = DomainSpec(name="a", inner=InnerSpec(optimizer="adamw"))
    sgd = DomainSpec(name="a", inner=InnerSpec(optimizer="sgd"))
    num_parameters = (training_bytes(adamw) - training_bytes(sgd)) / 4
    assert num_parameters == 256 * 128 + 4 * (4 * 128**2 + 3 * 128 * 352 + 2 * 128) + 128


def test_a_peer_needs_its_outer_side_besides() -> None:
    domain = DomainSpec(name="a")
    manifest = Manifest(founder="nobody", domains=[domain])
    assert peer_bytes(manifest, "a") > training_bytes(domain) + 3 * 4 * 835_000
