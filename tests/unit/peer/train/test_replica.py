import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from peer.train import tensor_file
from peer.train.alone import train_alone
from peer.train.config import TrainerConfig, read_config
from peer.train.data import Corpus
from peer.train.lines import Evaluated, Progress
from peer.train.meter import REPORT_S, Meter
from peer.train.model import initial_anchor
from peer.train.replica import Replica, choose_device
from protocol.errors import ConfigError, ThinwireError
from protocol.manifest import Manifest

OPTIMIZERS = ("adamw", "muon", "sgd")


def replica_of(manifest: Manifest, corpus: Corpus, optimizer: str) -> Replica:
    inner = manifest.inner.model_copy(update={"optimizer": optimizer})
    changed = manifest.model_copy(update={"inner": inner})
    replica = Replica(changed, corpus, peer_id="a", device=torch.device("cpu"))
    replica.load(initial_anchor(manifest))
    return replica


def bits(state: dict[str, Tensor], prefix: str = "") -> dict[str, bytes]:
    return {
        name: t.detach().numpy().tobytes() for name, t in state.items() if name.startswith(prefix)
    }


def test_the_loss_falls(manifest: Manifest, corpus: Corpus) -> None:
    reports: list[Progress | Evaluated] = []
    alone = train_alone(
        manifest, 40, corpus=corpus, evaluate_every_steps=20, on_report=reports.append
    )
    assert alone.losses[0] == pytest.approx(math.log(256), abs=0.1)
    assert sum(alone.losses[-5:]) / 5 < alone.losses[0] - 1
    progress, evaluated = reports[-2:]
    assert isinstance(progress, Progress)
    assert (progress.step, progress.tokens, progress.is_done) == (40, 40 * 32, True)
    assert isinstance(evaluated, Evaluated)
    evaluations = [r.bits_per_byte for r in reports if isinstance(r, Evaluated)]
    assert len(evaluations) == 2
    assert evaluations[1] < evaluations[0] < 8


def test_peers_differ_and_repeat(manifest: Manifest, corpus: Corpus) -> None:
    first, second, other = (
        train_alone(manifest, 3, peer_id=peer, corpus=corpus).losses for peer in ("a", "a", "b")
    )
    assert first == second
    assert first != other


