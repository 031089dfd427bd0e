"""A model of somebody's own as a replica: what lands, what is saved, and what is refused."""

import gc
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peer.loop.learner import ModelLearner
from peer.train.lines import Save, Saved, Staged
from peer.train.saver import Saver
from peer.train.tensor_file import read_tensors, write_tensors
from protocol.errors import ConfigError
from protocol.manifest import Manifest
from tests.unit.peer.loop.conftest import a_model

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class Counting(torch.optim.Optimizer):
    """An optimizer that counts as some do: with Python's numbers, and None for what is absent."""

    def __init__(self, params: list[nn.Parameter]) -> None:
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for param in group["params"]:
                state = self.state[param]
                state["steps"] = state.get("steps", 0) + 1
                state["decay"] = 1.0 / state["steps"]
                state["nothing"] = None
                param.sub_(group["lr"] * state["decay"] * param.grad)


OPTIMIZERS: dict[str, Make] = {
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.01),
    "amsgrad": lambda params: torch.optim.Adam(params, lr=0.01, amsgrad=True),
    "momentum": lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.9),
    "plain": lambda params: torch.optim.SGD(params, lr=0.01),
    "counting": Counting,
}


class Loop:
    """A model, its optimizer, and the learner that looks after them."""

    def __init__(
        self, manifest: Manifest, make: Make = OPTIMIZERS["adamw"], *, seed: int = 0, **options: Any
    ) -> None:
        self.model = a_model(seed)
        self.optimizer = make(list(self.model.parameters()))
        self.learner = ModelLearner(self.model, self.optimizer, manifest, **options)

    def train(self, steps: int) -> None:
        for _ in range(steps):
            generator = torch.Generator().manual_seed(self.learner.step)
            x = torch.randn(8, 4, generator=generator)
            loss = (self.model(x) - x.sum(dim=1, keepdim=True)).square().mean()
            self.optimizer.zero_grad()
            torch.autograd.backward(loss)
            self.optimizer.step()
            self.learner.count(8, loss)
            self.learner.train_step()

    def theta(self) -> Tensor:
        flat = torch.empty(self.learner.layout.num_elements)
        self.learner.snapshot(flat)
        return flat


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(
    manifest: Manifest, tmp_path: Path, name: str
) -> None:
    first, second = Loop(manifest, OPTIMIZERS[name]), Loop(manifest, OPTIMIZERS[name], seed=1)
    first.train(5)
    write_tensors(tmp_path / "inner.safetensors", first.learner.state())
    second.train(2)  # which is forgotten
    second.learner.restore(read_tensors(tmp_path / "inner.safetensors"))
    assert (second.learner.step, second.learner.tokens) == (5, 40)
    for loop in (first, second):
        loop.train(3)
    assert torch.equal(first.theta(), second.theta())
    for ours, theirs in zip(first.model.buffers(), second.model.buffers(), strict=True):
        assert torch.equal(ours, theirs)  # of BatchNorm


def test_an_anchor_lands_to_the_bit_and_the_steps_since_departure_stay(manifest: Manifest) -> None:
    loop = Loop(manifest)
    base = loop.theta()
    anchor = torch.randn(len(base), generator=torch.Generator().manual_seed(1))
    buffers = [buffer.clone() for buffer in loop.model.buffers()]
    spans = [slice(span.start, span.stop) for span in loop.learner.layout.fragments]
    loop.learner.land(0, anchor, base)
    assert torch.equal(loop.theta()[spans[0]], anchor[spans[0]])
    assert torch.equal(loop.theta()[spans[1]], base[spans[1]])
    assert all(map(torch.equal, loop.model.buffers(), buffers))  # they are each peer's own
    loop.train(3)
    drift = loop.theta() - base
    loop.learner.land(1, anchor, base)
    expected = anchor + drift
    torch.testing.assert_close(loop.theta()[spans[1]], expected[spans[1]])


