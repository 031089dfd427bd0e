import pytest
import torch
from torch import nn

from optim.inner import adamw, learning_rate


def rate(step: int) -> float:
    return learning_rate(step, peak=4e-4, warmup_steps=10, total_steps=110, final_frac=0.1)


def test_warmup_is_linear_and_never_zero() -> None:
    assert [rate(t) for t in range(10)] == pytest.approx([4e-5 * (t + 1) for t in range(10)])


def test_cosine_falls_from_the_peak_to_the_final_rate_and_stays() -> None:
    assert rate(10) == pytest.approx(4e-4)
    assert rate(60) == pytest.approx(4e-4 * 0.55)  # halfway between 1 and 0.1
    decay = [rate(t) for t in range(10, 120)]
    assert decay == sorted(decay, reverse=True)
    assert rate(110) == rate(10**6) == pytest.approx(4e-5)


def test_no_warmup_and_nothing_but_warmup() -> None:
    assert learning_rate(0, peak=1.0, warmup_steps=0, total_steps=5) == 1.0
    assert learning_rate(4, peak=1.0, warmup_steps=5, total_steps=5) == 1.0
    assert learning_rate(5, peak=1.0, warmup_steps=5, total_steps=5) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("step", "warmup_steps", "final_frac", "sentence"),
    [
        (-1, 1, 0.1, "step must be"),
        (0, 6, 0.1, "warmup_steps must be"),
        (0, -1, 0.1, "warmup_steps must be"),
        (0, 1, 1.5, "final_frac must be"),
    ],
)
def test_impossible_numbers_are_refused(
    step: int, warmup_steps: int, final_frac: float, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        learning_rate(
            step, peak=1.0, warmup_steps=warmup_steps, total_steps=5, final_frac=final_frac
        )


def test_only_matrices_decay_and_frozen_parameters_are_left_out() -> None:
    model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 3), nn.LayerNorm(3))
    model.get_parameter("0.weight").requires_grad_(False)
    optimizer = adamw(model, lr=0.1, betas=(0.9, 0.95), weight_decay=0.5)
    decay = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    names = {name: decay.get(id(p)) for name, p in model.named_parameters()}
    assert names == {
        "0.weight": None,
        "1.weight": 0.5,
        "1.bias": 0.0,
        "2.weight": 0.0,
        "2.bias": 0.0,
    }
    assert all(g["lr"] == 0.1 and g["betas"] == (0.9, 0.95) for g in optimizer.param_groups)


def test_a_model_of_matrices_alone_has_one_group() -> None:
    model = nn.Linear(2, 2, bias=False)
    optimizer = adamw(model, lr=0.1, betas=(0.9, 0.95), weight_decay=0.5)
    assert len(optimizer.param_groups) == 1
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
