"""DiLoCo's identities T1-T10, with the real parts put together around toy models in one process."""

import copy
from collections.abc import Callable, Iterable, Sequence

import pytest
import torch
from torch import Tensor, nn

from optim.inner import adamw
from optim.landing import rebase
from optim.layout import flatten_into, layout_of, load_from, shapes_of
from optim.merge import WeightedMean
from optim.outer.nesterov import Nesterov

DIM = 6
Gradient = Callable[[Tensor], Tensor]


def least_squares(seed: int, *, rows: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, DIM, generator=generator), torch.randn(rows, generator=generator)


def gradient_of(A: Tensor, b: Tensor) -> Gradient:
    return lambda x: A.t() @ (A @ x - b) / len(b)


def shards(k: int) -> list[Gradient]:
    return [gradient_of(*least_squares(seed)) for seed in range(k)]


def inner_sgd(theta: Tensor, gradient: Gradient, steps: int, lr: float = 0.05) -> Tensor:
    for _ in range(steps):
        theta = theta - lr * gradient(theta)
    return theta


def average_of(rule: Nesterov, anchor: Tensor, thetas: Iterable[Tensor]) -> Tensor:
    mean = WeightedMean(anchor.numel())
    for theta in thetas:
        mean.add(rule.outgoing(anchor, theta).flatten(), 1.0)
    return mean.mean().view(rule.lanes, -1)