def test_the_learning_rate_follows_the_runs_steps(manifest: Manifest, corpus: Corpus) -> None:
    replica = Replica(manifest, corpus, peer_id="a", device=torch.device("cpu"))
    rates = []
    for step in (0, 1, 50):
        replica.step = step
        replica.train_step()
        rates.append(replica.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([5e-3, 1e-2, 1e-3])


@pytest.mark.parametrize("saved_at", [0, 3], ids=["before the first step", "later"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resuming_equals_not_stopping(
    manifest: Manifest, corpus: Corpus, tmp_path: Path, optimizer: str, saved_at: int
) -> None:
    whole, first, second = (replica_of(manifest, corpus, optimizer) for _ in range(3))
    for _ in range(saved_at):
        first.train_step()
    tensor_file.write_tensors(tmp_path / "inner.safetensors", first.state())
    second.train_step()  # so that there is another state to be replaced
    second.restore(tensor_file.read_tensors(tmp_path / "inner.safetensors"))
    for _ in range(saved_at, 6):
        second.train_step()
    for _ in range(6):
        whole.train_step()
    assert bits(second.state()) == bits(whole.state())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_optimizers_state_survives_a_landing_to_the_bit(
    manifest: Manifest, corpus: Corpus, optimizer: str
) -> None:
    replica = replica_of(manifest, corpus, optimizer)
    base, anchor = initial_anchor(manifest), torch.full((replica.layout.num_elements,), 2.0)
    for _ in range(3):
        replica.train_step()
    before = bits(replica.state())
    for fragment in range(len(replica.layout.fragments)):
        replica.land(fragment, anchor, base)
    after = bits(replica.state())
    changed = {name for name, value in after.items() if value != before[name]}
    assert changed == {name for name in before if name.startswith("theta.")}
    replica.load(anchor)
    assert bits(replica.state(), optimizer) == {
        name: value for name, value in before.items() if name.startswith(optimizer)
    }


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_another_optimizers_checkpoint_is_refused(
    manifest: Manifest, corpus: Corpus, optimizer: str
) -> None:
    saved = replica_of(manifest, corpus, optimizer)
    saved.train_step()
    for other in set(OPTIMIZERS) - {optimizer}:
        with pytest.raises(ConfigError, match=f"optimizer {optimizer}, the run's is {other}"):
            replica_of(manifest, corpus, other).restore(saved.state())


def test_a_moment_of_another_shape_is_refused(manifest: Manifest, corpus: Corpus) -> None:
    replica = replica_of(manifest, corpus, "adamw")
    replica.train_step()
    state = replica.state() | {"adamw.exp_avg.norm.weight": torch.zeros(3)}
    with pytest.raises(ConfigError, match=r"exp_avg\.norm\.weight is \[3\]"):
        replica_of(manifest, corpus, "adamw").restore(state)


def test_an_optimizer_that_this_torch_does_not_have_is_refused(
    manifest: Manifest, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ConfigError, match="muon needs torch"):
        replica_of(manifest, corpus, "muon")


def test_devices() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in {"cuda", "mps", "cpu"}
    for name in ("gpu", "meta"):
        with pytest.raises(ConfigError, match=f"'{name}' is"):
            choose_device(name)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_the_meter_separates_steps_from_what_is_between() -> None:
    clock = Clock()
    meter = Meter(torch.device("cpu"), clock=clock)
    assert not meter.is_due()
    for _ in range(4):
        clock.now_s += 0.5
        meter.add_step(torch.tensor(2 * math.log(2)), 100)
    with meter.aside(is_overhead=True):
        clock.now_s += 1.0
    with meter.aside(is_overhead=False) as aside:
        clock.now_s += 2.0
    assert aside.took_s == 2.0
    assert meter.is_due()
    progress = meter.report(4, 400)
    assert progress.loss_bits_per_byte == pytest.approx(2)
    assert (progress.step_s, progress.overhead_s, progress.tokens_per_s) == (0.5, 1.0, 80.0)
    meter.add_step(torch.tensor(1.0), 100)
    assert not meter.is_due()
    clock.now_s += REPORT_S
    assert meter.is_due()


def test_a_loss_that_is_no_number_ends_training() -> None:
    meter = Meter(torch.device("cpu"))
    meter.add_step(torch.tensor(math.nan), 1)
    with pytest.raises(ThinwireError, match="loss is nan at step 7"):
        meter.report(7, 1)


def test_a_configuration_is_read_back_and_checked(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(manifest.to_bytes())
    config = TrainerConfig(
        manifest=str(tmp_path / "manifest.json"), run_id=manifest.run_id, peer_id="me", max_steps=3
    )
    path = tmp_path / "trainer.json"
    config.write(path)
    assert read_config(path) == (config, manifest)
    config.model_copy(update={"run_id": "f" * 64}).write(path)
    with pytest.raises(ConfigError, match="not of ffffffffffff"):
        read_config(path)
    path.write_text("{}")
    with pytest.raises(ConfigError, match="trainer configuration"):
        read_config(path)


def test_a_loss_that_nobody_judges_is_only_told() -> None:
    meter = Meter(torch.device("cpu"), judges_loss=False)
    meter.add_step(torch.tensor(math.inf), 1)
    assert meter.report(1, 1).loss_bits_per_byte == math.inf
    meter.add_step(torch.tensor(2 * math.log(2)), 1)
    meter.add_step(None, 1)  # and what nobody says does not count
    assert meter.report(3, 3).loss_bits_per_byte == pytest.approx(2)


def test_without_a_loss_there_is_none_to_tell() -> None:
    meter = Meter(torch.device("cpu"))
    meter.add_step(None, 10)
    assert math.isnan(meter.report(1, 10).loss_bits_per_byte)
