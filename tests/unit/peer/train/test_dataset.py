import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from peer.train import dataset
from peer.train.alone import train_alone
from peer.train.data import check_validation, validation_digest, with_validation
from peer.train.dataset import streamed_corpus
from peer.train.dataset_recipe import DatasetRecipe
from peer.train.recipes import operator_globs
from peer.train.run_text import text_of_run
from peer.train.tokens import ByteTokenizer
from protocol.errors import ConfigError
from protocol.manifest import DataSpec, manifest_from
from tests.unit.peer.train.hugging import LLAMA, settings_of, write_documents, write_tokenizer

datasets = pytest.importorskip("datasets")

BYTES = ByteTokenizer()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    write_documents(folder / "a.jsonl", column="body")
    return folder


@pytest.fixture(scope="module")
def recipe(folder: Path) -> str:
    return f"dataset:json:{folder}/*.jsonl?column=body"


@pytest.fixture(scope="module")
def documents(folder: Path) -> list[str]:
    return write_documents(folder / "a.jsonl", column="body")


def read(blocks: Iterator[Any], num_bytes: int) -> str:
    parts: list[bytes] = []
    while sum(map(len, parts)) < num_bytes:
        parts.append(next(blocks).tobytes())
    return b"".join(parts).decode()


# ---- recipes


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("dataset:wikitext", ("hub", "wikitext", "", "", "train", "text", "")),
        (
            "dataset:allenai/c4?config=en&revision=607bd4c8&column=words&validation=validation",
            ("hub", "allenai/c4", "en", "607bd4c8", "train", "words", "validation"),
        ),
        ("dataset:json:/a/?.jsonl", ("json", "/a/?.jsonl", "", "", "train", "text", "")),
        ("dataset:parquet:/a/*?column=x", ("parquet", "/a/*", "", "", "train", "x", "")),
        ("dataset:text:/a/*.txt", ("text", "/a/*.txt", "", "", "train", "text", "")),
    ],
)
def test_a_recipe_is_parsed(recipe: str, expected: tuple[str, ...]) -> None:
    found = DatasetRecipe.parse(recipe)
    parts = found.kind, found.place, found.config, found.revision, found.split
    assert (*parts, found.column, found.validation) == expected


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ("dataset:", "write dataset:ORG/NAME"),
        ("dataset:/etc", "write dataset:ORG/NAME"),
        ("dataset:../x", "write dataset:ORG/NAME"),
        ("dataset:a/b/c", "write dataset:ORG/NAME"),
        ("dataset:https://example.org/x.json", "write dataset:ORG/NAME"),
        ("dataset:hf://datasets/a/b", "write dataset:ORG/NAME"),
        ("dataset:a/b?colour=red", "no option 'colour'"),
        ("dataset:a/b?trust_remote_code=1", "no option 'trust_remote_code'"),
        ("dataset:json:/a?split=train", "no option 'split'"),
        ("dataset:a/b?column=", "is no plain name"),
        ("dataset:a/b?config=../..", "is no plain name"),
        ("dataset:a/b?column=x&column=y", "given twice"),
        ("dataset:a/b?validation=train", "is the split that is trained on"),
    ],
)
def test_what_is_no_recipe_is_refused(recipe: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        DatasetRecipe.parse(recipe)


def test_files_of_the_operator_s_own_need_consent() -> None:
    assert operator_globs("dataset:json:/home/me/*.jsonl?column=x")
    assert operator_globs("dataset:parquet:/home/me/*.parquet")
    assert operator_globs("dataset:text:/home/me/*.txt")
    assert not operator_globs("dataset:allenai/c4?config=en")


def test_a_name_on_the_hub_is_never_a_folder_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "diary").mkdir()
    (tmp_path / "diary" / "a.txt").write_text("secret")
    with pytest.raises(ConfigError, match="there is a diary in this folder"):
        streamed_corpus("dataset:diary", 0.1, BYTES)


