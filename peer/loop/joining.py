"""`thinwire.join`: a training loop of your own becomes a peer.

    with thinwire.join(ticket, model=model, optimizer=optimizer) as swarm:
        for batch in data:
            ...                                     # forward, backward, optimizer.step()
            swarm.step(tokens=..., loss=loss)

A wire process is started, which finds the run and fetches its state; then the model takes that, and
the loop's steps are the peer's. Under torchrun all ranks of a group join together as one peer.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from torch import nn

from optim.inner import InnerOptimizer
from peer.loop.evaluation import Evaluation
from peer.loop.learner import LoopLearner, ModelLearner
from peer.loop.options import config_of, ticket_and_folder
from peer.loop.port import WirePort, launch
from peer.loop.swarm import END_S, Leading, Swarm
from peer.loop.waiting import Waiting
from peer.train.interchange import Interchange
from peer.train.lines import Found, Join
from peer.train.trainer import Trainer
from protocol.errors import ConfigError, RemoteError, ThinwireError
from protocol.manifest import Manifest, parse_manifest

if TYPE_CHECKING:
    from peer.loop.orders import Orders

LOOK_S = 0.1
SIGN_OF_LIFE_S = 10.0
"""So often other ranks hear that rank 0 is still joining."""


def join(
    ticket: str | Path | None = None,
    *,
    model: nn.Module,
    optimizer: InnerOptimizer,
    dir: str | Path | None = None,
    evaluate: Evaluation | None = None,
    resume: bool | None = None,
    max_steps: int | None = None,
    listen: str = "127.0.0.1",
    announce: str | None = None,
    up: str | None = None,
    down: str | None = None,
    evaluate_every: int = 5,
    checkpoint_every: float = 300.0,
    keep: int = 2,
    wait: float = 60.0,
    group: Any = None,
    quiet: bool = False,
) -> Swarm:
    """Join a run with a loop of your own; return when the model holds the swarm's state.

    If torch.distributed is initialised with more than one rank, all ranks of `group` join as one
    peer: the model is sharded by `fully_shard`, or in DistributedDataParallel.

    Args:
        ticket: The ticket, or a file or folder that holds one; None for that of `dir`.
        model: Its trainable parameters are the run's. It is changed here and in `Swarm.step` only.
        optimizer: Any torch optimizer; its state is this peer's alone.
        dir: This peer's folder; by default `thinwire-RUN` here.
        evaluate: Returns bits per byte, or any loss, of the model as it is; it is called in `step`
            while the model holds the anchor, in eval mode and without gradients.
        resume: Whether to go on from the last checkpoint in `dir`: True demands one, None takes one
            that is there, False begins with the swarm's state.
        max_steps: `Swarm.is_done` is true from this step of the run on.
        listen: `HOST[:PORT]` to listen on; the next port is used too.
        announce: The address that others reach this machine at, if it is another.
        up: Send at most so many bit/s, such as `20M`, or `20M,08:00-18:00=5M`.
        down: Fetch at most so many bit/s.
        evaluate_every: Rounds between two evaluations.
        checkpoint_every: Seconds between two checkpoints.
        keep: Checkpoints that are kept.
        wait: Seconds to look for somebody who knows the run.
        group: The ranks of this peer; all of them if None.
        quiet: Say nothing on stderr while joining.

    Raises:
        ConfigError: something that the caller can change, such as a model that is not the run's.
        ThinwireError: the wire process failed.
    """
    if max_steps is not None and max_steps < 0:
        raise ConfigError(f"max_steps must be at least 0, not {max_steps}")
    party = _Party(model, optimizer, evaluate, max_steps)
    orders = _orders_of(model, group)
    if orders is not None and not orders.is_lead:
        return party.follow(orders)

    def start() -> tuple[Join, Path]:
        parsed, folder = ticket_and_folder(ticket, None if dir is None else Path(dir))
        told = Join(
            ticket=str(parsed),
            directory=str(folder),
            resume=resume,
            listen=listen,
            announce=announce,
            up=up,
            down=down,
            evaluate_every_rounds=evaluate_every if evaluate is not None else 0,
            checkpoint_every_s=checkpoint_every,
            keep_checkpoints=keep,
            wait_s=wait,
        )
        config_of(told)  # refused here rather than seconds later
        return told, folder

    if orders is None:
        return party.lead(start, quiet=quiet)
    try:
        return party.lead(start, quiet=quiet, orders=orders)
    except BaseException as error:
        orders.stop(error)
        raise


class _Party:
    """What a loop brings along."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: InnerOptimizer,
        evaluation: Evaluation | None,
        max_steps: int | None,
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._evaluation = evaluation
        self._max_steps = max_steps

    def follow(self, orders: "Orders") -> Swarm:
        """Joins as a rank that is not the first."""
        from peer.loop.follower import Follower
        from peer.loop.following import Following

        follower = Follower(
            self._model, self._optimizer, orders=orders, evaluation=self._evaluation
        )
        follower.follow()
        return Following(follower, max_steps=self._max_steps)

    def lead(
        self,
        start: Callable[[], tuple[Join, Path]],
        *,
        quiet: bool,
        orders: "Orders | None" = None,
    ) -> Swarm:
        """Joins with a wire process."""
        told, folder = start()
        trainable = [p for p in self._model.parameters() if p.requires_grad]
        if not trainable:
            raise ConfigError("the model has no trainable parameters")
        interchange = Interchange.create(sum(param.numel() for param in trainable))
        try:
            port = launch(interchange, folder)
        except BaseException:
            interchange.close()
            raise
        try:
            port.send(told)
            with Waiting(port, sys.stderr, is_quiet=quiet) as waiting:
                found = _until_found(port, waiting, orders)
                learner = self._learner(_manifest_of(found), orders)
                trainer = Trainer(
                    learner,
                    interchange,
                    port,
                    data="data of its own loop",
                    max_steps=self._max_steps,
                    judges_loss=False,
                )
                trainer.say_hello()
                _until_started(trainer, port, waiting, learner)
                waiting.say(f"joined run {found.run_id[:12]} at step {learner.step}, in {folder}")
        except BaseException:
            port.ask_to_leave()
            port.end(wait_s=END_S)
            interchange.close()
            raise
        learner.go_on()
        return Leading(learner, trainer, port, interchange, is_group=orders is not None)

    def _learner(self, manifest: Manifest, orders: "Orders | None") -> LoopLearner:
        if orders is None:
            return ModelLearner(self._model, self._optimizer, manifest, evaluation=self._evaluation)
        from peer.loop.sharded import ShardedLearner

        return ShardedLearner(
            self._model, self._optimizer, manifest, orders=orders, evaluation=self._evaluation
        )


