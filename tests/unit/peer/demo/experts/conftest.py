"""A play with domains that went well, as its actors would have written it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peer.demo.experts.play import Kill, Play
from peer.demo.experts.report import Judged
from peer.demo.experts.script import DOMAINS, PEERS
from peer.demo.experts.watch import MemberView
from protocol.manifest import Manifest, manifest_from

STEPS = 200
BEGAN_S = 1000.0
Events = list[dict[str, Any]]
Write = Callable[[str, Events], MemberView]


@pytest.fixture
def manifest() -> Manifest:
    domains = [
        {"name": domain.name, "difficulty": 4.0, "inner": {"total_steps": STEPS}}
        for domain in DOMAINS
    ]
    return manifest_from({"name": "demo", "founder": "somebody", "domains": domains})


@pytest.fixture
def write_peer(tmp_path: Path) -> Write:
    """Returns the view of a peer that wrote these events, after what it had written before."""

    def write(name: str, events: Events) -> MemberView:
        path = tmp_path / name / "events.jsonl"
        path.parent.mkdir(exist_ok=True)
        with path.open("a") as file:
            for event in events:
                file.write(json.dumps({"peer_id": f"id-{name}", **event}) + "\n")
        view = MemberView(name, path)
        view.look()
        return view

    return write


@pytest.fixture
def play(manifest: Manifest, write_peer: Write) -> Play:
    """Peer-2 dies alone in `manual`, and peer-4 comes from `cpp`; ten steps a second."""
    play = Play(BEGAN_S, manifest)
    lives = {
        "peer-1": [*stay("python", 10, 0, STEPS), *ends("python", 30)],
        "peer-2": stay("manual", 10, 0, 90),
        "peer-3": [*stay("cpp", 10, 0, STEPS), *ends("cpp", 30)],
        "peer-4": [
            *stay("cpp", 10, 0, 100),
            copied("manual", 18, 80, is_final=False),
            {"event": "domain_left", "to": "manual", "t_unix_s": 1035.0, "domain": "cpp"},
            *stay("manual", 40, 80, STEPS),
            *ends("manual", 52),
        ],
    }
    finals = {"peer-1": ("manual", "cpp"), "peer-3": ("python", "manual")}
    finals["peer-4"] = ("python", "cpp")
    for name in PEERS:
        fetched = [copied(of, 55, STEPS, is_final=True) for of in finals.get(name, ())]
        play.peers[name] = write_peer(name, [*lives[name], *fetched])
    play.kill = Kill("peer-2", "manual", 90, 80, 19.5)
    play.done_s = {"python": 30.0, "cpp": 30.0, "manual": 52.0}
    play.complete_s = 56.0
    play.exit_codes = {"bootstrap": 0, "peer-1": 0, "peer-3": 0, "peer-4": 0}
    return play


@pytest.fixture
def judged() -> list[Judged]:
    names = [domain.name for domain in DOMAINS]
    experts = [
        Judged(name, "expert", {other: 2.0 + 2 * (other != name) for other in names}, 10 / 3)
        for name in names
    ]
    ensembles = [
        Judged(prior, "ensemble", dict.fromkeys(names, 2.05), 2.05)
        for prior in ("uniform", "estimated")
    ]
    return experts + ensembles


def stay(domain: str, since_s: float, first: int, last: int) -> Events:
    """Returns what a peer writes that trains in a domain."""
    begin = {"t_unix_s": BEGAN_S + since_s, "domain": domain}
    events: Events = [begin | {"event": "domain_chosen"}]
    events.append(begin | {"event": "joined", "step": first, "round": first // 20})
    for step in range(first + 10, last + 1, 10):
        now = begin | {"t_unix_s": BEGAN_S + since_s + (step - first) / 10, "step": step}
        events.append(now | {"event": "progress", "loss_bits_per_byte": 3.0})
        if step % 20 == 0:
            events.append(now | {"event": "landed", "round": step // 20, "contributed": True})
    return events


def ends(domain: str, at_s: float) -> Events:
    now = {"t_unix_s": BEGAN_S + at_s, "domain": domain, "step": STEPS, "round": STEPS // 20}
    return [now | {"event": "domain_done"}, now | {"event": "left"}]


def copied(of: str, at_s: float, step: int, *, is_final: bool) -> dict[str, Any]:
    event = {"event": "domain_copied", "of": of, "step": step, "round": step // 20}
    return event | {"t_unix_s": BEGAN_S + at_s, "is_final": is_final}
