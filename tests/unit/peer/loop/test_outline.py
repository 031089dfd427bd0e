"""Outlines of a group's checkpoint: which ones fit a model and its optimizer."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from peer.loop.outline import (
    Outline,
    misfit,
    outline_of,
    packed,
    require_restorable,
    shapes_by_name,
    unpacked,
)
from protocol.errors import ConfigError

PARAMS = {"0.weight": (3, 2), "0.bias": (3,)}
BUFFERS = {"1.mean": (3,)}
GOOD = [
    Outline("theta.0.weight", (3, 2), "float32"),
    Outline("theta.0.bias", (3,), "float32"),
    Outline("buffer.1.mean", (3,), "float32"),
    Outline("adamw.step.0.weight", (), "float32"),
    Outline("adamw.exp_avg.0.weight", (3, 2), "float32"),
]

outlines = st.builds(
    Outline,
    name=st.text(max_size=20),
    shape=st.lists(st.integers(0, 1 << 40), max_size=4).map(tuple),
    dtype=st.sampled_from(["float32", "int64"]),
)


@given(st.lists(outlines, max_size=5))
def test_what_is_packed_comes_out_again(given_outlines: list[Outline]) -> None:
    assert unpacked(packed(given_outlines)) == given_outlines


def test_a_name_says_whose_tensor_it_is() -> None:
    assert Outline("theta.0.weight", (), "").parts == ("theta", "", "0.weight")
    assert Outline("buffer.1.mean", (), "").parts == ("buffer", "", "1.mean")
    assert Outline("adamw.exp_avg.0.weight", (), "").parts == ("adamw", "exp_avg", "0.weight")


def test_an_outline_has_shape_and_type_and_no_content() -> None:
    outline = outline_of("theta.a", torch.zeros(2, 3, dtype=torch.bfloat16))
    assert outline == Outline("theta.a", (2, 3), "bfloat16")
    assert shapes_by_name({"a": torch.zeros(2, 3)}) == {"a": (2, 3)}


def test_a_checkpoint_of_this_model_and_optimizer_fits() -> None:
    assert misfit(GOOD, PARAMS, BUFFERS, optimizer="adamw") is None
    require_restorable(GOOD, PARAMS)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (GOOD[1:], r"has no theta\.0\.weight"),
        (GOOD[:2] + GOOD[3:], r"has no buffer\.1\.mean"),
        ([*GOOD, Outline("theta.9.bias", (3,), "float32")], r"theta\.9\.bias is \[3\]"),
        ([Outline("theta.0.weight", (2, 3), "float32"), *GOOD[1:]], r"0\.weight is \[2, 3\]"),
        ([*GOOD, Outline("sgd.momentum.0.bias", (3,), "float32")], "optimizer sgd, yours is adamw"),
        ([*GOOD, Outline("adamw.exp_avg.0.bias", (2,), "float32")], r"0\.bias is \[2\]"),
    ],
    ids=["parameter", "buffer", "more", "shape", "optimizer", "moment"],
)
def test_any_other_is_refused_with_the_reason(changed: list[Outline], problem: str) -> None:
    found = misfit(changed, PARAMS, BUFFERS, optimizer="adamw")
    assert found is not None
    with pytest.raises(AssertionError, match=problem):
        raise AssertionError(found)


def test_state_that_no_shard_could_take_back_is_refused() -> None:
    odd = Outline("shampoo.factor.0.weight", (3, 3), "float32")
    with pytest.raises(ConfigError, match=r"shampoo\.factor\.0\.weight .* is \[3, 3\]"):
        require_restorable([*GOOD, odd], PARAMS)
