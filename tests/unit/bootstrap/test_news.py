"""What a bootstrap node prints of the swarm."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from rich.console import Console

from bootstrap.cli import _News
from peer.presence import Presence
from peer.run_folder import Run
from protocol.card import Card, Kept
from protocol.identity import Identity, PeerId
from protocol.manifest import manifest_from, sign_manifest

FOUNDER = Identity(b"f" * 32)
A, B = PeerId("a"), PeerId("b")
DOMAINS = [{"name": name, "inner": {"total_steps": 300}} for name in ("law", "wiki")]


@dataclass
class Known:
    cards: dict[PeerId, Card] = field(default_factory=dict)

    def members(self) -> tuple[PeerId, ...]:
        return tuple(sorted(self.cards))


def told(domains: Sequence[object], *swarms: dict[PeerId, Card]) -> list[str]:
    console = Console(width=40, color_system=None)
    news = _News(console)
    manifest = manifest_from({"founder": FOUNDER.peer_id, "domains": list(domains)})
    news.run = Run(manifest, sign_manifest(manifest, FOUNDER))
    with console.capture() as capture:
        for cards in swarms:
            news.on_refresh(cast("Presence", Known(cards)))
    return capture.get().splitlines()


def test_domains_are_told_when_they_stand_otherwise_and_not_at_every_step() -> None:
    law = Card(wire_addresses=(), domain="law", step=10, round=1)
    farther = replace(law, step=20)
    keeps = replace(law, domain="wiki", step=0, kept=(Kept("law", 9, 300, is_final=True),))
    lines = told(DOMAINS, {}, {A: law}, {A: farther}, {A: farther, B: law}, {A: keeps, B: farther})
    assert lines == [
        "0 peers",
        "law waiting for a peer | wiki waiting for a peer",
        "1 peers, round 1",
        "law 1 peer 10/300 | wiki waiting for a peer",
        "2 peers, round 1",
        "law 2 peers 20/300 | wiki waiting for a peer",
        "law done | wiki 1 peer 0/300",
    ]


def test_a_run_of_one_model_is_told_as_ever() -> None:
    assert told([], {}, {A: Card(wire_addresses=(), round=4)}) == ["0 peers", "1 peers, round 4"]
