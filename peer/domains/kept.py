"""States of domains on this peer's disk: for whoever takes a domain over, and for the ensemble.

Each is one file, `kept/DOMAIN.safetensors` in the peer's folder: all fragments' anchors and outer
state, and what is known of them. A newer state takes the place of an older one in one move, so a
crash leaves either. Others fetch them as they fetch the states of peers that train: by their index,
block by checked block.
"""

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from blake3 import blake3
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from peer.blobs import BytesSource
from peer.domains.sizes import DomainSizes
from peer.experts.expert import Expert, expert_of
from peer.mixing import OuterState
from peer.pins import PIN_S, PinnedState
from peer.ports import Source
from peer.train.tensor_file import TensorFile, read_tensors, require_room
from protocol.card import Kept
from protocol.domains import domain_manifest
from protocol.errors import ConfigError, MalformedMessage, NotAvailable
from protocol.lineage import LINEAGE_BYTES, Lineage, parse_lineage
from protocol.machine import BlobRef
from protocol.manifest import Manifest
from protocol.state_index import StateIndex

logger = logging.getLogger(__name__)

KEPT = "kept"
_INFO = "info"
MAX_SERVED = 2


class _FragmentInfo(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    round: int
    anchor_digest: str
    lineage: str
    digest: str
    """Of the vectors: a disk may return other bytes than it was given."""


class _Info(BaseModel):
    """What a file says beside its vectors, as JSON in a tensor of bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run_id: str
    """Of the domain's sub-swarm."""
    step: int
    is_final: bool
    fragments: tuple[_FragmentInfo, ...]

    @property
    def round(self) -> int:
        """Landings behind every fragment."""
        return min((fragment.round for fragment in self.fragments), default=0)


@dataclass(frozen=True, slots=True, eq=False)
class FragmentState:
    """One fragment of a domain's state.

    Attributes:
        round, anchor_digest, lineage: As in `protocol.state_index.StateIndex`.
        vectors: Anchor and outer state by name, `[m]` fp32 each.
    """

    round: int
    anchor_digest: bytes
    lineage: Lineage
    vectors: Sequence[Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class DomainState:
    """What is known of a domain at one moment.

    Attributes:
        step: Inner steps behind it, on the domain's count.
        is_final: The domain has reached its budget.
        fragments: All of them.
    """

    step: int
    is_final: bool
    fragments: Sequence[FragmentState]

    @property
    def round(self) -> int:
        """Landings behind every fragment."""
        return min(fragment.round for fragment in self.fragments)


def state_of(outer: Sequence[OuterState], *, step: int, is_final: bool) -> DomainState:
    """Returns the state of the domain in which we train."""
    fragments = [
        FragmentState(
            each.round,
            each.digest,
            each.lineage,
            [each.anchor, *(each.copy.state[name] for name in sorted(each.copy.state))],
        )
        for each in outer
    ]
    return DomainState(step, is_final, fragments)


class KeptStates:
    """See the module docstring.

    Args:
        folder: The peer's.
        manifest: Of the run, with its domains.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder = folder / KEPT
        self._manifest = manifest
        self._infos: dict[str, _Info] = {}
        self._served: dict[str, _Served] = {}
        self._loading: dict[str, asyncio.Task[_Served]] = {}
        self._lock = asyncio.Lock()
        for unfinished in self._folder.glob(".*"):
            with contextlib.suppress(OSError):
                unfinished.unlink()
        for domain in manifest.domains:
            with contextlib.suppress(ConfigError):  # there is none, or it is of no use
                self._infos[domain.name] = _read_info(self._path(domain.name), manifest)

    def cards(self) -> tuple[Kept, ...]:
        """Returns what our card says of them."""
        return tuple(
            Kept(name, info.round, info.step, info.is_final) for name, info in self._infos.items()
        )

    def is_final(self, domain: str) -> bool:
        """Whether the last state of a domain is here."""
        return domain in self._infos and self._infos[domain].is_final

    def step(self, domain: str) -> int:
        """Returns how far the state of a domain is that is here; 0 if there is none."""
        return self._infos[domain].step if domain in self._infos else 0

    async def keep(self, domain: str, state: DomainState) -> None:
        """Writes a state, unless one is here that is final, or farther.

        Raises:
            ConfigError: it cannot be written; the one before is as it was.
        """
        # To its end, even if nobody waits for it any more: a thread cannot be stopped.
        await asyncio.shield(asyncio.create_task(self._keep(domain, state)))

    async def _keep(self, domain: str, state: DomainState) -> None:
        async with self._lock:
            info = self._infos.get(domain)
            if info and (info.is_final, info.round, info.step) >= (
                *(state.is_final, state.round, state.step),
            ):
                return
            self._infos[domain] = await asyncio.to_thread(self._write, domain, state)
            self._served.pop(domain, None)

    async def load(self, domain: str) -> DomainState:
        """Returns the state of a domain.

        Raises:
            ConfigError: it is not here, or damaged; then another may take its place.
        """
        try:
            return await asyncio.to_thread(read_state, self._path(domain), self._manifest)
        except ConfigError:
            self._infos.pop(domain, None)
            raise

    async def blob(self, ref: BlobRef) -> Source:
        """Returns an index or a state that another peer asks for.

        Raises:
            NotAvailable: it is not here, or not any more.
        """
        if ref.kind not in ("index", "state"):
            raise NotAvailable("peers keep states of other domains, and nothing else")
        served = self._served.get(ref.domain)
        if served is None and ref.domain in self._infos:
            task = self._loading.get(ref.domain)
            if task is None:  # and whoever gives up finds it when it asks again
                task = self._loading[ref.domain] = asyncio.create_task(self._serve(ref.domain))
                task.add_done_callback(lambda _: self._loading.pop(ref.domain))
            served = await asyncio.shield(task)
        if served is None or ref.fragment >= len(served.indexes):
            raise NotAvailable("that domain's state is not here")
        return served.blob(ref)

    def require_room(self, num_bytes: int) -> None:
        """Refuses what would not fit on the disk, before it is fetched.

        Raises:
            ConfigError: says how much is missing.
        """
        require_room(self._folder.parent, num_bytes)

    def expire(self, now_s: float) -> None:
        """Lets go of what nobody has fetched for a while."""
        for name, served in list(self._served.items()):
            if served.used_at_s < now_s - PIN_S:
                del self._served[name]

    async def _serve(self, domain: str) -> "_Served":
        async with self._lock:
            try:
                state = await self.load(domain)
            except ConfigError as error:
                logger.warning("our copy of %s is of no use: %s", domain, error)
                raise NotAvailable("our copy is damaged") from None
            while len(self._served) >= MAX_SERVED:  # each is a whole model in memory
                self._served.pop(min(self._served, key=lambda name: self._served[name].used_at_s))
            clock = asyncio.get_running_loop().time
            served = self._served[domain] = await asyncio.to_thread(_Served, state, clock)
            return served

    def _path(self, domain: str) -> Path:
        return self._folder / f"{domain}.safetensors"

    def _write(self, domain: str, state: DomainState) -> _Info:
        info = _Info(
            run_id=domain_manifest(self._manifest, domain).run_id,
            step=state.step,
            is_final=state.is_final,
            fragments=tuple(
                _FragmentInfo(
                    round=each.round,
                    anchor_digest=each.anchor_digest.hex(),
                    lineage=each.lineage.to_bytes().rstrip(b"\0").hex(),
                    digest=_digest(each.vectors),
                )
                for each in state.fragments
            ),
        )
        tensors = {
            f"{fragment}.{place}": vector
            for fragment, each in enumerate(state.fragments)
            for place, vector in enumerate(each.vectors)
        }
        tensors[_INFO] = torch.frombuffer(
            bytearray(info.model_dump_json().encode()), dtype=torch.uint8
        )
        path = self._path(domain)
        try:
            self._folder.mkdir(exist_ok=True)
            temporary = path.with_name(f".{domain}-{os.getpid()}")
            TensorFile(temporary, tensors).write(tensors.values())
            temporary.replace(path)
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}") from error
        return info


class _Served:
    """A state in memory, as others fetch it. Hashing takes a while, so make it on a thread."""

    def __init__(self, state: DomainState, clock: Callable[[], float]) -> None:
        self._states = [PinnedState(each.vectors, each.round, clock) for each in state.fragments]
        self.indexes = [
            StateIndex(each.round, each.anchor_digest, each.lineage, source.blocks())
            for each, source in zip(state.fragments, self._states, strict=True)
        ]

    @property
    def used_at_s(self) -> float:
        """When any of it was wanted last."""
        return max(state.used_at_s for state in self._states)

    def blob(self, ref: BlobRef) -> Source:
        """Returns what is asked for.

        Raises:
            NotAvailable: another state of that domain.
        """
        index, state = self.indexes[ref.fragment], self._states[ref.fragment]
        if ref.exchange_id not in (b"", index.name):
            raise NotAvailable("that state is not here any more")
        state.touch()
        return BytesSource(index.to_bytes(), index.round) if ref.kind == "index" else state


def read_state(path: Path, manifest: Manifest) -> DomainState:
    """Returns the state in a file.

    Args:
        path: Named after the domain.
        manifest: Of the run.

    Raises:
        ConfigError: it is missing, damaged, or another run's.
    """
    info = _read_info(path, manifest)
    tensors = read_tensors(path)
    fragments = []
    sizes = DomainSizes(domain_manifest(manifest, path.stem))
    for fragment, each in enumerate(info.fragments):
        lengths = sizes.state_lengths(fragment)
        vectors = [tensors.get(f"{fragment}.{place}") for place in range(len(lengths))]
        found = [vector for vector in vectors if vector is not None]
        outlines = [(vector.dtype, tuple(vector.shape)) for vector in found]
        if outlines != [(torch.float32, (length,)) for length in lengths]:
            raise ConfigError(f"{path} does not fit the domain's model")
        if _digest(found) != each.digest:
            raise ConfigError(
                f"{path} is damaged: its bytes are not those that were written; delete it, and "
                "join the run to get it from others"
            )
        try:
            raw = bytes.fromhex(each.lineage).ljust(LINEAGE_BYTES, b"\0")
            digest, lineage = bytes.fromhex(each.anchor_digest), parse_lineage(raw)
        except (ValueError, MalformedMessage) as error:
            raise ConfigError(f"{path} is damaged: {error}") from None
        fragments.append(FragmentState(each.round, digest, lineage, found))
    return DomainState(info.step, info.is_final, fragments)


def kept_experts(folder: Path, manifest: Manifest) -> list[Expert]:
    """Returns the experts of a run that are in a peer's folder, final or not, in the run's order.

    Raises:
        ConfigError: one is damaged.
    """
    experts = []
    for domain in manifest.domains:
        path = folder / KEPT / f"{domain.name}.safetensors"
        if domain.is_expert and path.exists():
            state = read_state(path, manifest)
            anchor = torch.cat([fragment.vectors[0] for fragment in state.fragments])
            child = domain_manifest(manifest, domain.name)
            step = child.inner.total_steps if state.is_final else state.step
            experts.append(expert_of(child, anchor, name=domain.name, step=step))
    return experts


def _digest(vectors: Sequence[Tensor]) -> str:
    hashed = blake3()
    for vector in vectors:
        hashed.update(vector.numpy().data.cast("B"))
    return hashed.hexdigest()


def _read_info(path: Path, manifest: Manifest) -> _Info:
    child = domain_manifest(manifest, path.stem)
    try:
        with safe_open(path, framework="pt") as file:
            info = _Info.model_validate(json.loads(file.get_tensor(_INFO).numpy().tobytes()))
    except ValidationError:
        raise ConfigError(f"{path} is damaged, or of another version") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    if info.run_id != child.run_id or len(info.fragments) != child.method.schedule.fragments:
        raise ConfigError(f"{path} is of another run")
    return info
