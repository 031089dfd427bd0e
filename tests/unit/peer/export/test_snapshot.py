"""A run's newest model, from a peer's folder and from peers over a wire in memory."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from peer.blobs import BytesSource, StateSource
from peer.domains.kept import DomainState, FragmentState, KeptStates
from peer.domains.sizes import DomainSizes
from peer.experts.folder import newest_anchors, read_folder
from peer.export import snapshot as snapshots
from peer.export.fetching import Fetching
from peer.export.snapshot import Snapshot, snapshot_in
from peer.mixing import digest_of
from peer.net.config import WireConfig
from peer.net.wire_memory import MemoryNetwork, MemoryWire
from peer.ports import Directory, Source
from peer.presence import Presence
from peer.train.checkpoint import OUTER
from peer.train.initial import views_of
from peer.train.model import layout_of_run
from protocol.card import Card, Kept
from protocol.domains import domain_manifest
from protocol.errors import ConfigError, NotAvailable
from protocol.identity import PeerId
from protocol.lineage import EMPTY, Lineage
from protocol.machine import BlobRef
from protocol.manifest import Manifest
from protocol.messages import Note
from protocol.state_index import StateIndex
from tests.unit.peer.export.small_run import a_peers_folder, a_run, anchors_of, with_domains


def is_at(snapshot: Snapshot, manifest: Manifest, scale: float) -> bool:
    expected = views_of(layout_of_run(manifest), anchors_of(manifest, scale))
    assert list(snapshot.theta) == list(expected)
    return all(torch.equal(x, expected[name]) for name, x in snapshot.theta.items())


# ---- a folder


def test_a_peers_folder_has_the_model_of_its_newest_good_checkpoint(tmp_path: Path) -> None:
    manifest = a_run()
    folder = a_peers_folder(tmp_path, manifest, 2.0, 3.0)
    snapshot = snapshot_in(folder)
    assert is_at(snapshot, manifest, 3.0)
    assert (snapshot.round, snapshot.rounds, snapshot.step) == (2, (2, 3), 200)
    expected = [digest_of(anchor).hex() for anchor in anchors_of(manifest, 3.0)]
    assert list(snapshot.digests) == expected
    newest = max((folder / "checkpoints").iterdir(), key=lambda path: path.name)
    data = bytearray((newest / OUTER).read_bytes())
    data[-1] ^= 1
    (newest / OUTER).write_bytes(data)
    assert is_at(snapshot_in(folder), manifest, 2.0)
    assert read_folder(folder).experts[0].step == 100, "as for thinwire generate"


def test_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no peer's folder"):
        snapshot_in(tmp_path)
    a_peers_folder(tmp_path, a_run())
    with pytest.raises(ConfigError, match="keeps no model yet"):
        snapshot_in(tmp_path)
    (tmp_path / "ticket.txt").touch()
    with pytest.raises(ConfigError, match=r"comes with: thinwire export .*/ticket.txt"):
        snapshot_in(tmp_path)


def test_a_peer_that_saves_a_newer_checkpoint_meanwhile_disturbs_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = a_run()
    folder = a_peers_folder(tmp_path, manifest, 2.0)

    def read_while_it_runs(folder: Path, run: Manifest) -> Any:
        monkeypatch.setattr(snapshots, "newest_anchors", newest_anchors)
        a_peers_folder(folder, run, 3.0, 4.0, 5.0)  # and the first one is gone
        raise ConfigError("no checkpoint can be used")

    monkeypatch.setattr(snapshots, "newest_anchors", read_while_it_runs)
    assert is_at(snapshot_in(folder), manifest, 5.0)


def a_domains_state(manifest: Manifest, name: str, scale: float, step: int) -> DomainState:
    child = domain_manifest(manifest, name)
    fragments = [
        FragmentState(4, digest_of(anchor), EMPTY, [anchor, torch.zeros_like(anchor)])
        for anchor in anchors_of(child, scale)
    ]
    return DomainState(step, is_final=False, fragments=fragments)


async def test_of_a_run_with_domains_one_has_to_be_named(tmp_path: Path) -> None:
    manifest = with_domains()
    a_peers_folder(tmp_path, manifest)
    with pytest.raises(ConfigError, match=r"\(law, math\): choose one with --domain, or export"):
        snapshot_in(tmp_path)
    with pytest.raises(ConfigError, match="has no domain 'poems'"):
        snapshot_in(tmp_path, "poems")
    with pytest.raises(ConfigError, match="keeps no model of domain law yet"):
        snapshot_in(tmp_path, "law")
    kept = KeptStates(tmp_path, manifest)
    await kept.keep("law", a_domains_state(manifest, "law", 2.0, 300))
    snapshot = snapshot_in(tmp_path, "law")
    assert is_at(snapshot, domain_manifest(manifest, "law"), 2.0)
    assert (snapshot.run.run_id, snapshot.domain) == (manifest.run_id, "law")
    assert (snapshot.round, snapshot.step) == (4, 300)


# ---- peers


class Giver:
    """A peer whose anchors are theta_0 times a number."""

    def __init__(
        self,
        manifest: Manifest,
        scale: float,
        round: int,
        *,
        domain: str = "",
        has: Sequence[int] = (0, 1),
    ) -> None:
        self.is_telling_the_truth = True
        self._domain, self._round, self._has = domain, round, has
        lengths = DomainSizes(manifest).state_lengths(0)
        self._states = [
            StateSource([anchor, *(torch.zeros_like(anchor) for _ in lengths[1:])], round)
            for anchor in anchors_of(manifest, scale)
        ]
        self._digests = [digest_of(anchor) for anchor in anchors_of(manifest, scale)]
        if manifest.method.mixing != "all":
            self._digests = [bytes(32)] * len(self._digests)
        self.gave: list[int] = []

    def on_note(self, src: PeerId, note: Note) -> None:
        raise AssertionError("a visitor says nothing")

    async def blob(self, src: PeerId, ref: BlobRef) -> Source:
        if ref.domain != self._domain or ref.fragment not in self._has:
            raise NotAvailable("not here")
        state = self._states[ref.fragment]
        digest = self._digests[ref.fragment] if self.is_telling_the_truth else b"d" * 32
        lineage = Lineage({(self._round, digest[:8]): 1000 * self._round})
        index = StateIndex(self._round, digest, lineage, state.blocks())
        if ref.kind == "index":
            return BytesSource(index.to_bytes(), self._round)
        self.gave.append(ref.fragment)
        return state


class Nowhere:
    """A directory in which nothing changes."""

    on_reunion = None

    async def read(self, topic: str) -> Any:
        raise AssertionError("nobody reads it")


class Hall:
    """Peers in one process, and a visitor."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._network = MemoryNetwork()
        directory: Any = Nowhere()
        asserted: Directory = directory
        self.presence = Presence(asserted, PeerId("visitor"))
        self.presence.refresh_quietly = self._refresh  # type: ignore[method-assign]
        self.wire = self._start("visitor", Giver(a_run(), 1.0, 0, has=()))
        self.told: list[tuple[int, int]] = []

    async def _refresh(self) -> None:
        """Whoever is there stays."""

    def _start(self, name: str, inbox: Giver) -> MemoryWire:
        config = WireConfig(run_id=self.manifest.run_id, num_fragments=2, progress_s=5.0)
        return MemoryWire(self._network, PeerId(name), config, inbox=inbox)

    def add(self, name: str, giver: Giver, **card: Any) -> Giver:
        self._start(name, giver)
        settings: dict[str, Any] = {"wire_addresses": ("x:1",), "round": giver._round} | card
        self.presence.cards[PeerId(name)] = Card(**settings)
        return giver

    async def fetch(self, domain: str = "", *, wait_s: float = 5.0) -> Snapshot:
        fetching = Fetching(self.manifest, domain, self.presence, self.wire)
        return await fetching.run(wait_s=wait_s, on_progress=lambda *far: self.told.append(far))