class Builder:
    """Of a dataset on the hub, as far as it is used, with text from here."""

    __module__ = "datasets.packaged_modules.json.json"

    def __init__(self, path: Path, file: str) -> None:
        self.config = SimpleNamespace(data_files={"train": [file]})
        self._path = path
        self.splits: list[str] = []

    def as_streaming_dataset(self, split: str) -> Any:
        self.splits.append(split)
        return datasets.load_dataset(
            "json", data_files=str(self._path), split="train", streaming=True
        )


HUB = "dataset:org/name?config=en&revision=abc&column=body&validation=test"


def test_the_hub_is_asked_without_a_token(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder, asked = Builder(folder / "a.jsonl", "gzip://a::hf://datasets/org/name@abc/a.gz"), []

    def load(*args: Any, **options: Any) -> Any:
        asked.append((args, options))
        return builder

    monkeypatch.setattr(datasets, "load_dataset_builder", load)
    corpus = streamed_corpus(HUB, 0.1, BYTES)
    assert corpus.stream is not None
    assert read(corpus.stream("me"), 100)
    assert builder.splits[:2] == ["test", "train"]
    assert asked[0] == (("org/name", "en"), {"revision": "abc", "token": False})


@pytest.mark.parametrize(
    "file", ["/etc/passwd", "https://example.org/a.json", "zip://hf://datasets/a::/etc/x.zip"]
)
def test_a_dataset_that_leads_elsewhere_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    builder = Builder(folder / "a.jsonl", file)
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *args, **options: builder)
    with pytest.raises(ConfigError, match="names a file that is not its own"):
        streamed_corpus(HUB, 0.1, BYTES)


@pytest.mark.parametrize(
    "module", ["datasets.packaged_modules.pandas.pandas", "datasets_modules.json.json.json", "x"]
)
def test_a_dataset_of_another_format_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    builder = Builder(folder / "a.jsonl", "hf://datasets/org/name@abc/a")
    monkeypatch.setattr(Builder, "__module__", module)
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *args, **options: builder)
    with pytest.raises(ConfigError, match="is no text in the formats"):
        streamed_corpus(HUB, 0.1, BYTES)


# ---- what is read


def test_validation_is_the_same_for_all_and_trained_on_by_nobody(
    recipe: str, documents: list[str]
) -> None:
    first, second = (streamed_corpus(recipe, 0.1, BYTES) for _ in range(2))
    assert validation_digest(first) == validation_digest(second)
    held_out = first.validation.tobytes().decode()
    assert first.stream is not None
    trained = read(first.stream("me"), 3 * sum(map(len, documents)))
    chosen = [text for text in documents if text in held_out and len(text) > 200]
    assert 0.03 < len(held_out) / sum(map(len, documents)) < 0.2
    assert chosen
    assert not [text for text in chosen if text in trained]
    assert all(text in trained for text in documents if text not in held_out)


def test_peers_and_epochs_read_different_orders_without_end(
    recipe: str, documents: list[str]
) -> None:
    corpus = streamed_corpus(recipe, 0.1, BYTES)
    assert corpus.stream is not None
    size = sum(map(len, documents))
    one, again, other = (read(corpus.stream(owner), 2 * size) for owner in ("one", "one", "other"))
    assert one == again
    assert one[:500] != other[:500]
    assert one[:5000] not in one[5000:]  # the next epoch has another order


