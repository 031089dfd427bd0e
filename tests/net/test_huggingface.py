"""A run of a Hugging Face model with a tokenizer from a file, joined by ticket alone."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from peer.run_files import files_folder
from peer.train.huggingface import checked_config
from protocol.manifest import INITIAL
from tests.net import swarm as swarms
from tests.net.swarm import PATIENCE_S, Swarm, wait_for
from tests.unit.peer.train.hugging import LLAMA, write_documents, write_tokenizer

transformers = pytest.importorskip("transformers")
pytest.importorskip("datasets")
pytestmark = [pytest.mark.net, pytest.mark.slow, pytest.mark.timeout(300)]

RUN_TOML = """
name = "test"
[method]
preset = "{preset}"
[method.schedule]
interval_steps = 40
[method.codec]
name = "{codec}"
[model]
kind = "huggingface"
pretrained = "PRETRAINED"
context = 32
[data]
recipe = "dataset:json:DOCUMENTS"
tokenizer = "file:tokenizer.json"
validation_frac = 0.2
[inner]
lr = 0.01
batch_sequences = 2
[round]
grace_s = 1.0
progress_s = {progress_s}
"""


@pytest.fixture
def swarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Swarm]:
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    pretrained = tmp_path / "pretrained"
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = transformers.AutoModelForCausalLM.from_config(checked_config(LLAMA))
    model.save_pretrained(pretrained)
    write_tokenizer(pretrained / "tokenizer.json")
    write_documents(tmp_path / "documents.jsonl")
    text = RUN_TOML.replace("PRETRAINED", str(pretrained))
    text = text.replace("DOCUMENTS", str(tmp_path / "documents.jsonl"))
    monkeypatch.setattr(swarms, "RUN_TOML", text)
    made = Swarm(tmp_path, "diloco", "fp32")
    yield made
    made.end()


def thinwire(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "thinwire", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)


def test_strangers_train_a_pretrained_model_with_nothing_but_a_ticket(
    swarm: Swarm, tmp_path: Path
) -> None:
    one, two = (
        swarm.join(name, "--allow-text", "--evaluate-every", "2") for name in ("one", "two")
    )
    both = (one, two)
    wait_for("two rounds", lambda: min(one.round, two.round) >= 2, *both, swarm.bootstrap)
    for peer in both:
        place = files_folder(peer.folder)
        assert sorted(path.name for path in place.iterdir()) == [INITIAL, "tokenizer.json"]
        assert "validation text here is not the run's" not in peer.log

    def landed() -> list[dict[int, str]]:
        return [{e["round"]: e["digest"] for e in peer.events("landed")} for peer in both]

    # Who came later may have taken over the rounds so far.
    wait_for("a round of both", lambda: set.intersection(*map(set, landed())), *both)
    digests = landed()
    common = digests[0].keys() & digests[1].keys()
    assert all(digests[0][round] == digests[1][round] for round in common)
    wait_for("an evaluation", lambda: one.events("evaluated"), *both)
    bits = one.events("evaluated")[-1]["bits_per_byte"]
    assert 0.5 < bits < 5  # chance is about log2(400) / 2

    seen = thinwire("status", swarm.ticket, "--json")
    assert seen.returncode == 0, seen.stderr
    peers = {peer["peer_id"] for peer in json.loads(seen.stdout)["peers"]}
    assert {one.peer_id, two.peer_id} <= peers

    two.process.send_signal(signal.SIGINT)
    assert two.process.wait(PATIENCE_S) == 0
    refused = thinwire("generate", str(two.folder), "--prompt", "def ")
    assert refused.returncode == 2
    assert "huggingface" in refused.stderr
    assert "Traceback" not in refused.stderr
    out = tmp_path / "export"
    done = thinwire("export", str(two.folder), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "thinwire.json").read_text())["round"] >= 2
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert len(tokenizer) == 400
    tokens = tokenizer("def main(self):\n    return self", return_tensors="pt")["input_ids"]
    loss = model(tokens, labels=tokens).loss.item()
    assert loss < torch.log(torch.tensor(400.0)).item() - 1
