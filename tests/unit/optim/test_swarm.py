"""What holds for every method in a swarm; the papers' identities are in files of their names."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from optim.codec.floats import Fp32
from optim.codec.frame import Frame
from optim.method import Method, method_named
from optim.outer.co2 import CO2
from optim.outer.copy import Outer
from optim.outer.eager import Eager
from optim.outer.noloco import NoLoCo
from optim.outer.plain import Plain
from optim.presets import PRESETS
from optim.schedule import Schedule
from optim.swarm import LocalSwarm
from tests.unit.optim.toys import (
    AdamStep,
    InnerStep,
    Mlp,
    Point,
    TinyTransformer,
    TokenStep,
    copies_of,
    inner_sgd,
    moves_by,
    points_of,
    shards,
    train,
)

# Rules of which each, with fp32 and no landing blended, brings a step of everybody's into the
# anchor once, if only nothing is damped or remembered.
EXACT_RULES = {
    "plain": Plain(),
    "co2": CO2(1.0, 0.0, gap="none", keep=1.0),
    "co2, half kept": CO2(1.0, 0.0, gap="none", keep=0.5),
    "co2, nothing kept": CO2(1.0, 0.0, gap="none", keep=0.0),
    "eager": Eager(1.0, 0.0),
}
ALONG_SLOPES = 12


class Slopes(nn.Module):
    """Tensors of three sizes on a tilted plane: gradients are the same everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors = nn.ParameterList([nn.Parameter(torch.zeros(n)) for n in (3, 4, 5)])


def slides_by(slope: Tensor) -> InnerStep:
    @torch.no_grad()
    def step(model: nn.Module) -> None:
        for param, part in zip(model.parameters(), torch.split(slope, [3, 4, 5]), strict=True):
            param.sub_(part)

    return step


def whole_numbers(k: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-8, 9, (k, ALONG_SLOPES), generator=generator).float()


def small(preset: str, H: int = 6, **overrides: Any) -> Method:
    tau = PRESETS[preset]["schedule"]["overlap_steps"]
    schedule = {"interval_steps": H, "overlap_steps": min(tau, H), **overrides.pop("schedule", {})}
    return method_named(preset, schedule=schedule, **overrides)


@given(
    rule=st.sampled_from(sorted(EXACT_RULES)),
    M=st.integers(1, 4),
    H=st.integers(3, 8),
    P=st.integers(1, 3),
    steps=st.integers(0, 30),
    data=st.data(),
)
def test_every_step_of_everybody_reaches_the_anchor_once(
    rule: str, M: int, H: int, P: int, steps: int, data: st.DataObject
) -> None:
    tau = data.draw(st.integers(0, H))
    method = Method("all", Schedule(H, P, tau), Fp32(), Outer(EXACT_RULES[rule]))
    slopes = whole_numbers(M)
    swarm = LocalSwarm([Slopes() for _ in range(M)], method)
    train(swarm, [slides_by(slope) for slope in slopes], steps)
    swarm.finish()
    expected = -steps * slopes.mean(0)
    for m, theta in enumerate(points_of(swarm)):
        torch.testing.assert_close(swarm.anchor(m), expected, rtol=0, atol=1e-3)
        assert torch.equal(theta, swarm.anchor())


@given(st.data())
def test_what_is_missed_is_not_lost(data: st.DataObject) -> None:
    H, P = data.draw(st.integers(3, 8)), data.draw(st.integers(1, 3))
    tau = data.draw(st.integers(0, H))
    rule = EXACT_RULES[data.draw(st.sampled_from(sorted(EXACT_RULES)))]
    missed = data.draw(st.sets(st.tuples(st.integers(0, P - 1), st.integers(0, 3))))
    slopes = whole_numbers(1)
    swarm = LocalSwarm(
        [Slopes()],
        Method("all", Schedule(H, P, tau), Fp32(), Outer(rule)),
        takes_part=lambda fragment, round, m: (fragment, round) not in missed,
    )
    train(swarm, [slides_by(slopes[0])], 7 * H + 1)
    swarm.finish()
    assert torch.equal(swarm.anchor(), -(7 * H + 1) * slopes[0])
    assert torch.equal(points_of(swarm)[0], swarm.anchor())