def test_a_blend_is_between_theta_and_anchor(manifest: Manifest) -> None:
    loop = Loop(manifest)
    theta = loop.theta()
    loop.learner.land(0, torch.zeros_like(theta), theta, alpha=0.25)
    span = loop.learner.layout.fragments[0]
    torch.testing.assert_close(
        loop.theta()[span.start : span.stop], 0.25 * theta[span.start : span.stop]
    )


def test_an_evaluation_sees_the_anchor_in_eval_mode_and_leaves_no_trace(manifest: Manifest) -> None:
    seen: list[tuple[bool, bool, Tensor]] = []

    def evaluation() -> float:
        seen.append((loop.model.training, torch.is_grad_enabled(), loop.theta()))
        return 1.5

    loop = Loop(manifest, evaluation=evaluation)
    loop.train(2)
    before = loop.theta()
    anchor = torch.ones_like(before)
    assert loop.learner.evaluate(anchor, max_bytes=1) == 1.5
    is_training, has_grad, theta = seen[0]
    assert (is_training, has_grad) == (False, False)
    assert torch.equal(theta, anchor)
    assert loop.model.training
    assert torch.equal(loop.theta(), before)
    with pytest.raises(ConfigError, match="evaluate="):
        Loop(manifest).learner.evaluate(anchor, max_bytes=1)


def test_after_an_evaluation_each_module_is_in_the_mode_that_it_was_in(manifest: Manifest) -> None:
    loop = Loop(manifest, evaluation=lambda: 0.0)
    loop.model[1].eval()  # statistics that somebody wants to keep
    loop.learner.evaluate(None, max_bytes=1)
    assert [module.training for module in loop.model] == [True, False, True]


@pytest.fixture
def _defaults_again() -> Iterator[None]:
    yield
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_defaults_again")
@pytest.mark.parametrize("what", ["device", "dtype"])
def test_a_loops_default_device_and_type_are_not_ours(
    manifest: Manifest, tmp_path: Path, what: str
) -> None:
    loop = Loop(manifest, OPTIMIZERS["counting"], evaluation=lambda: 1.5)
    loop.train(2)
    theta, said = loop.theta(), list[object]()
    anchor, base = torch.ones_like(theta), theta.clone()
    saver = Saver(
        torch.device("cpu"),
        settle=lambda: (2, 16),
        state=loop.learner.state,
        pause=nullcontext,
        send=said.append,
    )
    if what == "device":
        torch.set_default_device("meta")  # as others have "cuda"
    else:
        torch.set_default_dtype(torch.bfloat16)
    assert loop.learner.evaluate(anchor, max_bytes=1) == 1.5
    loop.learner.land(0, anchor, base)
    saver.ask(Save(folder=str(tmp_path)))
    saver.finish()
    loop.learner.restore(read_tensors(tmp_path / "inner.safetensors"))
    assert [type(each) for each in said] == [Staged, Saved]


def test_after_the_last_checkpoint_its_copy_takes_no_memory(tmp_path: Path) -> None:
    theta = {"theta": torch.zeros(7919)}
    saver = Saver(
        torch.device("cpu"),
        settle=lambda: (1, 1),
        state=lambda: theta,
        pause=nullcontext,
        send=lambda message: None,
    )
    saver.ask(Save(folder=str(tmp_path)))
    saver.finish()
    alive = [each for each in gc.get_objects() if type(each) is Tensor and each.shape == (7919,)]
    assert len(alive) == 1


def test_a_failing_evaluation_leaves_no_trace_either(manifest: Manifest) -> None:
    def evaluation() -> float:
        raise ZeroDivisionError

    loop = Loop(manifest, evaluation=evaluation)
    before = loop.theta()
    with pytest.raises(ZeroDivisionError):
        loop.learner.evaluate(torch.ones_like(before), max_bytes=1)
    assert torch.equal(loop.theta(), before)


