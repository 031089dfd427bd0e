"""A small swarm that is cut at one of its boundaries, and what must hold.

What is seen of each survivor afterwards, whenever it is at rest, is the state before a landing or
the one after it: never one half of each. Boundaries, and how a run is cut there, are in
`tests.sim.boundaries`.

`python -m tests.sim.cuts SCENE NUMBER KIND` replays a cut and prints its trace.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast
from unittest.mock import patch

import torch

from peer.mixing import digest_of
from peer.sim.network import LinkSpec
from peer.sim.peer import Seat, SimPeer
from peer.sim.swarm import SimSwarm
from protocol.exchange import Phase
from protocol.identity import PeerId, peer_id_of
from protocol.manifest import Manifest, manifest_from
from tests.sim import chaos
from tests.sim.averages import Averages
from tests.sim.boundaries import APART_S, Blade, Boundary, Cut, Kind, hooked

LINK = LinkSpec(up_bps=2e6, down_bps=20e6, latency_s=0.02, latency_cv=0.3)
ROUND = {"grace_s": 1.0, "progress_s": 1.5}
"""Who is not heard of does not hold up the others for long, so a cut run is soon over."""
STEPS_S = (0.5, 0.53, 0.47, 0.51)
"""Of the peers, so that none of them keeps in step with another."""
PATIENCE_S = 40.0
"""After a death, or after a path is open again, all must have gone on by then."""
ROUNDS = 2
"""That everybody has to land until it is believed that they go on."""
LOOK_S = 0.3


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A small swarm, and when its boundaries are counted."""

    method: dict[str, Any]
    from_s: float
    until_s: float
    fragments: int = 1
    interval_steps: int = 4
    overlap_steps: int = 0
    joins_s: float | None = None
    """When a newcomer is started."""
    freezes: tuple[float, float] | None = None
    """When the first peer is stopped, and for how long."""

    def manifest(self) -> Manifest:
        """Returns the run."""
        schedule = {
            "interval_steps": self.interval_steps,
            "fragments": self.fragments,
            "overlap_steps": self.overlap_steps,
        }
        method = {**self.method, "schedule": schedule}
        return manifest_from({"founder": peer_id_of(bytes(32)), "method": method, "round": ROUND})


ALL = {"mixing": "all", "outer": {"rule": "nesterov"}}
PAIRS = {"mixing": "pairs", "outer": {"rule": "noloco"}}
GROUPS = {"mixing": "groups", "group_size": 3, "outer": {"rule": "noloco"}}
SCENES = {
    "all": Scene(
        method={**ALL, "codec": {"name": "int8", "block": 8}},
        fragments=2,
        interval_steps=8,
        from_s=2.2,
        until_s=6.2,
    ),
    "eager": Scene(
        method={"mixing": "all", "outer": {"rule": "eager"}},
        overlap_steps=1,
        from_s=2.2,
        until_s=5.0,
    ),
    "pairs": Scene(method=PAIRS, from_s=2.2, until_s=5.0),
    "groups": Scene(method=GROUPS, from_s=2.2, until_s=5.5),
    "newcomer": Scene(method=ALL, joins_s=7.0, from_s=7.0, until_s=9.0),
    "newcomer-pairs": Scene(method=PAIRS, joins_s=7.0, from_s=7.0, until_s=9.0),
    "replay": Scene(method=ALL, freezes=(2.2, 3.0), from_s=5.15, until_s=6.5),
    "frozen": Scene(method=ALL, freezes=(2.2, 20.0), from_s=24.4, until_s=28.0),
}


# ---- playing a scene


class Stage(chaos.Checked):
    """A scene's swarm, whose ledgers, and averages if any, are kept from the first moment."""

    def __init__(self, scene: Scene, averages: Averages | None) -> None:
        self._averages = averages
        super().__init__(chaos.Case(scene.manifest(), (), ()), 0)

    def join(self, seat: Seat | None = None) -> SimPeer:
        """Starts a peer."""
        peer = super().join(Seat(link=LINK, step_s=STEPS_S[len(self.peers)], step_cv=0.05))
        if self._averages:
            self._averages.watch(peer)
        return peer


@contextmanager
def stage_of(
    scene: Scene, cut: Cut | None, *, is_hooked: bool = True
) -> Iterator[tuple[Stage, Blade, Averages]]:
    """Sets a scene up, and its blade."""
    averages = Averages()
    with Stage(scene, averages if is_hooked else None) as swarm, ExitStack() as stack:
        blade = Blade(swarm, scene.from_s, scene.until_s, cut)
        if is_hooked:
            stack.enter_context(hooked(blade, swarm, averages.note))
        first, *_ = (swarm.join() for _ in range(3))
        if scene.joins_s is not None:
            swarm.clock.at(scene.joins_s, swarm.join)
        if scene.freezes is not None:
            at_s, for_s = scene.freezes
            swarm.clock.at(at_s, lambda: swarm.freeze(first, for_s))
        yield swarm, blade, averages


def boundaries_of(name: str) -> list[Boundary]:
    """Returns all boundaries of a scene, in order."""
    scene = SCENES[name]
    with stage_of(scene, None) as (swarm, blade, _):
        swarm.run(scene.until_s)
        return blade.crossed