def _orders_of(model: nn.Module, group: Any) -> "Orders | None":
    """Returns the line between the ranks that are one peer; None for a model that is whole here."""
    if not (dist.is_available() and dist.is_initialized()):
        return None
    from torch.distributed.tensor import DTensor

    from peer.loop.orders import Orders

    is_sharded = any(isinstance(param, DTensor) for param in model.parameters())
    if dist.get_world_size(group) == 1 and not is_sharded:
        return None

    return Orders(group)


def _until_found(port: WirePort, waiting: Waiting, orders: "Orders | None") -> Found:
    told_s = time.monotonic()
    while port.found is None:
        port.look(wait_s=LOOK_S)
        waiting.look()
        if port.found is None:
            _require_alive(port)
        if orders is not None:
            told_s = _signed(told_s, orders.wait)
    return port.found


def _until_started(
    trainer: Trainer, port: WirePort, waiting: Waiting, learner: LoopLearner
) -> None:
    told_s = time.monotonic()
    while not trainer.has_started:
        trainer.listen(wait_s=LOOK_S)
        waiting.look()
        _require_alive(port)
        told_s = _signed(told_s, learner.wait)


def _signed(told_s: float, tell: Callable[[], None]) -> float:
    """Gives other ranks a sign of life if it is time for one; returns when the last one was."""
    now_s = time.monotonic()
    if now_s < told_s + SIGN_OF_LIFE_S:
        return told_s
    tell()
    return now_s


def _require_alive(port: WirePort) -> None:
    if port.failure is not None:
        raise port.failure
    if port.is_closed:
        raise ThinwireError("the wire process has ended; its folder's peer.log may say why")


def _manifest_of(found: Found) -> Manifest:
    try:
        manifest = parse_manifest(Path(found.manifest).read_bytes())
    except (OSError, RemoteError) as error:
        raise ConfigError(f"cannot read {found.manifest}: {error}") from None
    if manifest.run_id != found.run_id:
        raise ConfigError(f"{found.manifest} is not the run's any more")
    return manifest
