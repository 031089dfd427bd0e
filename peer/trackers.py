"""Experiment trackers: TensorBoard and Weights & Biases, for those who use them anyway.

A thread of its own reads `PeerStatus` every few seconds, as `peer.metrics` does when it is asked,
and hands a few scalars on. So neither the event loop nor the trainer ever waits for a disk or for
somebody's cloud; and a tracker that fails is given up, with a word, while training goes on. What is
not known yet is left out. The x-axis is the run's step, which is the same for all peers.
"""

import asyncio
import contextlib
import logging
import math
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from peer.config import PeerConfig
from peer.status import PeerStatus
from protocol.errors import ConfigError

logger = logging.getLogger(__name__)

EVERY_S = 5.0


class Tracker(Protocol):
    """Where scalars go. Only one thread calls it, and it may take its time."""

    name: str

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Keeps how a peer is at a step of the run."""

    def close(self) -> None:
        """Keeps what is not kept yet."""


class TensorBoard:
    """Event files that `tensorboard --logdir` shows.

    Args:
        folder: Where they go; one for each peer.

    Raises:
        ConfigError: the package is not installed, or the folder cannot be written.
    """

    name = "TensorBoard"

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise _missing("--tensorboard", "tensorboard") from None
        try:
            self._writer: Any = SummaryWriter(str(folder))
        except OSError as error:
            raise ConfigError(
                f"--tensorboard: cannot write to {folder}: {error.strerror}; choose another folder"
            ) from None

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Keeps how a peer is at a step of the run."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Keeps what is not kept yet."""
        self._writer.close()


class WeightsAndBiases:
    """One run of theirs for each process of ours; those of one swarm are a group.

    It may ask for an API key, in a terminal. `WANDB_MODE=offline` needs none, and writes to disk.

    Args:
        project: Theirs.
        group: Our run's id.
        folder: The peer's; `wandb/` in it is theirs.

    Raises:
        ConfigError: the package is not installed, or they do not let us in.
    """

    name = "Weights & Biases"

    def __init__(self, project: str, *, group: str, folder: Path) -> None:
        try:
            import wandb
        except ImportError:
            raise _missing("--wandb", "wandb") from None
        try:
            self._run: Any = wandb.init(
                project=project,
                group=group,
                name=folder.name,
                dir=str(folder),
                settings=wandb.Settings(console="off"),  # the screen is ours
            )
        except (wandb.Error, OSError) as error:
            why = _first_line(error).partition(". ")[0].rstrip(".")  # then comes what we say better
            raise ConfigError(
                f"--wandb {project}: {why}; run `wandb login`, or set WANDB_MODE=offline"
            ) from None
        self._run.define_metric("*", step_metric="step")  # which goes back when a trainer dies

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Keeps how a peer is at a step of the run."""
        self._run.log({"step": step, **scalars})

    def close(self) -> None:
        """Sends what is not sent yet."""
        self._run.finish()


def open_trackers(config: PeerConfig) -> list[Tracker]:
    """Returns those that the operator wants. It may take seconds, and ask questions.

    Raises:
        ConfigError: one of them cannot be had.
    """
    trackers: list[Tracker] = []
    if config.tensorboard is not None:
        trackers.append(TensorBoard(config.tensorboard))
    if config.wandb_project is not None:
        group, folder = config.ticket.run_id[:12], config.directory
        trackers.append(WeightsAndBiases(config.wandb_project, group=group, folder=folder))
    return trackers


@contextlib.asynccontextmanager
async def tracked(status: PeerStatus, trackers: Sequence[Tracker]) -> AsyncIterator[None]:
    """Tells trackers how a peer is while the block runs, and closes them after it."""
    if not trackers:
        yield
        return
    is_over = threading.Event()
    # A daemon: who leaves at once does not wait for it.
    thread = threading.Thread(
        target=_track, args=(status, list(trackers), is_over), name="trackers", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        await asyncio.to_thread(thread.join)


def scalars_of(status: PeerStatus) -> dict[str, float]:
    """Returns what trackers show, by name; losses in bits per byte."""
    scalars = {
        "loss/training_bits_per_byte": status.loss_bits_per_byte,
        "loss/validation_bits_per_byte": status.validation_bits_per_byte,
        "training/tokens": status.tokens,
        "training/tokens_per_s": status.tokens_per_s,
        "training/overhead_s": status.overhead_s,
        "training/longest_gap_s": status.longest_gap_s,
        "training/waited_s": status.waited_s,
        "swarm/round": status.round,
        "swarm/other_peers": len(status.members),
        "swarm/exchanges_done": status.exchanges_done,
        "swarm/exchanges_failed": status.exchanges_failed,
        "swarm/contributions": status.contributions,
        "link/sent_bytes": status.sent_bytes,
        "link/received_bytes": status.received_bytes,
    }
    if status.utilisation_frac is not None:
        scalars["training/utilisation_frac"] = status.utilisation_frac
    return {name: float(value) for name, value in scalars.items() if math.isfinite(value)}


def _track(status: PeerStatus, trackers: list[Tracker], is_over: threading.Event) -> None:
    """Runs in the thread: writes when the peer has come farther, and once at the end."""
    told_step, is_last = 0, False
    while not is_last:
        is_last = is_over.wait(EVERY_S)
        step = status.step
        if status.progressed_s is None or step == told_step:
            continue
        told_step = step
        for tracker in list(trackers):
            try:
                tracker.write(scalars_of(status), step)
            except Exception as error:  # noqa: BLE001 - boundary: it may raise anything
                trackers.remove(tracker)
                _give_up(status, tracker, error)
    for tracker in trackers:
        try:
            tracker.close()
        except Exception as error:  # noqa: BLE001 - boundary: it may raise anything
            _give_up(status, tracker, error)


def _give_up(status: PeerStatus, tracker: Tracker, error: Exception) -> None:
    words = f"{tracker.name} is told no more: {_first_line(error)}"
    status.notices.append(words)
    logger.info("%s", words)  # the screen shows the notice


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _missing(option: str, extra: str) -> ConfigError:
    return ConfigError(f"{option} needs a package: pip install 'thinwire[{extra}]'")
