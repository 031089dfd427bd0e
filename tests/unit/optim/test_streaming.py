"""Streaming DiLoCo's identities S1-S6 and S8; the schedule's part of S4 is in test_schedule."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optim.codec.codec import codec_named
from optim.codec.frame import HEADER_BYTES
from optim.live import LiveModel
from optim.method import Method, method_named
from optim.swarm import LocalSwarm
from tests.unit.optim.toys import (
    DIM,
    AdamStep,
    InnerStep,
    Mlp,
    TinyTransformer,
    TokenStep,
    copies_of,
    inner_sgd,
    points_of,
    shards,
    train,
)


def streaming(H: int, *, codec: str = "fp32", **schedule: Any) -> Method:
    plain = {"pattern": "balanced", "separate_embeddings": False}
    return method_named(
        "streaming",
        schedule={**plain, "interval_steps": H, **schedule},
        codec={"name": codec},
        outer={"lr": 0.4, "momentum": 0.9},
    )


def test_s1_one_fragment_without_overlap_and_alpha_is_diloco_to_the_bit() -> None:
    diloco = method_named(
        "diloco", schedule={"interval_steps": 4}, outer={"lr": 0.4, "momentum": 0.9}
    )
    swarms = [
        LocalSwarm(copies_of(Mlp(), 3), method)
        for method in (streaming(4, fragments=1, overlap_steps=0, merge_alpha=0.0), diloco)
    ]
    for swarm in swarms:
        train(swarm, [AdamStep(seed) for seed in range(3)], 18)
    assert torch.equal(swarms[0].anchor(), swarms[1].anchor())
    for one, other in zip(points_of(swarms[0]), points_of(swarms[1]), strict=True):
        assert torch.equal(one, other)


def test_s2_with_alpha_one_replicas_train_alone_while_anchors_move() -> None:
    method = streaming(4, fragments=2, overlap_steps=1, merge_alpha=1.0)
    swarm = LocalSwarm(copies_of(Mlp(), 2), method)
    start = swarm.anchor()
    train(swarm, [AdamStep(seed) for seed in range(2)], 18)
    for seed, theta in enumerate(points_of(swarm)):
        (alone,), step = copies_of(Mlp(), 1), AdamStep(seed)
        for _ in range(18):
            step(alone)
        assert torch.equal(theta, nn.utils.parameters_to_vector(alone.parameters()).detach())
    assert not torch.equal(swarm.anchor(), start)
    assert torch.equal(swarm.anchor(0), swarm.anchor(1))


class TwoPoints(nn.Module):
    """Two vectors, each with a loss of its own: a separable problem in two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ParameterList([nn.Parameter(torch.zeros(DIM)) for _ in range(2)])