@pytest.mark.parametrize("tau", [0, 1, 4, 6])  # 4 is H / P + 2: two or three under way at once
@pytest.mark.parametrize("alpha", [None, 0.5])
def test_steps_after_a_departure_stay_on_top_of_the_anchor_or_are_blended(
    tau: int, alpha: float | None
) -> None:
    H, P, slopes = 6, 3, whole_numbers(2)
    method = Method("all", Schedule(H, P, tau), Fp32(), Outer(Plain()), merge_alpha=alpha)
    swarm = LocalSwarm([Slopes() for _ in slopes], method)
    inner = [slides_by(slope) for slope in slopes]
    train(swarm, inner, H + tau - 1)
    for model, step in zip(swarm.models, inner, strict=True):
        step(model)
    before = points_of(swarm)
    swarm.step()
    own = slice(0, len(swarm.layout.fragments[0]))
    anchor = swarm.anchor()[own]
    assert torch.equal(anchor, -H * slopes.mean(0)[own])  # fragment 0 has landed
    for m, theta in enumerate(points_of(swarm)):
        on_top = anchor - tau * slopes[m][own]
        blended = (before[m][own] + anchor) / 2
        torch.testing.assert_close(theta[own], on_top if alpha is None else blended)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_train_a_transformer(preset: str) -> None:
    M, H = 4, 6
    swarm = LocalSwarm(copies_of(TinyTransformer(), M), small(preset, H))
    steps = [TokenStep(seed) for seed in range(M)]
    start = swarm.anchor()
    for _ in range(4 * H):  # three departures of each fragment at least
        train(swarm, steps, 1)
        if swarm.method.mixing == "all":
            assert all(torch.equal(swarm.anchor(m), swarm.anchor(0)) for m in range(M))
    swarm.finish()
    for m in range(M):
        assert swarm.anchor(m).isfinite().all()
        assert points_of(swarm)[m].isfinite().all()
        assert not torch.equal(swarm.anchor(m), start)
    for step in steps:
        assert sum(step.losses[-4:]) < 0.95 * sum(step.losses[:4])
    assert all(sent > 0 for sent in swarm.sent_bytes)


@pytest.mark.parametrize("preset", PRESETS)
def test_equal_seeds_give_equal_bits_and_inner_steps_are_the_callers(preset: str) -> None:
    swarms = [LocalSwarm(copies_of(TinyTransformer(), 3), small(preset), seed=7) for _ in range(2)]
    for swarm in swarms:
        train(swarm, [TokenStep(seed) for seed in range(3)], 20)
        swarm.finish()
    for m in range(3):
        assert torch.equal(swarms[0].anchor(m), swarms[1].anchor(m))
    assert swarms[0].sent_bytes == swarms[1].sent_bytes


@pytest.mark.parametrize("overrides", [{"mixing": "pairs"}, {"codec": "stochastic"}])
def test_other_seeds_draw_other_pairs_and_other_rounding(overrides: dict[str, str]) -> None:
    method = small("noloco")
    if "codec" in overrides:
        method = small("diloco", codec={"name": "int4", "rounding": "stochastic"})
    anchors = []
    for seed in range(2):
        swarm = LocalSwarm(copies_of(Mlp(), 4), method, seed=seed)
        train(swarm, [AdamStep(m) for m in range(4)], 12)
        anchors.append(swarm.anchor())
    assert not torch.equal(anchors[0], anchors[1])


# ---- pairs


@pytest.mark.parametrize("M", [2, 4, 5, 8])
@pytest.mark.parametrize(("gamma", "tau"), [(0.7, 0), (0.7, 3), (0.3, 0), (0.3, 5)])
def test_n2_the_mean_of_the_anchors_follows_heavy_ball(M: int, gamma: float, tau: int) -> None:
    H, lr, alpha = 5, 0.7, 0.5
    method = method_named(
        "noloco",
        schedule={"interval_steps": H, "overlap_steps": tau},
        outer={"lr": lr, "momentum": alpha, "gamma": gamma},
    )
    slopes = whole_numbers(M) / 8
    swarm = LocalSwarm([Slopes() for _ in range(M)], method)
    mean, v = torch.zeros(ALONG_SLOPES), torch.zeros(ALONG_SLOPES)
    inner = [slides_by(slope) for slope in slopes]
    train(swarm, inner, H + tau)
    for _ in range(8):
        v = alpha * v - lr * H * slopes.mean(0)  # however the live parameters are placed
        mean = mean + v
        anchors = torch.stack([swarm.anchor(m) for m in range(M)])
        torch.testing.assert_close(anchors.mean(0), mean, rtol=1e-4, atol=1e-4)
        train(swarm, inner, H)
    last = torch.stack([swarm.anchor(m) for m in range(M)])
    assert M == 2 or (last.std(0) > 0.1).any()


