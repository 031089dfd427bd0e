import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from peer.train.channel import LineChannel
from peer.train.config import TrainerConfig
from peer.train.interchange import Interchange
from peer.train.launch import TrainerProcess, launch_trainer
from peer.train.lines import (
    Departed,
    Failed,
    Hello,
    Land,
    Landed,
    Leave,
    Left,
    Message,
    Progress,
    Rest,
    Save,
    Saved,
    Staged,
    Start,
)
from peer.train.model import initial_anchor, num_parameters
from peer.train.tensor_file import read_tensors
from protocol.manifest import Manifest, manifest_from

pytestmark = pytest.mark.net


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    (tmp_path / "text.txt").write_text("the wire is thin, the model is one. " * 2000)
    return manifest_from(
        {
            "founder": "nobody",
            "model": {"dim": 16, "layers": 1, "heads": 2, "ffn_dim": 24, "context": 16},
            "data": {"recipe": f"text:{tmp_path}/*.txt"},
            "inner": {"warmup_steps": 2, "total_steps": 50, "batch_sequences": 2},
            "method": {"schedule": {"interval_steps": 4, "fragments": 2}},
        }
    )


@pytest.fixture
def config_path(manifest: Manifest, tmp_path: Path) -> Path:
    (tmp_path / "manifest.json").write_bytes(manifest.to_bytes())
    config = TrainerConfig(
        manifest=str(tmp_path / "manifest.json"),
        run_id=manifest.run_id,
        peer_id="me",
        device="cpu",
        threads=1,
        evaluation_bytes=200,
    )
    config.write(tmp_path / "trainer.json")
    return tmp_path / "trainer.json"


@pytest.fixture
def buffers(manifest: Manifest) -> Iterator[Interchange]:
    interchange = Interchange.create(num_parameters(manifest.model, 256))
    interchange.anchor.copy_(initial_anchor(manifest))
    yield interchange
    interchange.close()


class Wire:
    """A blocking wire process's side."""

    def __init__(self, started: TrainerProcess) -> None:
        self.process = started.process
        self.channel = LineChannel(started.sock)
        self._pending: list[Message] = []

    def wait_for(self, kind: type[Any], *, limit_s: float = 30.0) -> Any:
        deadline_s = time.monotonic() + limit_s
        while time.monotonic() < deadline_s:
            while self._pending:
                message = self._pending.pop(0)
                if isinstance(message, kind):
                    return message
                assert kind is Failed or not isinstance(message, Failed), message
            self._pending = list(self.channel.poll(wait_s=0.5))
        raise AssertionError(f"no {kind.__name__} within {limit_s} s")


@pytest.fixture
def launch(config_path: Path) -> Iterator[Callable[[Interchange], Wire]]:
    wires: list[Wire] = []

    def start(buffers: Interchange) -> Wire:
        wires.append(Wire(launch_trainer(config_path, buffers)))
        return wires[-1]

    yield start
    for wire in wires:
        wire.channel.close()
        wire.process.kill()
        wire.process.wait()


def test_a_trainers_life(launch: Callable[[Interchange], Wire], buffers: Interchange) -> None:
    wire = launch(buffers)
    hello = wire.wait_for(Hello)
    assert hello.num_elements == len(buffers.anchor)
    assert hello.pid == wire.process.pid
    assert hello.validation_problem is None
    wire.process.send_signal(signal.SIGINT)  # not the trainer's business
    wire.channel.send(Start(step=0, tokens=0))
    departed = wire.wait_for(Departed)
    assert (departed.fragment, departed.step) == (0, 4)
    assert buffers.base.any()
    buffers.anchor.zero_()
    wire.channel.send(Land(fragment=0, round=1, tokens=4, is_planned=True))
    landed = wire.wait_for(Landed)
    assert (landed.fragment, landed.round) == (0, 1)
    assert wire.wait_for(Progress).overhead_s > 0
    wire.channel.send(Leave())
    wire.wait_for(Left)
    assert wire.process.wait(timeout=60) == 0


def test_it_trains_on_while_it_saves_and_leaves_when_it_is_written(
    launch: Callable[[Interchange], Wire], buffers: Interchange, tmp_path: Path
) -> None:
    wire = launch(buffers)
    wire.channel.send(Start(step=0, tokens=0))
    wire.wait_for(Progress)
    folders = [tmp_path / "first", tmp_path / "last", tmp_path / "nowhere"]
    for folder in folders[:2]:
        folder.mkdir()
    wire.channel.send(Save(folder=str(folders[0])))
    staged, saved = wire.wait_for(Staged), wire.wait_for(Saved)
    assert (saved.step, saved.tokens) == (staged.step, staged.tokens)
    assert wire.wait_for(Progress).step > saved.step
    path = Path(saved.path)
    assert saved.num_bytes == path.stat().st_size
    assert int(read_tensors(path)["counter.step"]) == saved.step
    wire.channel.send(Save(folder=str(folders[2])))
    assert "cannot write to" in wire.wait_for(Saved).problem
    for message in (Rest(), Save(folder=str(folders[1])), Leave()):
        wire.channel.send(message)
    last = wire.wait_for(Saved)
    assert wire.wait_for(Left).step == last.step
    assert wire.process.wait(timeout=60) == 0
    assert int(read_tensors(Path(last.path))["counter.step"]) == last.step


def test_it_exits_when_our_socket_closes(
    launch: Callable[[Interchange], Wire], buffers: Interchange
) -> None:
    wire = launch(buffers)
    wire.channel.send(Start(step=0, tokens=0))
    wire.wait_for(Progress)
    wire.channel.close()
    assert wire.process.wait(timeout=60) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it needs a step's end to notice")
def test_it_dies_with_a_killed_parent_whose_socket_lives_on(
    config_path: Path, manifest: Manifest
) -> None:
    # The parent hands its end of the socket to another child, as a fork of it would.
    num_elements = num_parameters(manifest.model, 256)
    parent_code = f"""
import subprocess, sys, time
from pathlib import Path
from peer.train.interchange import Interchange
from peer.train.launch import launch_trainer
started = launch_trainer(Path({str(config_path)!r}), Interchange.create({num_elements}))
heir = subprocess.Popen(["sleep", "30"], pass_fds=[started.sock.fileno()])
print(started.process.pid, heir.pid, flush=True)
print(started.sock.recv(15).decode(), flush=True)
time.sleep(30)
"""
    with subprocess.Popen([sys.executable, "-c", parent_code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        trainer_pid, heir_pid = (int(pid) for pid in parent.stdout.readline().split())
        assert parent.stdout.readline() == b'{"kind":"hello"\n'
        assert _is_running(trainer_pid)
        parent.kill()
        deadline_s = time.monotonic() + 20  # shorter than the other child lives
        while _is_running(trainer_pid) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        os.kill(heir_pid, signal.SIGTERM)
        assert not _is_running(trainer_pid)


def _is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"  # an orphan's exit may go unread