async def test_the_newest_anchors_come_from_peers_that_have_them() -> None:
    run = a_run()
    hall = Hall(run)
    hall.add("a", Giver(run, 2.0, 5), step=500)
    hall.add("b", Giver(run, 2.0, 5), step=510)
    hall.add("c", Giver(run, 2.0, 5), step=10**9)
    snapshot = await hall.fetch()
    assert is_at(snapshot, run, 2.0)
    assert (snapshot.rounds, snapshot.step, snapshot.tokens) == ((5, 5), 510, 5000)
    assert list(snapshot.digests) == [digest_of(anchor).hex() for anchor in anchors_of(run, 2.0)]
    total_bytes = sum(DomainSizes(run).state_bytes(fragment) for fragment in range(2))
    assert {total for _, total in hall.told} == {total_bytes}


async def test_who_lies_of_its_anchor_is_passed_over() -> None:
    run = a_run()
    hall = Hall(run)
    hall.add("liar", Giver(run, 9.0, 6), step=600).is_telling_the_truth = False
    with pytest.raises(
        ConfigError, match="none of 1 peers gave us the model of the run within 0 s"
    ):
        await hall.fetch(wait_s=0.0)
    hall.add("b", Giver(run, 2.0, 6), step=600)
    hall.add("c", Giver(run, 2.0, 6), step=600)
    assert is_at(await hall.fetch(), run, 2.0)


async def test_an_anchor_that_is_not_finite_is_not_exported() -> None:
    run = a_run()
    hall = Hall(run)
    hall.add("a", Giver(run, math.nan, 6))
    with pytest.raises(ConfigError, match="none of 1 peers gave us"):
        await hall.fetch(wait_s=0.0)


async def test_where_peers_differ_all_fragments_are_of_one() -> None:
    run = a_run("pairs")
    hall = Hall(run)
    givers = [
        hall.add(name, Giver(run, scale, 5, has=has))
        for name, scale, has in (("a", 2.0, [0]), ("b", 3.0, [0, 1]), ("c", 4.0, [1]))
    ]
    assert is_at(await hall.fetch(), run, 3.0)
    assert sorted(givers[1].gave) == [0, 1]


async def test_a_domains_model_comes_from_who_trains_there_or_keeps_it() -> None:
    run = with_domains()
    hall = Hall(run)
    math_run = domain_manifest(run, "math")
    with pytest.raises(ConfigError, match="choose one with --domain"):
        await hall.fetch()
    hall.add("a", Giver(domain_manifest(run, "law"), 2.0, 9, domain="law"), domain="law", step=900)
    with pytest.raises(ConfigError, match="nobody who has the model of domain math is there"):
        await hall.fetch("math", wait_s=0.0)
    kept = (Kept("math", 4, 410, is_final=True),)
    hall.add("k", Giver(math_run, 5.0, 4, domain="math"), domain="law", kept=kept)
    snapshot = await hall.fetch("math")
    assert is_at(snapshot, math_run, 5.0)
    assert (snapshot.round, snapshot.step, snapshot.domain) == (4, 410, "math")


async def test_before_the_first_round_there_is_nothing_to_export() -> None:
    run = a_run()
    hall = Hall(run)
    with pytest.raises(ConfigError, match="nobody who has the model of the run is there"):
        await hall.fetch(wait_s=0.0)
    hall.add("a", Giver(run, 1.0, 0))
    with pytest.raises(ConfigError, match="the run has had no round yet"):
        await hall.fetch(wait_s=60.0)  # which it does not wait
