"""Mixing groups in one process: between pairs and all, and it shares their laws."""

import pytest
import torch

from optim.codec.modulo import Modulo
from optim.method import Method, merged, method_named
from optim.pairing import groups_of
from optim.swarm import LocalSwarm
from tests.unit.optim.toys import (
    AdamStep,
    Mlp,
    Point,
    copies_of,
    inner_sgd,
    moves_by,
    shards,
    train,
)

LR, ALPHA = 0.7, 0.5


def grouped(size: int, H: int = 5, *, gamma: float = LR, codec: str = "fp32") -> Method:
    return method_named(
        "noloco",
        mixing="groups",
        group_size=size,
        schedule={"interval_steps": H},
        codec={"name": codec},
        outer={"lr": LR, "momentum": ALPHA, "gamma": gamma},
    )


def anchors_of(swarm: LocalSwarm) -> torch.Tensor:
    return torch.stack([swarm.anchor(m) for m in range(len(swarm.models))])


@pytest.mark.parametrize("gamma", [LR, 0.3], ids=["one lane", "two lanes"])
@pytest.mark.parametrize(("M", "size"), [(4, 3), (7, 3), (9, 4), (8, 8)])
def test_the_mean_of_the_anchors_follows_heavy_ball(M: int, size: int, gamma: float) -> None:
    H, lr = 4, 0.05
    slopes = torch.randn(M, 6, generator=torch.Generator().manual_seed(0))
    swarm = LocalSwarm([Point() for _ in range(M)], grouped(size, H, gamma=gamma))
    mean, v = torch.zeros(6), torch.zeros(6)
    for _ in range(8):
        train(swarm, [moves_by(lambda x, slope=slope: slope, lr) for slope in slopes], H)
        v = ALPHA * v - LR * lr * H * slopes.mean(0)
        mean = mean + v
    # Groups of 3 and of 2 weigh alike: each group's pulls cancel within it.
    torch.testing.assert_close(anchors_of(swarm).mean(0), mean, rtol=1e-4, atol=1e-5)
    assert (size == M) == bool((anchors_of(swarm).std(0) < 1e-5).all())


