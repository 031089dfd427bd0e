"""Real processes on loopback: a run with domains, and peers that know nothing but its ticket."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from peer.experts.folder import read_models
from peer.run_folder import MANIFEST
from peer.train.model import initial_anchor, layout_of_run
from protocol.domains import domain_manifest
from protocol.manifest import parse_manifest
from tests.net.swarm import Actor, Swarm, wait_for

pytestmark = [pytest.mark.net, pytest.mark.slow, pytest.mark.timeout(300)]

BUDGETS = {"json": 80, "email": 120}
DOMAINS = """
[experts]
copy_every_s = 2.0
""" + "".join(
    f"""
[[domains]]
name = "{name}"
recipe = "stdlib:{name}/*.py"
difficulty = 1.0
total_steps = {steps}
[domains.model]
dim = 32
layers = 2
heads = 1
ffn_dim = 32
context = 16
"""
    for name, steps in BUDGETS.items()
)


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Swarm]:
    swarm = Swarm(tmp_path, "diloco", "int8", DOMAINS)
    yield swarm
    swarm.end()


def has_all(peer: Actor) -> bool:
    done = {event["domain"] for event in peer.events("domain_done")}
    copied = {event["of"] for event in peer.events("domain_copied") if event["is_final"]}
    return done | copied == BUDGETS.keys()


def test_peers_divide_the_domains_and_each_ends_with_every_expert(swarm: Swarm) -> None:
    peers = [swarm.join(name) for name in ("one", "two")]
    wait_for("every expert in every folder", lambda: all(map(has_all, peers)), *peers)
    for peer in peers:
        peer.process.send_signal(signal.SIGTERM)
    for peer in peers:
        assert peer.process.wait(timeout=60) == 0, peer.log
        assert "Traceback" not in peer.log

    landed = {e["domain"] for peer in peers for e in peer.events("landed")}
    assert landed == BUDGETS.keys()
    manifest = parse_manifest((peers[0].folder / MANIFEST).read_bytes())
    by_peer = [{expert.name: expert for expert in read_models(peer.folder)} for peer in peers]
    for name, steps in BUDGETS.items():
        child = domain_manifest(manifest, name)
        first, layout = initial_anchor(child), layout_of_run(child)
        ours, theirs = (experts[name] for experts in by_peer)
        assert ours.step == theirs.step == ours.total_steps == steps
        for entry in layout.entries:
            value = ours.theta[entry.name]
            assert torch.equal(value, theirs.theta[entry.name]), "there is one expert of a domain"
            assert value.isfinite().all()
            began_at = first[entry.start : entry.stop].view(entry.shape)
            assert not torch.equal(value, began_at), f"{name}: {entry.name} was not trained"