def test_n1_a_pair_that_is_everybody_is_heavy_ball_diloco() -> None:
    noloco, heavyball = (
        LocalSwarm(copies_of(Mlp(), 2), small(preset, outer=outer))
        for preset, outer in (
            ("noloco", {"lr": 0.7, "momentum": 0.5, "gamma": 0.7}),
            ("diloco", {"rule": "heavyball", "lr": 0.7, "momentum": 0.5}),
        )
    )
    for swarm in (noloco, heavyball):
        train(swarm, [AdamStep(seed) for seed in range(2)], 24)
    for m in range(2):
        torch.testing.assert_close(noloco.anchor(m), heavyball.anchor(), rtol=1e-4, atol=1e-5)


def test_n7_who_has_no_partner_steps_alone() -> None:
    H, lr, alpha, (gradient,) = 5, 0.7, 0.5, shards(1)
    swarm = LocalSwarm([Point()], small("noloco", H))
    phi, delta = torch.zeros(6), torch.zeros(6)
    for _ in range(6):
        delta = alpha * delta + lr * (inner_sgd(phi, gradient, H) - phi)
        phi = phi + delta
        train(swarm, [moves_by(gradient)], H)
        torch.testing.assert_close(swarm.anchor(), phi, rtol=1e-5, atol=1e-5)
    assert swarm.sent_bytes == [0]


def test_the_partner_of_who_is_absent_steps_alone_and_the_absent_one_not_at_all() -> None:
    H, gradients = 5, shards(2)
    swarm = LocalSwarm(
        [Point() for _ in gradients],
        small("noloco", H),
        takes_part=lambda fragment, round, m: m != 1,
    )
    train(swarm, [moves_by(gradient) for gradient in gradients], H)
    alone = 0.7 * inner_sgd(torch.zeros(6), gradients[0], H)
    torch.testing.assert_close(swarm.anchor(0), alone)
    assert not swarm.anchor(1).any()
    assert torch.equal(points_of(swarm)[1], inner_sgd(torch.zeros(6), gradients[1], H))
    assert swarm.sent_bytes == [0, 0]


def test_pairs_count_the_frames_that_they_send() -> None:
    method = small("noloco", H=4, codec={"name": "mod4"})
    swarm = LocalSwarm(copies_of(Mlp(), 5), method)
    train(swarm, [AdamStep(m) for m in range(5)], 12)
    frame_bytes = method.codec.frame_bytes(swarm.layout.num_elements)
    assert sum(swarm.sent_bytes) == 3 * 4 * frame_bytes  # one of five stays alone each round
    assert all(sent % frame_bytes == 0 for sent in swarm.sent_bytes)


def test_partners_change_so_that_everybody_agrees_in_the_end() -> None:
    slopes = whole_numbers(8)
    swarm = LocalSwarm([Slopes() for _ in slopes], small("noloco", H=1))
    train(swarm, [slides_by(slope) for slope in slopes], 5)
    apart = torch.stack([swarm.anchor(m) for m in range(8)]).std(0).mean()
    for _ in range(60):  # nobody trains
        swarm.step()
    assert torch.stack([swarm.anchor(m) for m in range(8)]).std(0).mean() < 0.01 * apart


class Overheard(Fp32):
    """Notes what the two ends of a pair are told that the parameters lie near to."""

    def __init__(self) -> None:
        self.encoded: list[tuple[Tensor, Tensor]] = []
        self.decoded: list[Tensor] = []

    def encode(self, x: Tensor, *, near: Tensor | None = None, seed: int = 0) -> memoryview:
        assert near is not None
        self.encoded.append((x.clone(), near.clone()))
        return super().encode(x)

    def decode(self, frame: Frame, num_elements: int, *, near: Tensor | None = None) -> Tensor:
        assert near is not None
        self.decoded.append(near.clone())
        return super().decode(frame, num_elements)


@pytest.mark.parametrize("tau", [0, 2])
def test_a_pair_encodes_near_the_senders_anchor_and_decodes_near_the_receivers_parameters(
    tau: int,
) -> None:
    codec = Overheard()
    swarm = LocalSwarm(
        copies_of(Mlp(), 2), Method("pairs", Schedule(4, 1, tau), codec, Outer(NoLoCo()))
    )
    steps = [AdamStep(seed) for seed in range(2)]
    train(swarm, steps, 4 + tau)  # now anchors are no longer where they began
    train(swarm, steps, 3 - tau)
    for model, step in zip(swarm.models, steps, strict=True):
        step(model)
    anchors, thetas = [swarm.anchor(m) for m in range(2)], points_of(swarm)
    swarm.step()
    for m, (sent, near) in enumerate(codec.encoded[2:]):
        assert torch.equal(sent, thetas[m])
        assert torch.equal(near, anchors[m])
    near_of_each = [thetas[0], thetas[0], thetas[1], thetas[1]]
    assert all(torch.equal(a, b) for a, b in zip(codec.decoded[4:], near_of_each, strict=True))


