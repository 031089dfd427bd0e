"""Checkpoints of a whole peer: the trainer's half and the outer half, of the same moment."""

import asyncio
from pathlib import Path

from torch import Tensor

from optim.outer.rule import State
from peer.mixing import Mixing, OuterState
from peer.train.checkpoint import (
    OUTER,
    CheckpointInfo,
    commit,
    latest,
    open_checkpoint,
    stage,
    write_tensors,
)
from peer.trainer_port import TrainerPort
from protocol.errors import ConfigError
from protocol.identity import PeerId
from protocol.manifest import RunId


class Keeper:
    """Writes a peer's checkpoints, and reads them back.

    Args:
        folder: The peer's; checkpoints are in `checkpoints/` below it.
        run_id, our_id: Whose checkpoints they are.
        mixing: The outer half.
    """

    def __init__(self, folder: Path, run_id: RunId, our_id: PeerId, mixing: Mixing) -> None:
        self._folder = folder / "checkpoints"
        self._run_id = run_id
        self._our_id = our_id
        self._mixing = mixing
        self._last: asyncio.Task[Path] | None = None

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is something to resume from."""
        return latest(self._folder) is not None

    def load(self) -> Path:
        """Loads the outer half of the newest checkpoint, and returns the folder of the other.

        Raises:
            ConfigError: there is none, or it is damaged, or somebody else's.
        """
        path = latest(self._folder)
        if path is None:
            raise ConfigError(f"there is no checkpoint in {self._folder}; join without --resume")
        checkpoint = open_checkpoint(path, run_id=self._run_id, peer_id=self._our_id)
        tensors = checkpoint.outer()
        if len(checkpoint.info.rounds) != len(self._mixing.outer):
            raise self._misfit(path)
        for fragment, round in enumerate(checkpoint.info.rounds):
            state, own = (_group(tensors, f"{kind}.{fragment}.") for kind in ("state", "own"))
            anchor = tensors.get(f"anchor.{fragment}")
            expected = self._mixing.outer[fragment].copy
            fits = anchor is not None and anchor.shape == expected.anchor.shape
            fits = fits and _is_alike(state, expected.state) and _is_alike(own, expected.own)
            if anchor is None or not fits:
                raise self._misfit(path)
            self._mixing.load_state(fragment, anchor, state, own, round)
        return path

    def _misfit(self, path: Path) -> ConfigError:
        return ConfigError(f"{path / OUTER} does not fit the run's method; join without --resume")

    async def save(self, trainer: TrainerPort, step: int) -> Path:
        """Writes a checkpoint of now, and returns its folder.

        One at a time, and to its end even when nobody waits for it any more: two at once would
        remove each other's unfinished folders.

        Raises:
            ConfigError, OSError: it could not be written; older ones are untouched.
        """
        self._last = asyncio.create_task(self._save(trainer, step, self._last))
        return await asyncio.shield(self._last)

    async def _save(
        self, trainer: TrainerPort, step: int, before: "asyncio.Task[Path] | None"
    ) -> Path:
        if before is not None:
            await asyncio.wait((before,))
        staged = stage(self._folder, step)
        outer: list[OuterState] = []
        saved = await trainer.save(str(staged), lambda: outer.extend(self._mixing.landed))
        if saved.problem:
            raise ConfigError(saved.problem)
        info = CheckpointInfo(
            run_id=self._run_id,
            peer_id=self._our_id,
            step=saved.step,
            tokens=saved.tokens,
            rounds=tuple(state.round for state in outer),
        )

        def finish() -> Path:
            write_tensors(staged / OUTER, _tensors_of(outer))
            return commit(staged, info)

        return await asyncio.to_thread(finish)


def _group(tensors: dict[str, Tensor], prefix: str) -> State:
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}


def _is_alike(state: State, expected: State) -> bool:
    return {name: t.shape for name, t in state.items()} == {
        name: t.shape for name, t in expected.items()
    }


def _tensors_of(outer: list[OuterState]) -> dict[str, Tensor]:
    tensors = {}
    for fragment, state in enumerate(outer):
        tensors[f"anchor.{fragment}"] = state.anchor
        for kind, vectors in (("state", state.copy.state), ("own", state.copy.own)):
            for name, tensor in vectors.items():
                tensors[f"{kind}.{fragment}.{name}"] = tensor
    return tensors