def test_a_link_that_fails_is_tried_again(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = streamed_corpus(recipe, 0.1, BYTES)
    naps: list[float] = []
    monkeypatch.setattr("time.sleep", naps.append)
    load_builder, failures = datasets.load_dataset_builder, iter([OSError("unplugged")] * 3)

    def load(*args: Any, **options: Any) -> Any:
        if failure := next(failures, None):
            raise failure
        return load_builder(*args, **options)

    monkeypatch.setattr(datasets, "load_dataset_builder", load)
    assert corpus.stream is not None
    assert read(corpus.stream("me"), 1000)
    assert naps == [2, 4, 8]
    failures = iter([OSError("unplugged")] * 99)
    with pytest.raises(ConfigError, match="OSError: unplugged"):
        next(corpus.stream("me"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("", r"no column 'text'; there is body, number; add \?column=NAME"),
        ("?column=number", "there is no text in 'number'"),
    ],
)
def test_a_column_without_text_is_told(folder: Path, options: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        streamed_corpus(f"dataset:json:{folder}/*.jsonl{options}", 0.1, BYTES)


def test_a_dataset_without_a_row_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "a.jsonl").write_text("")
    for place, says in (
        (f"text:{tmp_path}/a.txt", "there is no text in 'text'"),
        (f"json:{tmp_path}/a.jsonl", "there is nothing in it"),
        (f"parquet:{tmp_path}/*.parquet", "matches no file on this machine"),
    ):
        with pytest.raises(ConfigError, match=says) as refused:
            streamed_corpus(f"dataset:{place}", 0.1, BYTES)
        assert f"dataset:{place}" in str(refused.value)


def test_paragraphs_of_plain_text_are_documents(tmp_path: Path, documents: list[str]) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(documents))
    corpus = streamed_corpus(f"dataset:text:{tmp_path}/*.txt", 0.2, BYTES)
    assert corpus.stream is not None
    trained = read(corpus.stream("me"), 3 * sum(map(len, documents)))
    held_out = corpus.validation.tobytes().decode()
    assert all((text in trained) or (text in held_out) for text in documents)


def test_without_the_package_one_line_says_what_to_install(
    recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"needs pip install 'thinwire\[hf\]'"):
        streamed_corpus(recipe, 0.1, BYTES)


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("no json")
    for text in (f"dataset:json:{tmp_path}/*.jsonl", "dataset:json:/nowhere/*", "dataset:no/such"):
        with pytest.raises(ConfigError) as refused:
            streamed_corpus(text, 0.1, BYTES)
        assert "\n" not in str(refused.value)


def test_parquet_is_read_too(
    tmp_path: Path, documents: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({"text": documents})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    corpus = streamed_corpus(f"dataset:parquet:{tmp_path}/*.parquet", 0.2, BYTES)
    assert corpus.stream is not None
    assert read(corpus.stream("a"), 5000) != read(corpus.stream("b"), 5000)


def test_not_more_than_needed_is_looked_at(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "VALIDATION_BYTES", 5000)
    few = streamed_corpus(recipe, 0.5, BYTES)
    assert 5000 <= few.validation_bytes < 20_000
    monkeypatch.setattr(dataset, "MAX_LOOKED_AT_BYTES", 2000)
    with pytest.raises(ConfigError, match="bytes of validation text, of at least 1024"):
        streamed_corpus(recipe, 1e-9, BYTES)


# ---- training on it


def test_a_hugging_face_model_learns_a_streamed_dataset_in_tokens_of_a_file(
    recipe: str, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    write_tokenizer(tmp_path / "tokenizer.json")
    data = {"recipe": recipe, "tokenizer": "file:tokenizer.json", "vocab_size": 400}
    file = {"name": "tokenizer.json", "size_bytes": 1, "digest": "0" * 64}
    run = manifest_from(settings_of(LLAMA, data=data, files=[file]))
    corpus = text_of_run(run, tmp_path)
    spec = with_validation(run.data, corpus)
    assert spec.validation_bytes == corpus.validation_bytes > 1024
    assert check_validation(corpus, spec) is None
    assert check_validation(corpus, DataSpec(validation_digest="0" * 64)) is not None
    alone = train_alone(run, 60, corpus=corpus)
    per_token = corpus.validation_bytes / len(corpus.validation)
    assert alone.losses[0] == pytest.approx(np.log(400) / per_token, rel=0.1)
    assert np.mean(alone.losses[-5:]) < 0.8 * alone.losses[0]
    assert alone.replica.evaluate(None, max_bytes=10_000) < np.log2(400) / per_token
    assert torch.isfinite(alone.replica.train_step())