def diloco(
    rule: Nesterov,
    gradients: Sequence[Gradient],
    *,
    rounds: int,
    H: int,
    deaf: dict[int, int] | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Return the anchor and live parameters; in round r, replica deaf[r] is cut off."""
    anchor = torch.zeros(DIM)
    state = rule.init_state(DIM)
    thetas = [anchor.clone() for _ in gradients]
    for r in range(rounds):
        thetas = [inner_sgd(t, g, H) for t, g in zip(thetas, gradients, strict=True)]
        heard = [i for i in range(len(thetas)) if (deaf or {}).get(r) != i]
        average = average_of(rule, anchor, [thetas[i] for i in heard])
        anchor, state = rule.step(anchor, average, state)
        for i in heard:
            rebase(thetas[i], anchor, base=thetas[i].clone())
    return anchor, thetas


def test_t1_outer_sgd_with_lr_one_is_fedavg() -> None:
    gradients = shards(4)
    theta = torch.zeros(DIM)
    for _ in range(5):
        theta = torch.stack([inner_sgd(theta, g, 7) for g in gradients]).mean(0)
    anchor, _ = diloco(Nesterov(lr=1, momentum=0), gradients, rounds=5, H=7)
    torch.testing.assert_close(anchor, theta)


def test_t2_one_inner_step_is_data_parallel_sgd() -> None:
    data = [least_squares(seed) for seed in range(4)]
    union = gradient_of(torch.cat([A for A, _ in data]), torch.cat([b for _, b in data]))
    anchor, _ = diloco(
        Nesterov(lr=1, momentum=0), [gradient_of(A, b) for A, b in data], rounds=40, H=1
    )
    torch.testing.assert_close(anchor, inner_sgd(torch.zeros(DIM), union, 40))


def test_t3_one_round_is_a_model_soup() -> None:
    gradients = shards(3)
    soup = torch.stack([inner_sgd(torch.zeros(DIM), g, 30) for g in gradients]).mean(0)
    anchor, _ = diloco(Nesterov(lr=1, momentum=0), gradients, rounds=1, H=30)
    torch.testing.assert_close(anchor, soup)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_t4_replicas_with_equal_data_are_one_replica_to_the_bit(k: int) -> None:
    (gradient,) = shards(1)
    alone, _ = diloco(Nesterov(), [gradient], rounds=6, H=5)
    together, thetas = diloco(Nesterov(), [gradient] * k, rounds=6, H=5)
    assert torch.equal(together, alone)
    assert all(torch.equal(t, alone) for t in thetas)


def test_t5_alone_without_momentum_is_lookahead() -> None:
    (gradient,) = shards(1)
    slow = torch.zeros(DIM)
    for _ in range(8):
        slow = slow + 0.5 * (inner_sgd(slow, gradient, 5) - slow)
    anchor, _ = diloco(Nesterov(lr=0.5, momentum=0), [gradient], rounds=8, H=5)
    torch.testing.assert_close(anchor, slow)


class Replica:
    """A toy model with real AdamW and its own data, landing through the flat vector."""

    def __init__(self, model: nn.Module, data_seed: int) -> None:
        self.model = copy.deepcopy(model)
        self.layout = layout_of(shapes_of(model), num_fragments=2)
        self.new_optimizer()
        self.data = torch.Generator().manual_seed(data_seed)

    def new_optimizer(self) -> None:
        self.optimizer = adamw(self.model, lr=0.02, betas=(0.9, 0.99), weight_decay=0.1)

    def train(self, steps: int) -> None:
        for _ in range(steps):
            x = torch.randn(8, 3, generator=self.data)
            loss = (self.model(x) - x.sum(1, keepdim=True)).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def theta(self) -> Tensor:
        flat = torch.empty(self.layout.num_elements)
        flatten_into(flat, self.layout, self.model)
        return flat

    def land(self, anchor: Tensor) -> None:
        theta = self.theta()
        rebase(theta, anchor, base=theta.clone())
        load_from(theta, self.layout, self.model)


def toy_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def train_in_rounds(rule: Nesterov, replicas: Sequence[Replica], rounds: int, H: int) -> Tensor:
    anchor = replicas[0].theta()
    state = rule.init_state(anchor.numel())
    for _ in range(rounds):
        for replica in replicas:
            replica.train(H)
        average = average_of(rule, anchor, [r.theta() for r in replicas])
        anchor, state = rule.step(anchor, average, state)
        for replica in replicas:
            replica.land(anchor)
    return anchor


def test_t6_alone_with_outer_sgd_is_plain_adamw() -> None:
    plain, synced, reset = (Replica(toy_model(), data_seed=1) for _ in range(3))
    plain.train(40)
    train_in_rounds(Nesterov(lr=1, momentum=0), [synced], rounds=8, H=5)
    for _ in range(8):  # the bug that this identity catches
        reset.new_optimizer()
        reset.train(5)
    torch.testing.assert_close(synced.theta(), plain.theta(), rtol=0, atol=2e-5)
    assert (reset.theta() - plain.theta()).abs().max() > 1e-2


def test_t8_after_a_landing_replicas_are_equal_and_adam_states_are_not() -> None:
    replicas = [Replica(toy_model(), data_seed=s) for s in range(3)]
    anchor = train_in_rounds(Nesterov(), replicas, rounds=3, H=4)
    assert all(torch.equal(r.theta(), anchor) for r in replicas)
    moments = [
        r.optimizer.state[r.model.get_parameter("0.weight")]["exp_avg"].clone() for r in replicas
    ]
    assert not torch.equal(moments[0], moments[1])
    assert not torch.equal(moments[1], moments[2])
    steps = {int(s["step"]) for r in replicas for s in r.optimizer.state.values()}
    assert steps == {12}


def test_t9_weights_by_examples_give_example_weighted_fedavg() -> None:
    sizes = [5, 20, 40]
    gradients = [gradient_of(*least_squares(s, rows=n)) for s, n in enumerate(sizes)]
    rule, anchor = Nesterov(lr=1, momentum=0), torch.ones(DIM)
    thetas = torch.stack([inner_sgd(anchor, g, 10) for g in gradients])
    mean = WeightedMean(DIM)
    for theta, n in zip(thetas, sizes, strict=True):
        mean.add(rule.outgoing(anchor, theta).flatten(), n)
    anchor, _ = rule.step(anchor, mean.mean().unsqueeze(0), rule.init_state(DIM))
    expected = (torch.tensor(sizes)[:, None] * thetas).sum(0) / sum(sizes)
    torch.testing.assert_close(anchor, expected)


def test_t10_a_replica_that_is_not_heard_keeps_its_theta_and_counts_for_nothing() -> None:
    gradients = shards(3)
    anchor, thetas = diloco(Nesterov(), gradients, rounds=1, H=5, deaf={0: 2})
    without, _ = diloco(Nesterov(), gradients[:2], rounds=1, H=5)
    assert torch.equal(anchor, without)
    assert torch.equal(thetas[2], inner_sgd(torch.zeros(DIM), gradients[2], 5))
    assert torch.equal(thetas[0], anchor)


def test_t10_the_work_of_a_missed_round_travels_with_the_next() -> None:
    (gradient,) = shards(1)
    rule = Nesterov(lr=1, momentum=0)
    anchor, _ = diloco(rule, [gradient] * 2, rounds=2, H=5, deaf={0: 1})
    expected = inner_sgd(torch.zeros(DIM), gradient, 10)
    torch.testing.assert_close(anchor, expected)