# ---- what a codec leaves out


class Halves(Fp32):
    """Loses one half of everything, but nothing of an average."""

    def encode(self, x: Tensor, *, near: Tensor | None = None, seed: int = 0) -> memoryview:
        return super().encode(x / 2)

    def for_average(self, num_contributions: int) -> Fp32:
        return Fp32()


class HalvesAverages(Fp32):
    def for_average(self, num_contributions: int) -> Fp32:
        return Halves()


def test_an_average_is_used_as_its_codec_delivers_it() -> None:
    slopes = whole_numbers(2)
    method = Method("all", Schedule(4, 1), HalvesAverages(), Outer(Plain()))
    swarm = LocalSwarm([Slopes() for _ in slopes], method)
    train(swarm, [slides_by(slope) for slope in slopes], 4)
    torch.testing.assert_close(swarm.anchor(), -4 * slopes.mean(0) / 2)
    assert torch.equal(swarm.anchor(0), swarm.anchor(1))


@pytest.mark.parametrize("rule", [rule for rule in EXACT_RULES if rule != "eager"])
@pytest.mark.parametrize("M", [2, 3])
def test_with_feedback_what_the_codec_left_out_is_owed(rule: str, M: int) -> None:
    outer = Outer(EXACT_RULES[rule], feedback=1.0)
    swarm = LocalSwarm(
        [Slopes() for _ in range(M)], Method("all", Schedule(4, 2, 3), Halves(), outer)
    )
    slopes = whole_numbers(M)
    train(swarm, [slides_by(slope) for slope in slopes], 22)
    swarm.finish()
    owed = [torch.cat([copy.own["residual"] for copy in copies]) for copies in swarm.copies]
    assert all(residual.any() for residual in owed)
    in_all = torch.stack(owed).mean(0) - swarm.anchor()
    torch.testing.assert_close(in_all, 22 * slopes.mean(0), rtol=0, atol=1e-3)


# ---- who is there, and how much they count


@pytest.mark.parametrize("preset", PRESETS)
def test_a_round_that_everybody_misses_changes_nothing(preset: str) -> None:
    H = 6
    swarm = LocalSwarm(
        copies_of(TinyTransformer(), 2), small(preset, H), takes_part=lambda *place: False
    )
    start = swarm.anchor()
    train(swarm, [TokenStep(seed) for seed in range(2)], 4 * H)
    swarm.finish()
    assert torch.equal(swarm.anchor(), start)
    alone, step = TinyTransformer(), TokenStep(0)
    for _ in range(4 * H):
        step(alone)
    assert torch.equal(
        points_of(swarm)[0],
        torch.cat([alone.get_parameter(e.name).detach().reshape(-1) for e in swarm.layout.entries]),
    )
    assert swarm.sent_bytes == [0, 0]


def test_takes_part_is_asked_once_for_each_fragment_round_and_replica() -> None:
    asked: list[tuple[int, int, int]] = []

    def takes_part(fragment: int, round: int, replica: int) -> bool:
        asked.append((fragment, round, replica))
        return True

    method = Method("all", Schedule(4, 2), Fp32(), Outer(Plain()))
    swarm = LocalSwarm([Slopes() for _ in range(3)], method, takes_part=takes_part)
    train(swarm, [slides_by(slope) for slope in whole_numbers(3)], 10)
    # At steps 4, 6, 8 and 10.
    assert asked == [(p, r, m) for r in range(2) for p in range(2) for m in range(3)]


def test_eager_shares_are_those_of_the_weights() -> None:
    weights, lr = [1.0, 3.0], 0.5
    method = method_named(
        "eager",
        schedule={"interval_steps": 4, "overlap_steps": 4},
        outer={"lr": lr, "momentum": 0.0, "own_share": 0.0},
    )
    slopes = whole_numbers(2)
    swarm = LocalSwarm([Slopes() for _ in slopes], method, weights=weights)
    train(swarm, [slides_by(slope) for slope in slopes], 4)
    for theta, slope, weight in zip(points_of(swarm), slopes, weights, strict=True):
        torch.testing.assert_close(theta, -lr * weight / 4 * 4 * slope)


# ---- the end