def test_a_group_of_everybody_is_heavy_ball_diloco() -> None:
    heavyball = method_named(
        "diloco",
        schedule={"interval_steps": 6},
        outer={"rule": "heavyball", "lr": LR, "momentum": ALPHA},
    )
    swarms = [LocalSwarm(copies_of(Mlp(), 4), method) for method in (grouped(4, 6), heavyball)]
    for swarm in swarms:
        train(swarm, [AdamStep(seed) for seed in range(4)], 24)
    for m in range(4):
        torch.testing.assert_close(swarms[0].anchor(m), swarms[1].anchor(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("M", [4, 5])
def test_groups_of_two_are_pairs(M: int) -> None:
    pairs = method_named("noloco", schedule={"interval_steps": 6})
    swarms = [LocalSwarm(copies_of(Mlp(), M), method) for method in (grouped(2, 6), pairs)]
    for swarm in swarms:
        train(swarm, [AdamStep(seed) for seed in range(M)], 24)
    torch.testing.assert_close(anchors_of(swarms[0]), anchors_of(swarms[1]), rtol=1e-4, atol=1e-5)


def test_members_of_a_group_land_the_same_average() -> None:
    M, size, H = 6, 3, 5
    swarm = LocalSwarm(copies_of(Mlp(), M), grouped(size, H))
    train(swarm, [AdamStep(m) for m in range(M)], H)  # anchors were equal before
    for group in groups_of(M, size, seed=0, fragment=0, round=0):
        first, *rest = (swarm.anchor(m) for m in group)
        assert all(torch.equal(anchor, first) for anchor in rest)
    assert len({tuple(anchor.tolist()) for anchor in anchors_of(swarm)}) == 2


def test_each_sends_its_parts_and_its_average_and_nothing_else() -> None:
    M, size = 7, 4  # groups of 4 and of 3
    method = grouped(size, 4)
    swarm = LocalSwarm(copies_of(Mlp(), M), method)
    train(swarm, [AdamStep(m) for m in range(M)], 4)
    sent = [0] * M
    for group in groups_of(M, size, seed=0, fragment=0, round=0):
        parts = torch.tensor_split(torch.empty(swarm.layout.num_elements), len(group))
        sizes = [method.codec.frame_bytes(len(part)) for part in parts]
        for place, m in enumerate(group):
            sent[m] = sum(sizes) - sizes[place] + (len(group) - 1) * sizes[place]
    assert swarm.sent_bytes == sent


@pytest.mark.parametrize(("codec", "tolerance"), [("mod8", 0.02), ("mod4", 0.3)])
def test_few_bits_for_parameters_that_lie_near_each_other(codec: str, tolerance: float) -> None:
    M, H = 6, 6
    swarms = [LocalSwarm(copies_of(Mlp(), M), grouped(3, H, codec=c)) for c in ("fp32", codec)]
    assert isinstance(swarms[1].method.codec, Modulo)
    start = swarms[0].anchor()
    for swarm in swarms:
        train(swarm, [AdamStep(m) for m in range(M)], 4 * H)
    exact, coded = map(anchors_of, swarms)
    assert not torch.equal(exact, coded)
    assert float((exact - coded).norm()) < tolerance * float((exact - start).norm())
    assert sum(swarms[1].sent_bytes) < 0.52 * sum(swarms[0].sent_bytes)


def test_in_the_end_everybody_agrees_and_sooner_than_in_pairs() -> None:
    slopes = torch.randn(12, 6, generator=torch.Generator().manual_seed(1))
    spreads = []
    for method in (grouped(4, 1), method_named("noloco", schedule={"interval_steps": 1})):
        swarm = LocalSwarm([Point() for _ in slopes], method)
        train(swarm, [moves_by(lambda x, slope=slope: slope) for slope in slopes], 5)
        for _ in range(20):  # nobody trains
            swarm.step()
        spreads.append(float(anchors_of(swarm).std(0).mean()))
    assert spreads[0] < 0.3 * spreads[1]


def test_who_is_absent_stays_where_it_is_and_the_rest_of_its_group_goes_on() -> None:
    H, gradients = 5, shards(3)
    swarm = LocalSwarm(
        [Point() for _ in gradients],
        grouped(3, H),
        takes_part=lambda fragment, round, m: m != 1,
    )
    train(swarm, [moves_by(gradient) for gradient in gradients], H)
    thetas = [inner_sgd(torch.zeros(6), gradient, H) for gradient in gradients]
    of_two = LR * (thetas[0] + thetas[2]) / 2
    torch.testing.assert_close(swarm.anchor(0), of_two)
    torch.testing.assert_close(swarm.anchor(2), of_two)
    assert not swarm.anchor(1).any()
    assert swarm.sent_bytes[1] == 0


def test_weights_count_in_a_group() -> None:
    H, weights = 5, [1.0, 2.0, 5.0]
    gradients = shards(3)
    swarm = LocalSwarm([Point() for _ in gradients], grouped(3, H), weights=weights)
    train(swarm, [moves_by(gradient) for gradient in gradients], H)
    thetas = torch.stack([inner_sgd(torch.zeros(6), gradient, H) for gradient in gradients])
    expected = LR * (torch.tensor(weights)[:, None] * thetas).sum(0) / 8
    torch.testing.assert_close(swarm.anchor(), expected)


def test_groups_need_a_rule_that_draws_anchors_together() -> None:
    with pytest.raises(ValueError, match="with mixing groups anchors differ"):
        method_named("diloco", mixing="groups")
    with pytest.raises(ValueError, match="group_size must be at least 2, not 1"):
        grouped(1)
    with pytest.raises(ValueError, match="group_size is for mixing groups, not for mixing pairs"):
        method_named("noloco", group_size=4)
    assert merged("noloco", {"mixing": "groups"})["mixing"] == "groups"
    assert method_named("noloco", mixing="groups").group_size == 4
