"""What a peer brings back from its checkpoint, and what it does not bring a second time."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch

from peer.life import Life
from peer.status import PeerStatus
from tests.unit.peer.test_keeper import TWO_FRAGMENTS, a_rig, keeper_of, mixing_of


class Quiet:
    def __init__(self) -> None:
        self.cards: dict[str, Any] = {}
        self.on_own: Any = None

    async def refresh_quietly(self) -> None:
        return

    def members(self) -> tuple[str, ...]:
        return ()

    def write(self, event: str, **fields: Any) -> None:
        return


async def test_work_that_the_swarm_has_already_is_not_brought_twice(tmp_path: Path) -> None:
    mixing = mixing_of(num_fragments=2)
    async with a_rig(TWO_FRAGMENTS) as rig:
        await rig.port.start([outer.anchor for outer in mixing.outer], step=5, tokens=7)
        rig.trainer.theta += 1.0
        work = rig.trainer.theta.clone()
        path = await keeper_of(tmp_path, mixing).save(rig.port, step=5)
    twin = mixing_of(num_fragments=2)
    keeper_of(tmp_path, twin).load()
    async with a_rig(TWO_FRAGMENTS) as rig:
        parts = SimpleNamespace(
            trainer=rig.port, mixing=twin, presence=Quiet(), events=Quiet(), status=PeerStatus()
        )
        life = Life(cast("Any", parts), evaluate_every_rounds=0)
        await life.resume(path, delivered=[1])
        first, second = twin.layout.fragments
        theta = rig.trainer.theta
        assert torch.equal(theta[first.start : first.stop], work[first.start : first.stop]), (
            "in nobody's average yet"
        )
        torch.testing.assert_close(theta[second.start : second.stop], twin.outer[1].anchor)
        assert not torch.equal(theta[second.start : second.stop], work[second.start : second.stop])