def play(cut: Cut) -> Counter[str]:
    """Plays a scene up to its cut, and on until all have gone on; returns what was seen.

    Raises:
        AssertionError: something that must hold does not.
    """
    scene = SCENES[cut.scene]
    with stage_of(scene, cut) as (swarm, blade, averages):
        swarm.run(scene.until_s)
        assert blade.fired_s is not None, "there was no cut"
        calm_s = blade.fired_s + (APART_S if cut.kind == "apart" else 0.0)
        before = {peer.peer_id: peer.rounds for peer in swarm.peers.values() if is_there(peer)}
        seen: Counter[str] = Counter(cuts=1)
        while swarm.clock.now_s < calm_s or not have_gone_on(swarm, before):
            assert swarm.clock.now_s < calm_s + PATIENCE_S, f"no rounds any more since {before}"
            swarm.run(swarm.clock.now_s + LOOK_S)
            seen += look(swarm, has_split=cut.kind == "apart")
        assert seen["at rest"] >= ROUNDS
        seen["partial averages"] = averages.num_partial
        seen["averages"] = averages.num_checked
        seen["patience_s"] = round(swarm.clock.now_s - calm_s)
        return seen


# ---- what must hold


def look(swarm: Stage, *, has_split: bool) -> Counter[str]:
    """Looks at each survivor that is at rest.

    Args:
        swarm: Whose.
        has_split: Somebody was apart from the others, so both sides may have gone on.
    """
    seen: Counter[str] = Counter()
    all_landings = chaos.landings(swarm)
    assert_landed_once(all_landings, has_split=has_split)
    survivors = [peer for peer in swarm.running() if is_there(peer)]
    if len(survivors) == 2 and not has_split:
        assert_one_at_most_is_left_out([all_landings[peer.peer_id] for peer in survivors])
    for ledger in swarm.ledgers:
        peer = ledger.peer
        if peer in survivors and chaos.is_at_rest(peer):
            seen["at rest"] += 1
            ledger.assert_balanced(chaos.done_of(swarm, peer))
            chaos.assert_tokens_conserved(peer)
            assert_agrees_with_itself(peer)
    if swarm.task.manifest.method.mixing == "all" and not has_split:
        assert_anchors_are_common(swarm, survivors)
    return seen


def is_there(peer: SimPeer) -> bool:
    """Whether a peer runs, and has entered."""
    return peer.is_running and peer.trained_from_s is not None


def assert_landed_once(all_landings: dict[str, list[dict[str, Any]]], *, has_split: bool) -> None:
    """No exchange landed twice at a peer, and whoever landed one came to the same anchor."""
    digests: defaultdict[tuple[int, str], set[str]] = defaultdict(set)
    for peer_id, landed in all_landings.items():
        ids = Counter((fields["fragment"], fields["exchange_id"]) for fields in landed)
        assert max(ids.values()) == 1, f"{peer_id} landed an exchange twice"
        for fields in landed:
            # A replay from the other side of a split only shows that anchors differ.
            if fields["contributed"] or not has_split:
                digests[fields["fragment"], fields["exchange_id"]].add(fields["digest"])
    unequal = [key for key, found in digests.items() if len(found) > 1]
    assert not unequal, f"who landed {unequal} came to unequal anchors"


def assert_one_at_most_is_left_out(landings: Sequence[list[dict[str, Any]]]) -> None:
    """Of an exchange that survivors have landed, one at most is without its own contribution."""
    left_out = Counter(
        (fields["fragment"], fields["exchange_id"])
        for landed in landings
        for fields in landed
        if not fields["contributed"]
    )
    assert max(left_out.values(), default=0) <= 1, f"all survivors are left out: {left_out}"


def assert_agrees_with_itself(peer: SimPeer) -> None:
    """Anchor, digest, what the trainer has and what the machine believes are of one round."""
    for machine, outer in zip(peer.driver._machines, peer.mixing.outer, strict=True):
        if peer.mixing._is_common:
            assert outer.digest == digest_of(outer.anchor)
        if machine.phase not in (Phase.LANDING, Phase.CATCHING_UP):
            assert (machine.round, machine.anchor_digest) == (outer.round, outer.digest)


def assert_anchors_are_common(swarm: SimSwarm, survivors: Sequence[SimPeer]) -> None:
    """Equal rounds have equal anchors."""
    for fragment in range(len(swarm.task.layout.fragments)):
        outers = [peer.mixing.outer[fragment] for peer in survivors]
        anchors = {(outer.round, outer.digest) for outer in outers}
        assert len(anchors) == len({outer.round for outer in outers}), f"anchors differ: {anchors}"


def have_gone_on(swarm: SimSwarm, before: dict[PeerId, list[int]]) -> bool:
    """Whether all survivors have landed since, in every fragment."""
    return all(
        now >= then + ROUNDS
        for peer in swarm.running()
        if peer.peer_id in before
        for now, then in zip(peer.rounds, before[peer.peer_id], strict=True)
    )


def main() -> None:
    """Replays a cut, and prints its trace."""
    torch.set_num_threads(1)
    scene, number, kind = sys.argv[1:]
    boundary = boundaries_of(scene)[int(number)]
    cut = Cut(scene, int(number), boundary, cast("Kind", kind))
    close = SimSwarm.close

    def close_and_tell(swarm: SimSwarm) -> None:
        print(*swarm.trace.lines(), cut, sep="\n")
        close(swarm)

    with patch.object(SimSwarm, "close", close_and_tell):
        print(play(cut))


if __name__ == "__main__":
    main()
