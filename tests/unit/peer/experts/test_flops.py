import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from peer.experts.flops import flops_per_token
from peer.train.model import build_model, loss
from protocol.models import ModelSpec

SHAPES = [
    ModelSpec(dim=32, layers=2, heads=4, ffn_dim=88, context=64),
    ModelSpec(dim=64, layers=3, heads=2, ffn_dim=256, context=32, activation="gelu"),
    ModelSpec(dim=48, layers=1, heads=3, ffn_dim=96, context=128, tied_embeddings=False),
    ModelSpec(dim=16, layers=5, heads=1, ffn_dim=16, context=256),
]


@pytest.mark.parametrize("spec", SHAPES, ids=lambda spec: f"{spec.layers}x{spec.dim}")
@pytest.mark.parametrize("batch", [1, 3])
def test_it_is_what_torch_counts_forward_and_backward(spec: ModelSpec, batch: int) -> None:
    model = build_model(spec, 256, generator=torch.Generator().manual_seed(0))
    tokens = torch.zeros(batch, spec.context + 1, dtype=torch.int64)
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:  # torch does not count the CPU's fused attention
        torch.autograd.backward(loss(model(tokens[:, :-1]), tokens[:, 1:]))
    counted = counter.get_total_flops() / (batch * spec.context)
    assert flops_per_token(spec) == pytest.approx(counted, rel=0.02)


def test_a_large_model_costs_six_flops_a_parameter() -> None:
    spec = ModelSpec(dim=12288, layers=96, heads=96, ffn_dim=49152, activation="gelu", context=2048)
    num_parameters = 12 * spec.layers * spec.dim**2  # GPT-3, 175B
    assert flops_per_token(spec, 50257) == pytest.approx(6 * num_parameters, rel=0.05)
