"""DiLoCo's identities T1-T10, with the real parts put together around toy models in one process.

T7, the response to an impulse, is a matter of the outer rule: see test_nesterov, test_heavyball.
"""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from optim.method import Method, method_named
from optim.swarm import LocalSwarm
from tests.unit.optim.toys import (
    DIM,
    AdamStep,
    Gradient,
    Mlp,
    Point,
    copies_of,
    data_of,
    gradient_of,
    inner_sgd,
    moves_by,
    points_of,
    shards,
    train,
)


def diloco(H: int, lr: float = 0.7, momentum: float = 0.9) -> Method:
    return method_named(
        "diloco", schedule={"interval_steps": H}, outer={"lr": lr, "momentum": momentum}
    )


def trained(
    gradients: Sequence[Gradient], method: Method, steps: int, *, start: Tensor | None = None
) -> LocalSwarm:
    swarm = LocalSwarm([Point(start) for _ in gradients], method)
    train(swarm, [moves_by(gradient) for gradient in gradients], steps)
    return swarm


def mean_after(x: Tensor, gradients: Sequence[Gradient], H: int) -> Tensor:
    return torch.stack([inner_sgd(x, gradient, H) for gradient in gradients]).mean(0)


def test_equals_torch_sgd_on_the_mean_pseudo_gradient() -> None:
    gradients, H = shards(4), 7
    Theta = nn.Parameter(torch.zeros(DIM))
    outer = torch.optim.SGD([Theta], lr=0.7, momentum=0.9, nesterov=True)
    swarm = trained(gradients, diloco(H), 0)
    for _ in range(10):
        Theta.grad = Theta.detach() - mean_after(Theta.detach(), gradients, H)
        outer.step()
        train(swarm, [moves_by(gradient) for gradient in gradients], H)
        torch.testing.assert_close(swarm.anchor(), Theta.detach(), rtol=1e-5, atol=1e-5)


def test_t1_outer_sgd_with_lr_one_is_fedavg() -> None:
    gradients, x = shards(4), torch.zeros(DIM)
    for _ in range(5):
        x = mean_after(x, gradients, 7)
    torch.testing.assert_close(trained(gradients, diloco(7, 1.0, 0.0), 35).anchor(), x)


def test_t2_one_inner_step_is_data_parallel_sgd() -> None:
    data = [data_of(seed) for seed in range(4)]
    union = gradient_of(torch.cat([A for A, _ in data]), torch.cat([b for _, b in data]))
    swarm = trained([gradient_of(A, b) for A, b in data], diloco(1, 1.0, 0.0), 40)
    torch.testing.assert_close(swarm.anchor(), inner_sgd(torch.zeros(DIM), union, 40))


def test_t3_one_round_is_a_model_soup() -> None:
    gradients = shards(3)
    swarm = trained(gradients, diloco(30, 1.0, 0.0), 30)
    torch.testing.assert_close(swarm.anchor(), mean_after(torch.zeros(DIM), gradients, 30))


@pytest.mark.parametrize("k", [2, 3, 5])
def test_t4_replicas_with_equal_data_are_one_replica_to_the_bit(k: int) -> None:
    (gradient,) = shards(1)
    alone, together = trained([gradient], diloco(5), 30), trained([gradient] * k, diloco(5), 30)
    assert torch.equal(together.anchor(), alone.anchor())
    assert all(torch.equal(theta, points_of(alone)[0]) for theta in points_of(together))


def test_t5_alone_without_momentum_is_lookahead() -> None:
    (gradient,) = shards(1)
    slow = torch.zeros(DIM)
    for _ in range(8):
        slow = slow + 0.5 * (inner_sgd(slow, gradient, 5) - slow)
    torch.testing.assert_close(trained([gradient], diloco(5, 0.5, 0.0), 40).anchor(), slow)


def test_t6_alone_with_outer_sgd_is_plain_adamw() -> None:
    plain, reset = copies_of(Mlp(), 2)
    step = AdamStep(data_seed=1)
    for _ in range(40):
        step(plain)
    step = AdamStep(data_seed=1)
    for t in range(40):
        if t % 5 == 0:
            step.optimizer = None  # the bug that this identity catches
        step(reset)
    swarm = LocalSwarm([Mlp()], diloco(5, 1.0, 0.0))
    train(swarm, [AdamStep(data_seed=1)], 40)
    expected, wrong = (nn.utils.parameters_to_vector(m.parameters()) for m in (plain, reset))
    torch.testing.assert_close(points_of(swarm)[0], expected.detach(), rtol=0, atol=2e-5)
    assert (wrong - expected).abs().max() > 1e-2


def test_t8_after_a_landing_replicas_are_equal_and_adam_states_are_not() -> None:
    swarm = LocalSwarm(copies_of(Mlp(), 3), diloco(4))
    steps = [AdamStep(data_seed=seed) for seed in range(3)]
    train(swarm, steps, 12)
    assert all(torch.equal(theta, swarm.anchor()) for theta in points_of(swarm))
    states = [
        step.optimizer.state[model.get_parameter("0.weight")]
        for step, model in zip(steps, swarm.models, strict=True)
        if step.optimizer
    ]
    moments = [state["exp_avg"] for state in states]
    assert not torch.equal(moments[0], moments[1])
    assert not torch.equal(moments[1], moments[2])
    assert [int(state["step"]) for state in states] == [12, 12, 12]


def test_t9_weights_by_examples_give_example_weighted_fedavg() -> None:
    sizes = [5, 20, 40]
    gradients = [gradient_of(*data_of(s, rows=n)) for s, n in enumerate(sizes)]
    x = torch.zeros(DIM)
    for _ in range(4):
        ends = torch.stack([inner_sgd(x, gradient, 10) for gradient in gradients])
        x = (torch.tensor(sizes)[:, None] * ends).sum(0) / sum(sizes)
    swarm = LocalSwarm([Point() for _ in sizes], diloco(10, 1.0, 0.0), weights=sizes)
    train(swarm, [moves_by(gradient) for gradient in gradients], 40)
    torch.testing.assert_close(swarm.anchor(), x)


def test_t10_who_is_not_heard_counts_for_nothing_and_keeps_its_work() -> None:
    gradients, H = shards(3), 5
    swarm = LocalSwarm(
        [Point() for _ in gradients], diloco(H), takes_part=lambda fragment, round, m: m != 2
    )
    train(swarm, [moves_by(gradient) for gradient in gradients], H)
    without = trained(gradients[:2], diloco(H), H).anchor()
    work = inner_sgd(torch.zeros(DIM), gradients[2], H)
    assert all(torch.equal(swarm.anchor(m), without) for m in range(3))
    torch.testing.assert_close(points_of(swarm)[2], without + work)
    assert torch.equal(points_of(swarm)[0], without)


def test_t10_the_work_of_a_missed_round_travels_with_the_next() -> None:
    gradients, H = shards(2), 5
    swarm = LocalSwarm(
        [Point() for _ in gradients],
        diloco(H, 1.0, 0.0),
        takes_part=lambda fragment, round, m: (round, m) != (0, 1),
    )
    train(swarm, [moves_by(gradient) for gradient in gradients], 2 * H)
    first = inner_sgd(torch.zeros(DIM), gradients[0], H)
    missed = inner_sgd(torch.zeros(DIM), gradients[1], H)
    ends = [inner_sgd(first, gradients[0], H), inner_sgd(first + missed, gradients[1], H)]
    torch.testing.assert_close(swarm.anchor(), torch.stack(ends).mean(0))