def test_s3_fragments_of_a_separable_loss_are_dilocos_shifted_by_their_offsets() -> None:
    H, lr, mu, M = 6, 0.4, 0.9, 3
    gradients = [shards(2 * M)[:M], shards(2 * M)[M:]]  # by block and replica

    def inner(m: int) -> InnerStep:
        @torch.no_grad()
        def step(model: nn.Module) -> None:
            for block in range(2):
                x = model.get_parameter(f"blocks.{block}")
                x.sub_(0.05 * gradients[block][m](x))

        return step

    method = streaming(H, fragments=2, overlap_steps=0, merge_alpha=0.0, pattern="sequential")
    swarm = LocalSwarm([TwoPoints() for _ in range(M)], method)
    expected: list[list[Tensor]] = []
    for block, offset in enumerate((0, H // 2)):
        Theta = nn.Parameter(torch.zeros(DIM))
        outer = torch.optim.SGD([Theta], lr=lr, momentum=mu, nesterov=True)
        path = [Theta.detach().clone()] * (H + offset)
        for round in range(5):
            start = Theta.detach()
            steps = H + offset if round == 0 else H
            ends = [inner_sgd(start, gradient, steps) for gradient in gradients[block]]
            Theta.grad = start - torch.stack(ends).mean(0)
            outer.step()
            path += [Theta.detach().clone()] * H
        expected.append(path)
    for t in range(1, 5 * H):
        train(swarm, [inner(m) for m in range(M)], 1)
        now = torch.cat([expected[0][t], expected[1][t]])
        torch.testing.assert_close(swarm.anchor(), now, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tau", [1, 3, 4])
def test_s5_anchors_are_equal_whenever_the_averages_arrive(tau: int) -> None:
    # Replica m hears m steps late, and trains on in the meantime.
    method = streaming(4, fragments=1, overlap_steps=tau)
    lives = [LiveModel(model, method) for model in copies_of(Mlp(), 3)]
    steps = [AdamStep(seed) for seed in range(3)]
    for _ in range(3):
        for live, step in zip(lives, steps, strict=True):
            for _ in range(4):
                step(live.model)
        underway = [live.depart(0, share=1 / 3) for live in lives]
        average = torch.stack([u.departure.contribution for u in underway]).mean(0)
        for m, live in enumerate(lives):
            for _ in range(m):
                steps[m](live.model)
            live.land(0, average, underway[m])
        assert all(torch.equal(live.anchor(), lives[0].anchor()) for live in lives)
    assert not torch.equal(lives[0].theta(0), lives[1].theta(0))


@pytest.mark.parametrize("codec", ["fp32", "int4", "e3m0"])
def test_s5_anchors_are_equal_after_every_step(codec: str) -> None:
    method = streaming(4, codec=codec, fragments=2, overlap_steps=3)
    swarm = LocalSwarm(
        copies_of(Mlp(), 3),
        method,
        weights=[1, 2, 5],
        takes_part=lambda fragment, round, m: (fragment + round) % 4 != m,
    )
    steps = [AdamStep(seed) for seed in range(3)]
    for _ in range(25):
        train(swarm, steps, 1)
        assert all(torch.equal(swarm.anchor(m), swarm.anchor(0)) for m in range(3))


@pytest.mark.parametrize("tau", [0, 1, 3])
@pytest.mark.parametrize("alpha", [0.5, 0.25])
def test_s6_a_merge_is_the_weighted_sum_and_equal_replicas_stay_equal(
    tau: int, alpha: float
) -> None:
    H = 4
    method = streaming(H, fragments=1, overlap_steps=tau, merge_alpha=alpha)
    swarm = LocalSwarm(copies_of(Mlp(), 3), method)
    steps = [AdamStep(0) for _ in range(3)]
    train(swarm, steps, H + tau - 1)
    for model, step in zip(swarm.models, steps, strict=True):
        step(model)
    before = points_of(swarm)
    swarm.step()
    expected = alpha * before[0] + (1 - alpha) * swarm.anchor()
    for theta in points_of(swarm):
        torch.testing.assert_close(theta, expected)
        assert torch.equal(theta, points_of(swarm)[0])
    assert not torch.allclose(expected, before[0])
    train(swarm, steps, 3 * H)
    assert all(torch.equal(theta, points_of(swarm)[0]) for theta in points_of(swarm))


@pytest.mark.parametrize("codec", ["fp32", "bf16", "int8", "int4", "e3m0"])
@pytest.mark.parametrize("M", [1, 2, 3, 4])
def test_s8_every_byte_is_counted(codec: str, M: int) -> None:
    H, method = 6, method_named("streaming", schedule={"interval_steps": 6}, codec={"name": codec})
    swarm = LocalSwarm(copies_of(TinyTransformer(), M), method)
    steps = [TokenStep(seed) for seed in range(M)]
    sent = []
    for _ in range(5 * H):
        before = list(swarm.sent_bytes)
        train(swarm, steps, 1)
        sent.append([now - then for now, then in zip(swarm.sent_bytes, before, strict=True)])
    # Each reduces one part of the fragment: it sends the others theirs, and its average to all.
    frame_bytes, expected = codec_named(codec).frame_bytes, [0] * M
    peak = 0
    for fragment in swarm.layout.fragments:
        bounds = [len(part) for part in torch.arange(len(fragment)).tensor_split(M)]
        message = [
            sum(frame_bytes(n) for i, n in enumerate(bounds) if i != m)
            + (M - 1) * frame_bytes(bounds[m])
            for m in range(M)
        ]
        expected = [a + b for a, b in zip(expected, message, strict=True)]
        peak = max(peak, *message)
    window = [sum(step[m] for step in sent[3 * H : 4 * H]) for m in range(M)]
    assert window == expected
    assert max(max(step) for step in sent) == peak


def test_s8_two_replicas_send_each_parameter_once() -> None:
    H, method = 6, method_named("streaming", schedule={"interval_steps": 6}, codec={"name": "fp32"})
    swarm = LocalSwarm(copies_of(TinyTransformer(), 2), method)
    train(swarm, [TokenStep(seed) for seed in range(2)], 3 * H)
    before = swarm.sent_bytes[0]
    train(swarm, [TokenStep(seed) for seed in range(2)], H)
    frames = 2 * len(swarm.layout.fragments)
    sent = swarm.sent_bytes[0] - before
    assert sent == pytest.approx(4 * swarm.layout.num_elements + frames * HEADER_BYTES, abs=12)
