import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from peer.experts.flops import flops_per_token
from peer.experts.shape import shape_near
from protocol.models import ModelSpec

SMALL = ModelSpec(dim=64, layers=3, heads=4, ffn_dim=176)
LARGE = ModelSpec(dim=768, layers=12, heads=12, ffn_dim=3072, context=1024, activation="gelu")
FARTHEST_FRAC = [(ModelSpec(), 0.02), (SMALL, 0.08), (LARGE, 0.01)]
"""Of bases, how far a rung may be from what is asked for: the smaller, the coarser the ladder."""
bases = st.sampled_from([base for base, _ in FARTHEST_FRAC])


@given(base=bases)
def test_its_own_flops_give_the_base(base: ModelSpec) -> None:
    assert shape_near(base, flops_per_token(base)) == base


@given(case=st.sampled_from(FARTHEST_FRAC), scale=st.floats(0.4, 5))
def test_a_rung_is_near_and_a_valid_model_in_the_base_s_proportions(
    case: tuple[ModelSpec, float], scale: float
) -> None:
    base, farthest_frac = case
    wanted = scale * flops_per_token(base)
    spec = shape_near(base, wanted)
    assert flops_per_token(spec) == pytest.approx(wanted, rel=farthest_frac)
    assert ModelSpec.model_validate(spec.model_dump()) == spec
    assert 0.6 < (spec.layers / spec.dim) / (base.layers / base.dim) < 1.6
    assert 0.8 < (spec.ffn_dim / spec.dim) / (base.ffn_dim / base.dim) < 1.2
    same = {"heads", "context", "activation", "tied_embeddings"}
    assert spec.model_dump(include=same) == base.model_dump(include=same)


@given(base=bases, low=st.floats(0.2, 5), high=st.floats(0.2, 5))
def test_more_flops_give_no_smaller_model(base: ModelSpec, low: float, high: float) -> None:
    assume(low * 1.07 < high)
    flops = flops_per_token(base)
    small, large = shape_near(base, low * flops), shape_near(base, high * flops)
    assert flops_per_token(small) <= flops_per_token(large)


def test_below_the_lowest_rung_there_is_the_lowest() -> None:
    lowest = shape_near(ModelSpec(), 1.0)
    assert (lowest.dim, lowest.layers) == (8, 1)
