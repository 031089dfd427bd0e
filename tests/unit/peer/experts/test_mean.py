"""Averaged parameters: the arithmetic, and experts that have no average."""

import dataclasses

import pytest
import torch

from peer.experts.expert import Expert
from peer.experts.mean import mean_of
from peer.train.model import build_model
from protocol.errors import ConfigError
from protocol.models import ModelSpec

SPEC = ModelSpec(dim=16, layers=1, heads=2, ffn_dim=24, context=64)


def expert_of(name: str, seed: int, spec: ModelSpec = SPEC) -> Expert:
    model = build_model(spec, 256, generator=torch.Generator().manual_seed(seed))
    theta = {key: param.detach() for key, param in model.named_parameters()}
    return Expert(name=name, spec=spec, theta=theta)


def test_each_parameter_is_the_weighted_average() -> None:
    experts = [expert_of(f"e{seed}", seed) for seed in range(3)]
    mean = mean_of(experts, [2, 1, 1], name="all")
    assert mean.name == "all"
    for key, tensor in mean.theta.items():
        one, two, three = (expert.theta[key] for expert in experts)
        torch.testing.assert_close(tensor, (2 * one + two + three) / 4)
        assert tensor.dtype == torch.float32
    mean.model()(torch.zeros(1, 4, dtype=torch.long))


def test_without_weights_all_count_the_same_and_one_alone_is_itself() -> None:
    experts = [expert_of("a", 0), expert_of("b", 1)]
    even, weighted = mean_of(experts), mean_of(experts, [5, 5])
    torch.testing.assert_close(even.theta, weighted.theta)
    for mean in (mean_of(experts[:1]), mean_of(experts, [1, 0])):
        assert all(torch.equal(mean.theta[key], experts[0].theta[key]) for key in mean.theta)


def test_the_average_sees_no_further_than_any_of_them() -> None:
    other = expert_of("b", 1, SPEC.model_copy(update={"context": 16}))
    assert mean_of([expert_of("a", 0), other]).spec.context == 16


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"dim": 32}, "model.dim is 16 in math, 32 in law"),
        ({"layers": 2}, "model.layers is 1 in math, 2 in law"),
        ({"activation": "gelu"}, "model.activation is swiglu in math, gelu in law"),
    ],
)
def test_two_shapes_are_refused_with_their_difference(
    change: dict[str, object], difference: str
) -> None:
    other = expert_of("law", 1, ModelSpec(**{**SPEC.model_dump(), **change}))
    with pytest.raises(ConfigError, match=f"experts math and law cannot be .*: {difference}"):
        mean_of([expert_of("math", 0), other])


def test_parameters_that_do_not_fit_each_other_are_named() -> None:
    one, other = expert_of("math", 0), expert_of("law", 1)
    del other.theta["norm.weight"]
    with pytest.raises(ConfigError, match=r"norm\.weight is \[16\] in math, missing in law"):
        mean_of([one, other])


def test_two_tokenizers_no_expert_and_no_weights_are_refused() -> None:
    one = expert_of("math", 0)
    with pytest.raises(ConfigError, match="tokenizer is bytes in math, words in law"):
        mean_of([one, dataclasses.replace(expert_of("law", 1), tokenizer="words")])
    with pytest.raises(ConfigError, match="no expert"):
        mean_of([])
    with pytest.raises(ConfigError, match="the prior has 2 weights"):
        mean_of([one], [1, 2])
