"""Checkpoints of a whole peer: the trainer's half and the outer half, of the same moment.

Both processes write at the same time, and training, exchanges and landings go on meanwhile. The
outer half costs no copy: outer states are replaced, never changed, so it is enough to hold those of
the moment, and each only until it is written.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from torch import Tensor

from optim.outer.rule import State
from peer.mixing import Mixing, OuterState
from peer.train.checkpoint import (
    INNER,
    KEEP,
    OUTER,
    Checkpoint,
    CheckpointInfo,
    Unusable,
    commit,
    committed,
    discard,
    open_checkpoint,
    stage,
)
from peer.train.tensor_file import TensorFile, Written
from peer.trainer_port import TrainerPort
from protocol.errors import ConfigError, MalformedMessage
from protocol.identity import Identity
from protocol.lineage import EMPTY, LINEAGE_BYTES, Lineage, parse_lineage
from protocol.manifest import RunId


class Keeper:
    """Writes a peer's checkpoints, and reads them back.

    Args:
        folder: The peer's; checkpoints are in `checkpoints/` below it.
        run_id: Of which run.
        identity: Whose checkpoints they are; it signs them.
        mixing: The outer half.
        keep: So many checkpoints are kept, at least 1.
        notify: Called with what the operator should know.
    """

    def __init__(
        self,
        folder: Path,
        run_id: RunId,
        identity: Identity,
        mixing: Mixing,
        *,
        keep: int = KEEP,
        notify: Callable[[str], None] = lambda notice: None,
    ) -> None:
        self._folder = folder / "checkpoints"
        self._run_id = run_id
        self._identity = identity
        self._mixing = mixing
        self._keep = keep
        self._notify = notify
        self._unusable: set[Path] = set()
        self._last: asyncio.Task[Path] | None = None

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is something to resume from."""
        return bool(committed(self._folder))

    @property
    def newest_step(self) -> int:
        """The step of the newest checkpoint, good or not; 0 if there is none."""
        paths = committed(self._folder)
        return step_of(paths[-1]) if paths else 0

    def load(self) -> Path:
        """Loads the outer half of the newest good checkpoint; returns the folder of the other.

        Raises:
            ConfigError: there is none, or it is somebody else's.
        """
        checkpoint = self._newest_good()
        path, info = checkpoint.path, checkpoint.info
        tensors = checkpoint.outer()
        if len(info.rounds) != len(self._mixing.outer):
            raise self._misfit(path)
        for fragment, round in enumerate(info.rounds):
            state, own = (_group(tensors, f"{kind}.{fragment}.") for kind in ("state", "own"))
            anchor = tensors.get(f"anchor.{fragment}")
            expected = self._mixing.outer[fragment].copy
            fits = anchor is not None and anchor.shape == expected.anchor.shape
            fits = fits and _is_alike(state, expected.state) and _is_alike(own, expected.own)
            if anchor is None or not fits:
                raise self._misfit(path)
            lineage = lineage_in(info, fragment)
            self._mixing.load_state(fragment, anchor, state, own, round, lineage)
        return path

    def _newest_good(self) -> Checkpoint:
        paths = committed(self._folder)
        if not paths:
            raise ConfigError(f"there is no checkpoint in {self._folder}; join without --resume")
        problems = []
        for path in reversed(paths):
            try:
                checkpoint = open_checkpoint(
                    path, run_id=self._run_id, peer_id=self._identity.peer_id
                )
            except Unusable as error:
                problems.append(str(error))
                self._unusable.add(path)
                continue
            for problem in problems:
                self._notify(f"{problem}; going on from the checkpoint before it, {path.name}")
            return checkpoint
        raise ConfigError(
            f"no checkpoint in {self._folder} can be used: {'; '.join(problems)}; "
            "join with --fresh to go on from the swarm's state"
        )

    def _misfit(self, path: Path) -> ConfigError:
        return ConfigError(f"{path / OUTER} does not fit the run's method; join with --fresh")

    async def save(self, trainer: TrainerPort, step: int, *, is_last: bool = False) -> Path:
        """Writes a checkpoint of now, and returns its folder.

        One at a time, and to its end even when nobody waits for it any more: two at once would
        remove each other's unfinished folders.

        Args:
            trainer: Who writes the other half.
            step: For the name of the unfinished folder.
            is_last: Training ends here, so that what is under way is written sooner, too.

        Raises:
            ConfigError: it could not be written; older ones are untouched.
            TrainerGone: so is the trainer.
        """
        if is_last:
            trainer.rest()
        self._last = asyncio.create_task(self._save(trainer, step, self._last))
        return await asyncio.shield(self._last)

    async def _save(
        self, trainer: TrainerPort, step: int, before: "asyncio.Task[Path] | None"
    ) -> Path:
        if before is not None:
            await asyncio.wait((before,))
        staged, file = await asyncio.to_thread(self._stage, step)
        moment: _Moment | None = None

        def capture() -> None:
            nonlocal moment
            moment = _Moment(self._mixing.landed, file)

        try:
            saved = await trainer.save(str(staged), capture)
            assert moment is not None, "a trainer saves what belongs to a moment"
            outer = await moment.writing
            if saved.problem:
                raise ConfigError(saved.problem)
        except BaseException:
            if moment is None:
                file.abandon()
            else:
                await asyncio.gather(moment.writing, return_exceptions=True)
            await asyncio.to_thread(discard, staged)
            raise
        info = CheckpointInfo(
            run_id=self._run_id,
            peer_id=self._identity.peer_id,
            step=saved.step,
            tokens=saved.tokens,
            rounds=moment.rounds,
            digests=moment.digests,
            lineages=moment.lineages,
        )
        files = {INNER: Written(saved.num_bytes, saved.digest), OUTER: outer}
        # From here on it is `commit` that tidies up: a thread cannot be stopped.
        return await asyncio.to_thread(
            commit,
            staged,
            info,
            files,
            identity=self._identity,
            keep=self._keep,
            unusable=self._unusable,
        )

    def _stage(self, step: int) -> tuple[Path, TensorFile]:
        staged = stage(self._folder, step)
        try:
            return staged, TensorFile(staged / OUTER, _named(self._mixing.landed))
        except ConfigError:
            discard(staged)
            raise


