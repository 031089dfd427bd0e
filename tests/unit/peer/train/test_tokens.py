import functools
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from peer.train import tokens
from peer.train.data import Corpus
from peer.train.evaluate import bits_per_byte
from peer.train.replica import Replica
from peer.train.run_text import text_of_run
from peer.train.tokens import ByteTokenizer, FileTokenizer, joined, tokenized, tokenizer_of
from protocol.errors import ConfigError
from protocol.manifest import Manifest
from tests.unit.peer.train.hugging import text_of_stdlib, write_tokenizer

pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_tokenizer(folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> FileTokenizer:
    return FileTokenizer(folder / "tokenizer.json")


@functools.cache
def _trained() -> FileTokenizer:
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder) / "tokenizer.json")
        return FileTokenizer(Path(folder) / "tokenizer.json")


def corpus_of(text: bytes) -> Corpus:
    data = np.frombuffer(text, dtype=np.uint8)
    cut = len(data) * 9 // 10
    return Corpus(data[:cut], data[cut:], "a text")


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_widths_are_the_bytes_of_the_text_whatever_the_tokenizer(texts: list[str]) -> None:
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    for each in (_trained(), ByteTokenizer()):
        found, widths = each.measured(texts)
        for text, ids, measured in zip(texts, found, widths, strict=True):
            assert len(ids) == len(measured)
            assert measured.sum() == len(text.encode())
        assert [ids.tolist() for ids in found] == [ids.tolist() for ids in each.encode(texts)]
        whole, measured = joined(each, texts)
        assert len(whole) == len(measured)
        assert measured.sum() == sum(len(text.encode()) + 1 for text in texts)


def test_a_tokenizer_that_skips_spaces_still_counts_them(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"?": 0, "a": 1, "bc": 2}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.enable_truncation(2)
    words.save(str(tmp_path / "words.json"))
    (found,), (widths,) = FileTokenizer(tmp_path / "words.json").measured(["a  bc é a  "])
    assert found.tolist() == [1, 2, 0, 1]
    assert widths.tolist() == [1, 4, 3, 4]


def test_what_looks_like_a_special_token_is_text(tokenizer: FileTokenizer) -> None:
    (end,) = tokenizer.between
    (found,) = tokenizer.encode(["before<|endoftext|>after"])
    assert end not in found
    assert found.dtype == np.uint16


def test_tokens_of_a_corpus_are_those_of_its_text(tokenizer: FileTokenizer) -> None:
    text = text_of_stdlib()[:200_000].encode() + "é".encode() * 100_000
    corpus = corpus_of(text)
    heard: list[str] = []
    found = tokenized(corpus, tokenizer, heard.append)
    vocabulary = tokenizer._tokenizer
    back = "".join(vocabulary.decode_batch([found.train.tolist(), found.validation.tolist()]))
    assert back == text.decode()
    assert found.validation_bytes == len(corpus.validation)
    assert heard[-1].startswith("making tokens of the text")


class Knows(nn.Module):
    """Gives each token of 400 the same probability."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*tokens.shape, 400)


def test_bits_are_for_bytes_of_the_text_not_for_tokens() -> None:
    validation = np.zeros(101, dtype=np.uint16)
    widths = np.full(101, 3, dtype=np.uint32)
    widths[0] = 1000  # nobody predicts the first
    bits = bits_per_byte(Knows(), validation, context=20, max_bytes=10**6, widths=widths)
    assert bits == pytest.approx(np.log2(400) / 3)
    none = bits_per_byte(Knows(), validation, context=20, max_bytes=10**6)
    assert none == pytest.approx(np.log2(400))


def test_training_and_evaluation_with_a_tokenizer_tell_bits_of_a_byte(
    manifest: Manifest, folder: Path
) -> None:
    data = manifest.data.model_copy(
        update={
            "recipe": "stdlib:[ab]*.py",
            "tokenizer": "file:tokenizer.json",
            "vocab_size": 400,
        }
    )
    run = manifest.model_copy(update={"data": data})
    corpus = text_of_run(run, folder)
    replica = Replica(run, corpus, peer_id="a", device=torch.device("cpu"))
    loss = replica.train_step().item() / np.log(2)
    bits = replica.evaluate(None, max_bytes=2000)
    per_token = corpus.validation_bytes / len(corpus.validation)
    assert 1.5 < per_token < 4
    assert loss == pytest.approx(np.log2(400) / per_token, rel=0.1)
    assert bits == pytest.approx(loss, rel=0.3)


def test_another_vocabulary_than_the_manifest_s_is_refused(
    manifest: Manifest, folder: Path
) -> None:
    data = manifest.data.model_copy(update={"tokenizer": "file:tokenizer.json", "vocab_size": 399})
    with pytest.raises(ConfigError, match=r"has 400 tokens, and data\.vocab_size is 399"):
        text_of_run(manifest.model_copy(update={"data": data}), folder)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot read the tokenizer"),
        (b"", "is no tokenizer.json"),
        (b"{}", "is no tokenizer.json"),
        (b"\x80\x04.", "is no tokenizer.json"),
        (b'{"version": "1.0", "model": {"type": "WordLevel", "vocab": {}}}', "."),
    ],
)
def test_what_is_no_tokenizer_is_one_line(tmp_path: Path, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(ConfigError, match=says) as refused:
        tokenizer_of("file:t.json", tmp_path)
    assert "\n" not in str(refused.value)


def test_a_file_too_large_for_a_tokenizer_is_not_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "MAX_FILE_BYTES", 1000)
    with pytest.raises(ConfigError, match="larger than a tokenizer's"):
        FileTokenizer(folder / "tokenizer.json")