def test_a_step_counts_with_its_tokens_and_a_loss_that_holds_no_graph(manifest: Manifest) -> None:
    learner = Loop(manifest).learner
    loss = torch.ones((), requires_grad=True) * 2
    learner.count(7, loss)
    told = learner.train_step()
    assert told is not None
    assert (told.item(), told.requires_grad) == (2.0, False)
    learner.count(5, None)
    assert learner.train_step() is None
    assert (learner.step, learner.tokens, learner.step_tokens) == (2, 12, 5)


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (a_model(width=5), r"0\.weight: the run has \[6, 4\], yours has \[5, 4\]"),
        (a_model()[:2], r"2\.weight: the run has \[1, 6\], yours does not have it"),
        (
            nn.Sequential(*a_model(), nn.Linear(1, 1)),
            r"3\.weight: the run does not have it, yours has \[1, 1\]",
        ),
        (nn.Linear(4, 4, dtype=torch.complex64), "complex64"),
    ],
    ids=["shape", "missing", "too many", "complex"],
)
def test_another_model_is_refused_with_the_first_difference(
    manifest: Manifest, model: nn.Module, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem) as refused:
        ModelLearner(model, torch.optim.SGD(model.parameters()), manifest)
    assert "\n" not in str(refused.value)


def test_frozen_parameters_are_not_exchanged(manifest: Manifest) -> None:
    model = nn.Sequential(*a_model(), nn.Linear(1, 1).requires_grad_(False))
    learner = ModelLearner(model, torch.optim.SGD(model.parameters()), manifest)
    learner.load(torch.zeros(learner.layout.num_elements))
    assert not model[0].weight.any()
    assert model[3].weight.any()


def test_a_compiled_model_is_the_model_in_it(manifest: Manifest) -> None:
    model, compiled = a_model(), nn.Module()
    compiled._orig_mod = model  # as torch.compile has it, which takes long to load
    learner = ModelLearner(compiled, torch.optim.SGD(model.parameters()), manifest)
    learner.load(torch.zeros(learner.layout.num_elements))
    assert not any(param.any() for param in model.parameters())


def test_another_optimizers_or_models_checkpoint_is_refused(manifest: Manifest) -> None:
    adamw, sgd = Loop(manifest), Loop(manifest, OPTIMIZERS["momentum"])
    adamw.train(1)
    state = adamw.learner.state()
    with pytest.raises(ConfigError, match="inner optimizer adamw, and yours is sgd"):
        sgd.learner.restore(state)
    with pytest.raises(ConfigError, match=r"has no 'theta\.0\.bias'"):
        adamw.learner.restore({n: t for n, t in state.items() if n != "theta.0.bias"})
    with pytest.raises(ConfigError, match=r"0\.bias is \[9\], not \[6\]"):
        adamw.learner.restore(state | {"theta.0.bias": torch.zeros(9)})
    with pytest.raises(ConfigError, match="does not fit"):
        adamw.learner.restore(state | {"adamw.exp_avg.nobody": torch.zeros(9)})


def test_complex_buffers_are_saved_and_come_back(manifest: Manifest, tmp_path: Path) -> None:
    first, second = Loop(manifest), Loop(manifest, seed=1)
    angles = torch.polar(torch.ones(3), torch.arange(3.0))
    first.model.register_buffer("rotary", angles)
    second.model.register_buffer("rotary", torch.zeros(3, dtype=torch.complex64))
    write_tensors(tmp_path / "inner.safetensors", first.learner.state())
    second.learner.restore(read_tensors(tmp_path / "inner.safetensors"))
    assert torch.equal(second.model.rotary, angles)


def test_a_buffer_of_a_type_that_no_file_has_is_named(manifest: Manifest) -> None:
    loop = Loop(manifest)
    loop.model.register_buffer("scales", torch.zeros(2, dtype=torch.float8_e4m3fn))
    with pytest.raises(ConfigError, match=r"buffer\.scales, which is torch\.float8"):
        loop.learner.state()


@pytest.mark.parametrize("value", [["a list"], torch.zeros(2, dtype=torch.complex64)])
def test_what_a_file_of_tensors_cannot_hold_is_named(manifest: Manifest, value: object) -> None:
    loop = Loop(manifest)
    loop.train(1)
    loop.optimizer.state[loop.model[0].weight]["odd"] = value
    with pytest.raises(ConfigError, match="odd of the optimizer adamw is a"):
        loop.learner.state()
