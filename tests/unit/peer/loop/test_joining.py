"""Joining with a wire process that a test plays: what is told, taken over and refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import thinwire
from peer.loop import joining
from peer.loop.learner import ModelLearner
from peer.run_folder import MANIFEST
from peer.train import lines
from peer.train.interchange import Interchange
from peer.train.tensor_file import write_tensors
from protocol.errors import ConfigError, ThinwireError
from protocol.manifest import Manifest
from protocol.ticket import Address, Ticket
from tests.unit.peer.loop.conftest import a_model
from tests.unit.peer.loop.far_end import FarEnd


class Door:
    """Joins into a run with a wire process that has said everything already."""

    def __init__(self, folder: Path, manifest: Manifest, ticket: Ticket, far: FarEnd) -> None:
        self.folder, self.manifest, self.ticket, self.far = folder, manifest, ticket, far

    def join(self, model: nn.Module, **options: Any) -> thinwire.Swarm:
        optimizer = options.pop("optimizer", None) or torch.optim.AdamW(
            [param for param in model.parameters() if param.requires_grad] or [torch.zeros(1)]
        )
        options = {"ticket": str(self.ticket), "dir": self.folder / "peer", "quiet": True} | options
        return thinwire.join(model=model, optimizer=optimizer, **options)


@pytest.fixture
def door(
    run_folder: Path, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Door]:
    far = FarEnd()

    def launch(interchange: Interchange, folder: Path) -> Any:
        interchange.anchor.fill_(3.0)
        far.interchange = interchange
        return far.port

    monkeypatch.setattr(joining, "launch", launch)
    address = Address("127.0.0.1", 4001, manifest.founder)
    ticket = Ticket(manifest.run_id, manifest.founder, (address,))
    far.find(run_folder, manifest)
    yield Door(tmp_path, manifest, ticket, far)
    far.die()
    far.port.end(wait_s=0.0)


def test_the_model_is_the_swarms_when_join_returns(door: Door) -> None:
    door.far.start(step=40, tokens=400)
    model = a_model(seed=1)
    with door.join(model) as swarm:
        assert (swarm.step_count, swarm.status.tokens) == (40, 400)
        assert all((param == 3.0).all() for param in model.parameters())
    (hello,) = door.far.heard(lines.Hello)
    assert hello.num_elements == sum(param.numel() for param in model.parameters())
    assert door.far.heard(lines.Left)


def test_the_wire_process_is_told_what_the_caller_wants(door: Door) -> None:
    door.far.start()
    options: dict[str, Any] = {"resume": False, "up": "20M", "listen": "0.0.0.0:7000", "keep": 3}
    with door.join(a_model(), evaluate=lambda: 1.0, evaluate_every=7, **options):
        pass
    (told,) = door.far.heard(lines.Join)
    assert told.directory == str(door.folder / "peer")
    assert (told.ticket, told.resume, told.up) == (str(door.ticket), False, "20M")
    assert (told.listen, told.keep_checkpoints, told.evaluate_every_rounds) == (
        "0.0.0.0:7000",
        3,
        7,
    )


def test_without_an_evaluation_none_is_asked_for(door: Door) -> None:
    door.far.start()
    with door.join(a_model()):
        pass
    assert door.far.heard(lines.Join)[0].evaluate_every_rounds == 0


def test_a_resumed_loop_has_its_model_optimizer_and_counts_back(door: Door) -> None:
    former = a_model(seed=5)
    optimizer = torch.optim.AdamW(former.parameters())
    former(torch.ones(4, 4)).sum().backward()
    optimizer.step()
    learner = joining.ModelLearner(former, optimizer, door.manifest)
    learner.step, learner.tokens = 70, 700
    state = learner.state() | {"counter.fragment_tokens": torch.tensor([5, 6])}
    write_tensors(door.folder / "inner.safetensors", state)

    door.far.say(lines.Resume(folder=str(door.folder)))
    model = a_model(seed=6)
    resumed = torch.optim.AdamW(model.parameters())
    with door.join(model, optimizer=resumed) as swarm:
        assert (swarm.step_count, swarm.status.tokens) == (70, 700)
    for ours, theirs in zip(model.parameters(), former.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        for key in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(resumed.state[ours][key], optimizer.state[theirs][key])


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (a_model(width=5), r"0\.weight: the run has \[6, 4\], yours has \[5, 4\]"),
        (nn.ReLU(), "no trainable parameters"),
        (nn.Linear(4, 6).requires_grad_(False), "no trainable parameters"),
    ],
    ids=["shape", "nothing", "frozen"],
)
def test_another_model_is_refused_before_it_is_touched(
    door: Door, model: nn.Module, problem: str
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ConfigError, match=problem):
        door.join(model)
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    if door.far.interchange is not None:  # then the wire process was there, and has been ended
        assert door.far.was_asked_to_leave
        assert door.far.process.is_over


@pytest.mark.timeout(10)
def test_other_ranks_hear_that_we_are_there_also_while_the_state_is_fetched(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "SIGN_OF_LIFE_S", 0.0)
    signs: list[ModelLearner] = []

    def wait(learner: ModelLearner) -> None:
        signs.append(learner)
        if len(signs) == 3:
            door.far.start()

    monkeypatch.setattr(ModelLearner, "wait", wait)
    with door.join(a_model()):
        assert len(signs) >= 3


def test_an_optimizer_of_another_model_is_refused(door: Door) -> None:
    other = torch.optim.SGD(a_model().parameters())
    with pytest.raises(ConfigError, match="has none of the model's trainable parameters"):
        door.join(a_model(), optimizer=other)


def test_data_parallel_and_compiled_models_are_what_is_inside(door: Door) -> None:
    door.far.start()
    model, compiled = a_model(), nn.Module()
    compiled._orig_mod = nn.DataParallel(model)
    with door.join(compiled, optimizer=torch.optim.SGD(model.parameters())):
        assert (model[0].bias == 3.0).all()


@pytest.mark.parametrize(
    ("is_config", "kind"), [(True, ConfigError), (False, ThinwireError)], ids=["config", "broken"]
)
def test_what_the_wire_process_cannot_do_is_raised_in_its_words(
    door: Door, is_config: bool, kind: type[Exception]
) -> None:
    door.far.say(lines.Failed(reason="the disk is full", is_config=is_config))
    door.far.die()
    with pytest.raises(ThinwireError, match="the disk is full") as failed:
        door.join(a_model())
    assert type(failed.value) is kind


def test_a_wire_process_that_dies_without_a_word_is_named_with_its_log(door: Door) -> None:
    door.far.die()
    with pytest.raises(ThinwireError, match=r"has ended; .*peer\.log"):
        door.join(a_model())


def test_a_manifest_that_is_not_the_runs_is_refused(door: Door, run_folder: Path) -> None:
    path = str(run_folder / MANIFEST)
    door.far.say(lines.Found(manifest=path, run_id="another"))  # the later word counts
    with pytest.raises(ConfigError, match="not the run's any more"):
        door.join(a_model())
    door.far.process.signals.clear()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"max_steps": -1}, "max_steps"),
        ({"up": "fast"}, "up"),
        ({"listen": "0.0.0.0:99999"}, "99999"),
        ({"keep": 0}, "keep"),
        ({"ticket": "tw1nonsense"}, "ticket"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_option_is_refused_before_a_process_is_started(
    door: Door, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem) as refused:
        door.join(a_model(), **options)
    assert "\n" not in str(refused.value)
    assert door.far.interchange is None
