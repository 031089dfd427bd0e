import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optim.codec.codec import codec_named
from optim.codec.frame import CodecError
from optim.merge import WeightedMean

WEIGHTS = st.lists(st.floats(0.001, 1e9), min_size=1, max_size=8)


def contributions(k: int, n: int = 50) -> torch.Tensor:
    return torch.randn(k, n, generator=torch.Generator().manual_seed(k))


@given(weights=WEIGHTS, data=st.data())
def test_equals_the_formula_in_float64_whatever_the_order(
    weights: list[float], data: st.DataObject
) -> None:
    xs = contributions(len(weights))
    w = torch.tensor(weights, dtype=torch.float64)
    expected = (w[:, None] * xs).sum(0) / w.sum()
    mean = WeightedMean(50)
    for i in data.draw(st.permutations(range(len(weights)))):
        mean.add(xs[i], weights[i])
    assert mean.total_weight == pytest.approx(sum(weights))
    torch.testing.assert_close(mean.mean().double(), expected, rtol=1e-5, atol=1e-6)


@given(weights=WEIGHTS)
def test_equal_contributions_come_out_to_the_bit(weights: list[float]) -> None:
    (x,) = contributions(1)
    mean = WeightedMean(50)
    for w in weights:
        mean.add(x, w)
    assert torch.equal(mean.mean(), x)


def test_inputs_are_not_kept_and_results_are_not_shared() -> None:
    x = torch.ones(3)
    mean = WeightedMean(3)
    mean.add(x, 2.0)
    x.zero_()
    first = mean.mean()
    mean.add(torch.full((3,), 4.0), 1.0)
    assert first.tolist() == [1, 1, 1]
    assert mean.mean().tolist() == [2, 2, 2]
    assert mean.mean().dtype == torch.float32


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_not_positive_is_refused(weight: float) -> None:
    mean = WeightedMean(2)
    with pytest.raises(ValueError, match="positive and finite"):
        mean.add(torch.ones(2), weight)
    assert mean.total_weight == 0


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 2)])
def test_another_length_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected a vector"):
        WeightedMean(2).add(torch.ones(shape), 1.0)


def test_the_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="mean of nothing"):
        WeightedMean(2).mean()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e300])
def test_an_element_that_is_not_finite_is_refused(bad: float) -> None:
    mean = WeightedMean(70_000)
    mean.add(torch.ones(70_000), 1.0)
    x = torch.zeros(70_000, dtype=torch.float64)
    x[-1] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        mean.add(x, 1.0)
    assert mean.total_weight == 1.0
    assert torch.equal(mean.mean(), torch.ones(70_000))


def test_weights_whose_sum_is_infinite_are_refused() -> None:
    mean = WeightedMean(2)
    mean.add(torch.ones(2), 1.5e308)
    with pytest.raises(ValueError, match="positive and finite"):
        mean.add(torch.zeros(2), 1.5e308)
    assert mean.mean().tolist() == [1, 1]


@pytest.mark.parametrize("name", ["fp32", "bf16", "int8"])
def test_adding_frames_is_adding_what_they_decode_to(name: str) -> None:
    codec, of_frames, of_vectors = codec_named(name), WeightedMean(1000), WeightedMean(1000)
    for x, weight in zip(contributions(4, 1000), (3.0, 1.0, 20.0, 0.5), strict=True):
        frame = codec.encode(x)
        of_frames.add_frame(codec, frame, weight)
        of_vectors.add(codec.decode(frame, 1000), weight)
    assert of_frames.total_weight == of_vectors.total_weight
    assert torch.equal(of_frames.mean(), of_vectors.mean())


def test_the_codec_hears_what_the_contribution_is_near_to() -> None:
    near, x = contributions(2, 1000)
    codec, mean = codec_named("mod8"), WeightedMean(1000)
    frame = codec.encode(near + 0.01 * x, near=near)
    mean.add_frame(codec, frame, 5.0, near=near)
    assert torch.equal(mean.mean(), codec.decode(frame, 1000, near=near))


def test_a_hostile_frame_leaves_the_mean_as_it_was() -> None:
    codec, mean = codec_named("int8"), WeightedMean(1000)
    frame = bytearray(codec.encode(contributions(1, 1000)[0]))
    mean.add_frame(codec, frame, 2.0)
    before = mean.mean()
    for hostile in (frame[:-1], frame + b"0", bytes(len(frame)), b""):
        with pytest.raises(CodecError):
            mean.add_frame(codec, hostile, 1.0)
    with pytest.raises(ValueError, match="positive and finite"):
        mean.add_frame(codec, frame, float("nan"))
    assert mean.total_weight == 2.0
    assert torch.equal(mean.mean(), before)
