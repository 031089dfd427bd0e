import asyncio
import math
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import peer.trackers
from peer.config import PeerConfig
from peer.status import PeerStatus
from peer.trackers import Tracker, open_trackers, scalars_of, tracked
from protocol.errors import ConfigError
from protocol.identity import Identity
from protocol.manifest import RunId
from protocol.ticket import Ticket

RUN_ID = RunId("ab" * 32)


def config(folder: Path, **wanted: Any) -> PeerConfig:
    ticket = Ticket(RUN_ID, Identity(b"f" * 32).peer_id, ())
    return PeerConfig(ticket=ticket, directory=folder, **wanted)


class Recorder:
    """A tracker that keeps what it is told, and says when."""

    name = "recorder"

    def __init__(self, *, breaks: bool = False) -> None:
        self.rows: list[tuple[int, Mapping[str, float]]] = []
        self.threads: set[int] = set()
        self.has_news = threading.Event()
        self.is_closed = False
        self._breaks = breaks

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        if self._breaks:
            raise RuntimeError("the cloud is gone\nand much more")
        self.threads.add(threading.get_ident())
        self.rows.append((step, scalars))
        self.has_news.set()

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer.trackers, "EVERY_S", 0.001)


def training(step: int) -> PeerStatus:
    return PeerStatus(step=step, progressed_s=1.0, loss_bits_per_byte=2.5, round=3)


async def test_a_tracker_is_told_in_another_thread_and_closed() -> None:
    recorder, status = Recorder(), training(10)
    async with tracked(status, [recorder]):
        await asyncio.to_thread(recorder.has_news.wait)
        assert not recorder.is_closed
        status.step = 20
    assert recorder.is_closed
    assert [step for step, _ in recorder.rows] == [10, 20]  # each step once, and the last one
    assert recorder.rows[0][1]["loss/training_bits_per_byte"] == 2.5
    assert threading.get_ident() not in recorder.threads


async def test_nothing_is_told_before_training_begins() -> None:
    recorder = Recorder()
    async with tracked(PeerStatus(step=5), [recorder]):
        pass
    assert recorder.rows == []
    assert recorder.is_closed


async def test_a_tracker_that_fails_is_given_up_with_a_word() -> None:
    broken, recorder, status = Recorder(breaks=True), Recorder(), training(1)
    trackers: list[Tracker] = [broken, recorder]
    async with tracked(status, trackers):
        await asyncio.to_thread(recorder.has_news.wait)
    assert status.notices == ["recorder is told no more: the cloud is gone"]
    assert recorder.rows
    assert recorder.is_closed


def test_what_is_not_known_is_left_out() -> None:
    scalars = scalars_of(PeerStatus())
    assert all(math.isfinite(value) for value in scalars.values())
    assert not any(name.startswith("loss/") for name in scalars)
    assert scalars_of(training(1)).keys() - scalars.keys() == {"loss/training_bits_per_byte"}


@pytest.mark.parametrize(
    ("module", "extra"), [("torch.utils.tensorboard", "tensorboard"), ("wandb", "wandb")]
)
def test_a_missing_package_is_named(
    module: str, extra: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    wanted = {"tensorboard": tmp_path} if extra == "tensorboard" else {"wandb_project": "mine"}
    with pytest.raises(ConfigError, match=rf"--{extra} .*pip install 'thinwire\[{extra}\]'"):
        open_trackers(config(tmp_path, **wanted))


class FakeWandb(SimpleNamespace):
    """As much of the package as is used."""

    class Error(Exception):
        pass

    def __init__(self, *, refuses: bool = False) -> None:
        self.told: list[Any] = []
        self._refuses = refuses

    def Settings(self, **settings: object) -> object:  # noqa: N802 - theirs
        return settings

    def init(self, **options: object) -> "FakeWandb":
        if self._refuses:
            raise FakeWandb.Error("no API key\nconfigured")
        self.told.append(options)
        return self

    def define_metric(self, name: str, *, step_metric: str) -> None:
        self.told.append((name, step_metric))

    def log(self, scalars: dict[str, float]) -> None:
        self.told.append(scalars)

    def finish(self) -> None:
        self.told.append("finished")


def test_steps_may_go_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    (tracker,) = open_trackers(config(tmp_path, wandb_project="mine"))
    tracker.write({"swarm/round": 1.0}, 20)
    tracker.write({"swarm/round": 1.0}, 10)
    tracker.close()
    options, *rest = wandb.told
    told = options["project"], options["group"], options["name"], options["dir"]
    assert told == ("mine", RUN_ID[:12], tmp_path.name, str(tmp_path))
    assert rest[0] == ("*", "step")
    assert [row["step"] for row in rest[1:3]] == [20, 10]
    assert rest[3:] == ["finished"]


def test_who_is_not_let_in_is_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(refuses=True))
    with pytest.raises(ConfigError, match=r"^--wandb mine: no API key; .*WANDB_MODE=offline$"):
        open_trackers(config(tmp_path, wandb_project="mine"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_tensorboard_reads_what_it_was_told(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    status = training(10)
    async with tracked(status, open_trackers(config(tmp_path, tensorboard=tmp_path / "tb"))):
        status.step = 30
    found = EventAccumulator(str(tmp_path / "tb"))
    found.Reload()
    assert set(found.Tags()["scalars"]) == scalars_of(status).keys()
    last = found.Scalars("loss/training_bits_per_byte")[-1]
    assert (last.step, last.value) == (30, 2.5)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--tensorboard: cannot write to .*file"):
        open_trackers(config(tmp_path, tensorboard=tmp_path / "file" / "tb"))
