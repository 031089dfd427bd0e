"""Real processes that nobody can dial."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.net.swarm import Actor, Swarm, wait_for

pytestmark = [pytest.mark.net, pytest.mark.slow, pytest.mark.timeout(600)]

HIDDEN = ("--announce", "127.0.0.9")
"""Where nobody answers, since it listens at 127.0.0.1."""


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Swarm]:
    swarm = Swarm(tmp_path, "noloco", "bf16")
    yield swarm
    swarm.end()


def says(actor: Actor, *words: str) -> bool:
    return any(all(word in line for word in words) for line in actor.log.splitlines())


def test_peers_that_nobody_can_dial_train_together_and_with_others(swarm: Swarm) -> None:
    hidden = [swarm.join(name, *HIDDEN) for name in ("one", "two")]
    wait_for("two hidden peers to mix", lambda: all(p.round >= 2 for p in hidden), *hidden)
    for peer in hidden:
        wait_for("the way on the screen", lambda p=peer: says(p, "ways:", "1 relayed"), *hidden)
    third = swarm.join("three")
    peers = [*hidden, third]
    goal = max(peer.round for peer in hidden) + 3
    wait_for("all three to mix", lambda: all(peer.round >= goal for peer in peers), *peers)
    ids = {peer.peer_id for peer in hidden}
    wait_for(
        "the third to mix with a hidden one",
        lambda: any(ids & set(e["partners"]) for e in third.events("exchange_begins")),
        *peers,
    )
    wait_for("it to be called back", lambda: says(third, "ways:", "reverse"), *peers)
