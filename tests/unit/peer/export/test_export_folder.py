"""What `transformers` loads from an export computes what our model computes."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from blake3 import blake3
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from peer.export import folder as exports
from peer.export.byte_tokenizer import spelling, tokenizer_json
from peer.export.folder import FACTS, README, WEIGHTS, require_place, write_export
from peer.export.snapshot import Snapshot, snapshot_of
from peer.export.special_tokens import added_tokens, special_ids
from peer.mixing import digest_of
from peer.train.model import Transformer, initial_anchors, loss
from protocol.errors import ConfigError
from protocol.lineage import Lineage
from protocol.manifest import Manifest, manifest_from
from tests.unit.peer.small_disk import a_small_disk

AT = datetime(2026, 7, 28, 12, 0, 0, tzinfo=UTC)
TEXT = "Ein Satz, μία πρόταση, 一句话 🙂: zwei Zeilen\n\tund \x00 ein Ende."
SHAPES = {
    "swiglu, tied": {"dim": 32, "layers": 2, "heads": 2, "ffn_dim": 40, "context": 64},
    "swiglu, a head": {
        "dim": 24, "layers": 3, "heads": 3, "ffn_dim": 56, "context": 64, "tied_embeddings": False
    },
    "gelu": {
        "dim": 32, "layers": 2, "heads": 4, "ffn_dim": 48, "context": 64, "activation": "gelu"
    },
}  # fmt: skip


def a_manifest(model: dict[str, Any], **settings: Any) -> Manifest:
    method = {"schedule": {"fragments": 2, "pattern": "strided"}}
    return manifest_from({"founder": "x", "model": model, "method": method} | settings)


def a_snapshot(model: dict[str, Any], **settings: Any) -> Snapshot:
    """Returns a model whose logits are far from equal."""
    manifest = a_manifest(model, **settings)
    anchors = [anchor * 4 for anchor in initial_anchors(manifest)]
    lineages = [
        Lineage({(8, b"a" * 8): 10_000, (9, b"b" * 8): 2_000}, horizon=3),
        Lineage({(8, b"c" * 8): 12_345}),
    ]
    return snapshot_of(manifest, "", anchors, rounds=[7, 8], step=700, lineages=lineages)


def ours(snapshot: Snapshot, tokens: Tensor) -> Tensor:
    model = Transformer(snapshot.manifest.transformer, 256)
    model.load_state_dict(snapshot.theta)
    with torch.no_grad():
        logits: Tensor = model(tokens)
    return logits


@pytest.mark.parametrize("name", SHAPES)
def test_the_library_computes_our_logits(tmp_path: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    snapshot = a_snapshot(SHAPES[name])
    done = write_export(snapshot, tmp_path / "out", at=AT, form="hf")
    assert done.is_huggingface
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(report.values()), report
    assert model.dtype == torch.float32
    tokens = torch.randint(0, 256, (3, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = model(tokens).logits
    expected = ours(snapshot, tokens)
    assert expected.std() > 0.1
    assert (theirs - expected).abs().max() < 1e-4
    their_loss = functional.cross_entropy(theirs[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert abs(float(their_loss - loss(expected[:, :-1], tokens[:, 1:]))) < 1e-5


def test_bf16_is_half_as_large_and_near(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    snapshot = a_snapshot(SHAPES["swiglu, tied"])
    small = write_export(snapshot, tmp_path / "bf16", at=AT, dtype="bf16")
    large = write_export(snapshot, tmp_path / "fp32", at=AT)
    header_bytes = 8 * 1024
    assert small.weights.num_bytes < large.weights.num_bytes / 2 + header_bytes
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "bf16")
    assert model.dtype == torch.bfloat16
    embedding = model.get_input_embeddings().weight.float()
    assert torch.allclose(embedding, snapshot.theta["embedding.weight"], rtol=2**-8)


def test_the_library_generates_and_its_tokens_are_bytes(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    write_export(a_snapshot(SHAPES["swiglu, tied"]), tmp_path / "out", at=AT)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert len(tokenizer) == tokenizer.vocab_size == 256
    for text in (TEXT, " leading", "", "a" * 3000, "".join(map(chr, range(0x800)))):
        ids = tokenizer(text)["input_ids"]
        assert ids == list(text.encode())
        assert tokenizer.decode(ids) == text
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    begun = tokenizer("Once", return_tensors="pt")
    drawn = model.generate(**begun, max_new_tokens=5)
    assert drawn.shape == (1, 9)
    assert tokenizer.decode(drawn[0]).startswith("Once")


def test_every_byte_has_a_token_of_its_own_that_decodes_to_it() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    assert len(set(spelling())) == 256
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json())
    assert tokenizer.get_vocab_size() == 256
    alphabet = set(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    assert set(spelling()) == alphabet
    for byte, character in enumerate(spelling()):
        assert tokenizer.id_to_token(byte) == character
        assert tokenizer.token_to_id(character) == byte
    for start in range(0, 0x11000, 0x400):  # each byte that UTF-8 has
        text = "".join(map(chr, range(start, start + 0x400))).encode("utf-8", "ignore").decode()
        assert tokenizer.encode(text).ids == list(text.encode())
        assert tokenizer.decode(list(text.encode())) == text


def test_the_tokenizer_of_the_run_is_the_models(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = {
        "model_type": "gpt2", "vocab_size": 300, "n_embd": 16, "n_layer": 2, "n_head": 1,
        "n_positions": 32, "pad_token_id": 257,
    }  # fmt: skip
    files = tmp_path / "files"
    files.mkdir()
    words = json.loads(tokenizer_json())
    words["model"]["vocab"] |= {"ab": 256}
    words["model"]["merges"] = [["a", "b"]]
    words["added_tokens"] = [added(257, "<|pad|>"), added(258, "<|endoftext|>")]
    (files / "words.json").write_text(json.dumps(words))
    manifest = a_manifest(
        {"kind": "huggingface", "config": config, "context": 32},
        data={"tokenizer": "file:words.json", "vocab_size": 259},
        files=[{"name": "words.json", "size_bytes": 1, "digest": "0" * 64}],
    )
    anchors = initial_anchors(manifest)
    snapshot = snapshot_of(manifest, "", anchors, rounds=[1, 1], step=100, files=files)
    write_export(snapshot, tmp_path / "out", at=AT)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    parameters = dict(model.named_parameters())
    assert parameters.keys() == snapshot.theta.keys()
    assert all(torch.equal(parameters[name], x) for name, x in snapshot.theta.items())
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("cabin")["input_ids"] == [*b"c", 256, *b"in"]
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|pad|>", "<|endoftext|>")
    ends = model.generation_config
    assert (ends.pad_token_id, ends.eos_token_id, model.config.eos_token_id) == (257, 258, 258)
    (files / "words.json").unlink()
    with pytest.raises(ConfigError, match=r"cannot read the tokenizer .*words\.json: No such file"):
        write_export(snapshot, tmp_path / "other", at=AT)


def added(number: int, content: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": content, "special": True} | flags


@pytest.mark.parametrize(
    ("config", "ids"),
    [
        ({}, {"eos_token_id": 4}),
        ({"eos_token_id": None}, {"eos_token_id": 4}),
        ({"eos_token_id": 3, "bos_token_id": 5}, {"eos_token_id": 3, "bos_token_id": 5}),
        ({"eos_token_id": [9, 4]}, {"eos_token_id": [9, 4]}),
    ],
    ids=repr,
)
def test_what_the_configuration_calls_the_end_counts(
    config: dict[str, Any], ids: dict[str, Any]
) -> None:
    names = {3: "<|im_end|>", 4: "</s>", 5: "<s>"}
    words = json.dumps({"added_tokens": [added(i, name) for i, name in names.items()]})
    found = added_tokens(words.encode())
    assert found == names
    assert special_ids({"model_type": "x"} | config, found) == ids


@pytest.mark.parametrize(
    "words",
    [
        b"",
        b"[]",
        b'{"added_tokens": [3]}',
        b'{"added_tokens": [{"id": 1e999, "content": "x"}]}',
        b"[" * 100_000,
    ],
    ids=["empty", "list", "number", "infinite", "deep"],
)
def test_a_tokenizer_that_is_none_has_no_special_tokens(words: bytes) -> None:
    assert added_tokens(words) == {}


# ---- without the library


def test_the_facts_say_which_model_it_is(tmp_path: Path) -> None:
    snapshot = a_snapshot(SHAPES["gelu"], name="small run")
    write_export(snapshot, tmp_path / "out", at=AT, form="safetensors")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {WEIGHTS, FACTS, README}
    theta = load_file(tmp_path / "out" / WEIGHTS)
    assert list(theta.keys() ^ snapshot.theta.keys()) == []
    assert all(torch.equal(theta[name], x) for name, x in snapshot.theta.items())
    facts = json.loads((tmp_path / "out" / FACTS).read_text())
    assert facts["run_id"] == snapshot.run.run_id
    assert (facts["name"], facts["round"], facts["rounds"], facts["step"]) == (
        *("small run", 7, [7, 8]), 700,
    )  # fmt: skip
    anchors = [anchor * 4 for anchor in initial_anchors(snapshot.manifest)]
    assert facts["anchor_digests"] == [digest_of(anchor).hex() for anchor in anchors]
    weights = (tmp_path / "out" / WEIGHTS).read_bytes()
    assert facts[WEIGHTS] == {"num_bytes": len(weights), "digest": blake3(weights).hexdigest()}
    assert (facts["tokens"], facts["uncounted_rounds"]) == (12_000, 3)
    assert facts["parameters"] == sum(x.numel() for x in theta.values())
    assert facts["exported"] == "2026-07-28T12:00:00+00:00"
    assert facts["method"] == snapshot.manifest.method.model_dump(mode="json")


def test_the_card_says_how_to_load_it_and_how_it_came_to_be(tmp_path: Path) -> None:
    snapshot = a_snapshot(SHAPES["gelu"], name="small run")
    for form, words in (
        ("hf", "AutoModelForCausalLM.from_pretrained"),
        ("safetensors", "load_file"),
    ):
        write_export(snapshot, tmp_path / form, at=AT, form=form)  # type: ignore[arg-type]
        card = (tmp_path / form / README).read_text()
        assert words in card
        assert snapshot.run.run_id in card
        assert "after round 7" in card
        assert "12,000, without those of the first 3 rounds" in card
        for fragment, (round, digest) in enumerate(zip((7, 8), snapshot.digests, strict=True)):
            assert f"| {fragment} | {round} | `{digest}` |" in card
        assert "{" not in card


def own_snapshot() -> Snapshot:
    model = {
        "kind": "own",
        "tensors": [{"name": "w", "shape": [2, 3]}, {"name": "scale", "shape": []}],
    }
    manifest = manifest_from(
        {
            "founder": "x",
            "model": model,
            "files": [{"name": "initial.safetensors", "size_bytes": 1, "digest": "0" * 64}],
        }
    )
    return snapshot_of(manifest, "", [torch.arange(7.0)], rounds=[1], step=5)


def test_a_model_of_its_owners_loop_is_its_tensors(tmp_path: Path) -> None:
    snapshot = own_snapshot()
    assert not write_export(snapshot, tmp_path / "out", at=AT).is_huggingface
    theta = load_file(tmp_path / "out" / WEIGHTS)
    assert {name: tuple(x.shape) for name, x in theta.items()} == {"w": (2, 3), "scale": ()}
    assert "code of whoever founded the run" in (tmp_path / "out" / README).read_text()
    with pytest.raises(ConfigError, match="--format hf: transformers does not know"):
        write_export(snapshot, tmp_path / "other", at=AT, form="hf")
    assert not (tmp_path / "other").exists()


def test_nothing_is_ever_overwritten(tmp_path: Path) -> None:
    snapshot = own_snapshot()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("years of work")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("full", "file", "link"):
        with pytest.raises(ConfigError, match="is there already; choose another folder"):
            write_export(snapshot, tmp_path / name, at=AT)
    assert (tmp_path / "full" / "thesis.tex").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    write_export(snapshot, tmp_path / "empty", at=AT)
    assert (tmp_path / "empty" / WEIGHTS).exists()


def test_a_name_that_no_folder_can_have_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot write .*: File name too long"):
        require_place(tmp_path / ("a" * 300))


def test_a_full_disk_is_one_line_before_anything_is_written(tmp_path: Path) -> None:
    snapshot = a_snapshot(SHAPES["gelu"] | {"dim": 256, "ffn_dim": 1024})
    with a_small_disk(tmp_path / "disk") as disk:
        with pytest.raises(ConfigError, match=r"No space left on device: it needs 6\.6 MB") as full:
            write_export(snapshot, disk / "a" / "out", at=AT)
        assert "\n" not in str(full.value)
        assert list(disk.iterdir()) == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_ends_half_way_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*args: object, **kwargs: object) -> str:
        raise error

    monkeypatch.setattr(exports, "model_card", fail)
    expected = ConfigError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        write_export(own_snapshot(), tmp_path / "out", at=AT)
    assert list(tmp_path.iterdir()) == []