@pytest.mark.parametrize("preset", PRESETS)
def test_finish_leaves_nothing_under_way(preset: str) -> None:
    H = 6
    swarm = LocalSwarm(copies_of(TinyTransformer(), 2), small(preset, H))
    train(swarm, [TokenStep(seed) for seed in range(2)], 2 * H + 2)
    swarm.finish()
    anchors, thetas, sent = swarm.anchor(), points_of(swarm), list(swarm.sent_bytes)
    swarm.finish()
    while not swarm.method.schedule.departures(swarm.steps + 1):
        swarm.step()
    assert torch.equal(swarm.anchor(), anchors)
    assert all(torch.equal(a, b) for a, b in zip(points_of(swarm), thetas, strict=True))
    assert swarm.sent_bytes == sent


@pytest.mark.parametrize("preset", ["diloco", "noloco", "eager", "co2"])
def test_finish_after_a_whole_round_adds_no_step_of_mere_momentum(preset: str) -> None:
    H, gradients = 5, shards(2)
    swarms = [LocalSwarm([Point() for _ in gradients], small(preset, H)) for _ in range(2)]
    inner = [moves_by(gradient) for gradient in gradients]
    for swarm in swarms:
        train(swarm, inner, 4 * H)
    swarms[0].finish()
    for _ in range(swarms[1].method.schedule.overlap_steps):  # what is under way lands in its turn
        swarms[1].step()
    for m in range(2):
        assert torch.equal(swarms[0].anchor(m), swarms[1].anchor(m))


@pytest.mark.parametrize("preset", PRESETS)
def test_training_can_go_on_after_finish(preset: str) -> None:
    H = 6
    swarm = LocalSwarm(copies_of(TinyTransformer(), 2), small(preset, H))
    steps = [TokenStep(seed) for seed in range(2)]
    train(swarm, steps, 2 * H + 1)
    swarm.finish()
    finished = swarm.anchor()
    train(swarm, steps, 2 * H)
    swarm.finish()
    assert swarm.anchor().isfinite().all()
    assert not torch.equal(swarm.anchor(), finished)


# ---- models of other kinds


def test_fragments_with_fewer_elements_than_replicas_are_averaged_too() -> None:
    method = Method("all", Schedule(4, 3), Fp32(), Outer(Plain()))
    slopes = whole_numbers(8)
    swarm = LocalSwarm([Slopes() for _ in slopes], method)
    train(swarm, [slides_by(slope) for slope in slopes], 8)
    swarm.finish()
    torch.testing.assert_close(swarm.anchor(), -8 * slopes.mean(0), rtol=0, atol=1e-4)


class HalfFrozen(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.trained = nn.Parameter(torch.zeros(2))
        self.frozen = nn.Parameter(torch.full((2,), value), requires_grad=False)
        self.register_buffer("seen", torch.full((2,), value))


def test_frozen_parameters_and_buffers_stay_with_their_replica() -> None:
    @torch.no_grad()
    def inner(model: nn.Module) -> None:
        model.get_parameter("trained").copy_(model.get_parameter("frozen"))

    swarm = LocalSwarm(
        [HalfFrozen(1.0), HalfFrozen(3.0)],
        Method("all", Schedule(1, 1), Fp32(), Outer(Plain())),
    )
    train(swarm, [inner, inner], 1)
    assert [m.get_parameter("trained").tolist() for m in swarm.models] == [[2.0, 2.0]] * 2
    assert [m.get_parameter("frozen").tolist() for m in swarm.models] == [[1.0] * 2, [3.0] * 2]
    assert [m.get_buffer("seen").tolist() for m in swarm.models] == [[1.0] * 2, [3.0] * 2]


def test_bf16_models_have_anchors_in_fp32() -> None:
    swarm = LocalSwarm([m.bfloat16() for m in copies_of(Mlp(), 2)], small("diloco", H=4))

    @torch.no_grad()
    def inner(model: nn.Module) -> None:
        for param in model.parameters():
            param.sub_(0.01)

    train(swarm, [inner, inner], 8)
    assert swarm.anchor().dtype == torch.float32
    assert all(p.dtype == torch.bfloat16 for m in swarm.models for p in m.parameters())
    assert torch.equal(points_of(swarm)[0].float(), swarm.anchor().bfloat16().float())


def test_weights_for_some_replicas_only_are_refused() -> None:
    model = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="weights for all or none"):
        LocalSwarm([model, model], method_named("diloco"), weights=[1.0])
    with pytest.raises(ValueError, match="needs models"):
        LocalSwarm([], method_named("diloco"))
