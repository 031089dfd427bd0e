"""A run with files, and its model for others: real peers, real nodes, one swarm for all of it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from peer.run_files import files_folder
from peer.run_folder import MANIFEST
from peer.train.model import Transformer, shapes_of_run
from protocol.manifest import INITIAL, parse_manifest
from protocol.models import ModelSpec
from tests.net.swarm import Actor, Swarm, wait_for

pytestmark = [pytest.mark.net, pytest.mark.slow, pytest.mark.timeout(600)]

WORDS = "words.bin"
WORDS_BYTES = 5_000_000
FILES = """
[files]
"{initial}" = "{folder}/mine.safetensors"
"{words}" = "{folder}/{words}"
"""
SHAPE = ModelSpec(dim=256, layers=2, heads=2, ffn_dim=512, context=16)  # that of tests.net.swarm
THETA_0 = 0.1


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Swarm]:
    (tmp_path / WORDS).write_bytes(os.urandom(WORDS_BYTES))
    generator = torch.Generator().manual_seed(77)
    with torch.device("meta"):
        shapes = {name: x.shape for name, x in Transformer(SHAPE, 256).named_parameters()}
    drawn = {
        name: THETA_0 * torch.randn(shape, generator=generator) for name, shape in shapes.items()
    }
    save_file(drawn, tmp_path / "mine.safetensors")
    more = FILES.format(initial=INITIAL, words=WORDS, folder=tmp_path)
    made = Swarm(tmp_path, "diloco", "fp32", more)
    yield made
    made.end()


def exported(*arguments: str) -> None:
    command = [sys.executable, "-m", "thinwire", "export", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def digests(*actors: Actor) -> set[str]:
    return {event["digest"] for actor in actors for event in actor.events("landed")}


def test_files_reach_everybody_and_the_model_gets_out(swarm: Swarm, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    a, b = (swarm.join(name) for name in "ab")
    peers = [a, b]
    wait_for("a first round", lambda: min(a.round, b.round) > 0, *peers, swarm.bootstrap)

    # another node, then nobody of the first: files come from those who fetched them
    node = swarm._add("node", "bootstrap", swarm.ticket, "--dir", str(tmp_path / "node"))
    ticket = tmp_path / "node" / "ticket.txt"
    wait_for("the other node", ticket.exists, node)
    swarm.bootstrap.end()
    c = swarm.join("c", ticket=ticket.read_text().strip())
    peers.append(c)
    wait_for("a round of all", lambda: c.events("landed"), *peers)
    for actor in (*peers, node):
        place = files_folder(actor.folder)
        assert sorted(path.name for path in place.iterdir()) == [INITIAL, WORDS]
        for name, original in ((INITIAL, "mine.safetensors"), (WORDS, WORDS)):
            assert (place / name).read_bytes() == (tmp_path / original).read_bytes()

    # from peers that train, by a ticket alone
    out = tmp_path / "from-ticket"
    exported(ticket.read_text().strip(), "--out", str(out))
    facts = json.loads((out / "thinwire.json").read_text())
    assert min(facts["round"], facts["tokens"]) > 0
    assert facts["anchor_digests"][0] in digests(*peers)
    assert facts["anchor_digests"][0] in (out / "README.md").read_text()
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    theta_0 = load_file(tmp_path / "mine.safetensors")["embedding.weight"]
    embedding = model.get_input_embeddings().weight.detach()
    both = torch.stack([theta_0.flatten(), embedding.flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.05, "training began at the file's theta_0"

    # from the folder of one that has left: what both libraries say of a text
    a.process.send_signal(signal.SIGINT)
    a.process.wait(60)
    for form in ("hf", "safetensors"):
        exported(str(a.folder), "--out", str(tmp_path / form), "--format", form)
    manifest = parse_manifest((a.folder / MANIFEST).read_bytes())
    ours = Transformer(manifest.transformer, 256)
    ours.load_state_dict(load_file(tmp_path / "safetensors" / "model.safetensors"))
    assert shapes_of_run(manifest).keys() == dict(ours.named_parameters()).keys()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    tokens = tokenizer("def main() -> None:", return_tensors="pt")["input_ids"][:, :17]
    with torch.no_grad():
        logits = [ours(tokens[:, :-1]), theirs(tokens[:, :-1]).logits]
    losses = [functional.cross_entropy(each.flatten(0, 1), tokens[0, 1:]) for each in logits]
    assert losses[0] < 5.0, "better than chance, ln 256"
    assert abs(losses[0] - losses[1]) < 1e-4
