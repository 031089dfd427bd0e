"""A run's model at one moment: its parameters, and which moment that is."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from peer.domains.kept import KEPT, read_state
from peer.experts.folder import newest_anchors
from peer.keeper import lineage_in
from peer.mixing import digest_of
from peer.run_files import files_folder
from peer.run_folder import MANIFEST, TICKET
from peer.train.checkpoint import CheckpointInfo, committed
from peer.train.initial import views_of
from peer.train.model import layout_of_run
from protocol.domains import domain_manifest
from protocol.errors import ConfigError, MalformedMessage
from protocol.lineage import Lineage
from protocol.manifest import Manifest, parse_manifest


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Snapshot:
    """See the module docstring.

    Attributes:
        run: The run's manifest.
        domain: Whose model, in a run with domains; else empty.
        theta: The anchor's parameters by name, fp32 on the CPU, in the model's order.
        rounds: Landings behind each fragment.
        digests: BLAKE3 of each fragment's anchor, in hex; peers with that anchor have the same.
        step: Inner steps behind it, on the run's count.
        lineages: Which landings are in each fragment.
        files: Where the run's files are, if it has any and they are here.
    """

    run: Manifest
    domain: str = ""
    theta: dict[str, Tensor] = field(repr=False)
    rounds: tuple[int, ...]
    digests: tuple[str, ...]
    step: int
    lineages: tuple[Lineage, ...] = ()
    files: Path | None = None

    @property
    def manifest(self) -> Manifest:
        """Of the swarm that trained it: that of the run, or of the domain."""
        return domain_manifest(self.run, self.domain) if self.domain else self.run

    @property
    def round(self) -> int:
        """Landings behind every part of it."""
        return min(self.rounds)

    @property
    def tokens(self) -> int:
        """How many tokens the peers contributed to every part of it; 0 where nobody counts them."""
        return min((sum(lineage.tokens.values()) for lineage in self.lineages), default=0)

    @property
    def uncounted_rounds(self) -> int:
        """How many of the first rounds are forgotten, so that their tokens are not counted."""
        return max((lineage.horizon for lineage in self.lineages), default=0)


def require_domain(run: Manifest, domain: str) -> None:
    """Refuses to export one model of a run with several, unless it is named.

    Raises:
        ConfigError: says what to do.
    """
    if domain:
        domain_manifest(run, domain)
    elif run.domains:
        names = ", ".join(each.name for each in run.domains)
        raise ConfigError(
            f"this run has a model for each domain ({names}): choose one with --domain, or export "
            "all of them from a peer's folder: thinwire experts export DIR"
        )


def snapshot_of(
    run: Manifest,
    domain: str,
    anchors: Sequence[Tensor],
    *,
    rounds: Sequence[int],
    step: int,
    lineages: Sequence[Lineage] = (),
    files: Path | None = None,
) -> Snapshot:
    """Returns the model with these anchors, whose memory becomes its own.

    Args:
        run: The run's manifest.
        domain: Whose anchors.
        anchors: One `[m]` a fragment.
        rounds: Of each.
        step: Inner steps behind them.
        lineages: Of each.
        files: Where the run's files are.
    """
    manifest = domain_manifest(run, domain) if domain else run
    return Snapshot(
        run=run,
        domain=domain,
        theta=views_of(layout_of_run(manifest), list(anchors)),
        rounds=tuple(rounds),
        digests=tuple(digest_of(anchor).hex() for anchor in anchors),
        step=step,
        lineages=tuple(lineages),
        files=files,
    )


def snapshot_in(folder: Path, domain: str = "") -> Snapshot:
    """Returns the newest model in a peer's folder: of its last good checkpoint.

    Args:
        folder: Of a peer; it may be running.
        domain: In a run with domains: whose, of those that the peer keeps.

    Raises:
        ConfigError: there is none, or a domain has to be named.
    """
    path = folder / MANIFEST
    try:
        run = parse_manifest(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{folder} is no peer's folder: cannot read {path}: {error.strerror}"
        ) from None
    except MalformedMessage as error:
        raise ConfigError(f"{path} is damaged: {error}") from None
    require_domain(run, domain)
    if domain:
        return _kept(folder, run, domain)
    anchors, info = _newest(folder, run)
    return snapshot_of(
        *(run, "", anchors),
        rounds=info.rounds,
        step=info.step,
        lineages=[lineage_in(info, fragment) for fragment in range(len(anchors))],
        files=files_folder(folder),
    )


def _newest(folder: Path, run: Manifest) -> tuple[list[Tensor], CheckpointInfo]:
    checkpoints = folder / "checkpoints"
    while True:
        here = committed(checkpoints)
        if not here and (folder / TICKET).exists():
            raise ConfigError(
                f"there is no checkpoint in {folder} yet; from the peers that train now the model "
                f"comes with: thinwire export {folder / TICKET}"
            )
        try:
            return newest_anchors(folder, run)
        except ConfigError:
            if committed(checkpoints) == here:
                raise
            # The peer is running, and has put newer ones in the place of those that we read.


def _kept(folder: Path, run: Manifest, domain: str) -> Snapshot:
    path = folder / KEPT / f"{domain}.safetensors"
    if not path.exists():
        raise ConfigError(
            f"{folder} keeps no model of domain {domain} yet; with the run's ticket it comes from "
            f"other peers: thinwire export TICKET --domain {domain}"
        )
    state = read_state(path, run)
    rounds = [fragment.round for fragment in state.fragments]
    anchors = [fragment.vectors[0] for fragment in state.fragments]
    lineages = [fragment.lineage for fragment in state.fragments]
    return snapshot_of(run, domain, anchors, rounds=rounds, step=state.step, lineages=lineages)


def typical_step(steps: Sequence[int]) -> int:
    """Returns how far a swarm is whose peers say this; no single one can move it far."""
    return statistics.median_low(steps)