class _Moment:
    """The outer half of one moment, which is being written and, so far, let go of."""

    def __init__(self, outer: Sequence[OuterState], file: TensorFile) -> None:
        self.rounds = tuple(state.round for state in outer)
        self.digests = tuple(state.digest.hex() for state in outer)
        self.lineages = tuple(_spelled(state.lineage) for state in outer)
        vectors = _let_go(list(outer))
        self.writing = asyncio.create_task(asyncio.to_thread(file.write, vectors))


def _let_go(outer: list[OuterState]) -> Iterator[Tensor]:
    while outer:
        yield from _named([outer.pop(0)]).values()


def _named(outer: Sequence[OuterState]) -> dict[str, Tensor]:
    tensors = {}
    for fragment, state in enumerate(outer):
        tensors[f"anchor.{fragment}"] = state.anchor
        for kind, vectors in (("state", state.copy.state), ("own", state.copy.own)):
            for name, tensor in vectors.items():
                tensors[f"{kind}.{fragment}.{name}"] = tensor
    return tensors


def _group(tensors: dict[str, Tensor], prefix: str) -> State:
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}


def _is_alike(state: State, expected: State) -> bool:
    return {name: t.shape for name, t in state.items()} == {
        name: t.shape for name, t in expected.items()
    }


def _spelled(lineage: Lineage) -> str:
    return lineage.to_bytes().rstrip(b"\0").hex()  # mostly it is far from full


def lineage_in(info: CheckpointInfo, fragment: int) -> Lineage:
    """Returns which landings are in a fragment's anchor; none where the checkpoint does not say."""
    if fragment >= len(info.lineages):
        return EMPTY
    try:
        return parse_lineage(bytes.fromhex(info.lineages[fragment]).ljust(LINEAGE_BYTES, b"\0"))
    except (ValueError, MalformedMessage):  # we signed it, so it is of another version of ours
        return EMPTY


def step_of(checkpoint: Path) -> int:
    """Returns the step in a checkpoint's name."""
    return int(checkpoint.name.split("-")[1])
