"""The run's files: put into a folder by who founds a run, and served grain by grain."""

import os
from itertools import pairwise
from pathlib import Path

import pytest
from blake3 import blake3

from peer.run_files import (
    GRAIN_BYTES,
    FilesInbox,
    FileSource,
    add_files,
    digest_of,
    files_folder,
    missing_files,
)
from peer.run_folder import MANIFEST
from protocol.errors import ConfigError, NotAvailable
from protocol.identity import PeerId
from protocol.machine import BlobRef
from protocol.manifest import FileSpec, Manifest, manifest_from
from protocol.messages import Note

SRC = PeerId("somebody")


def manifest_with(specs: list[FileSpec]) -> Manifest:
    return manifest_from({"founder": "x", "files": [spec.model_dump() for spec in specs]})


def a_file(path: Path, size_bytes: int) -> bytes:
    data = os.urandom(size_bytes)
    path.write_bytes(data)
    return data


# ---- founding


def test_what_the_manifest_says_of_a_file_is_its_size_and_its_digest(tmp_path: Path) -> None:
    data = a_file(tmp_path / "words.json", 1000)
    (spec,) = add_files({"tokenizer.json": str(tmp_path / "words.json")}, tmp_path / "run")
    assert spec.name == "tokenizer.json"
    assert spec.size_bytes == 1000
    assert spec.digest == blake3(data).hexdigest()
    assert (files_folder(tmp_path / "run") / "tokenizer.json").read_bytes() == data
    assert sorted(path.name for path in files_folder(tmp_path / "run").iterdir()) == [spec.name]


def test_a_list_keeps_the_names_and_the_order(tmp_path: Path) -> None:
    for name in ("b.json", "a.json"):
        a_file(tmp_path / name, 10)
    specs = add_files([str(tmp_path / "b.json"), str(tmp_path / "a.json")], tmp_path / "run")
    assert [spec.name for spec in specs] == ["b.json", "a.json"]


def test_a_file_beside_the_run_takes_no_place_of_its_own(tmp_path: Path) -> None:
    a_file(tmp_path / "large", 10)
    add_files([str(tmp_path / "large")], tmp_path / "run")
    assert (files_folder(tmp_path / "run") / "large").samefile(tmp_path / "large")


def test_a_file_that_cannot_be_linked_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", refuse)
    data = a_file(tmp_path / "large", 10)
    add_files([str(tmp_path / "large")], tmp_path / "run")
    copy = files_folder(tmp_path / "run") / "large"
    assert copy.read_bytes() == data
    assert not copy.samefile(tmp_path / "large")


def test_adding_again_changes_nothing_but_another_runs_file_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    a_file(tmp_path / "a", 10)
    first = add_files([str(tmp_path / "a")], folder)
    (folder / MANIFEST).write_text("a run")
    assert add_files([str(tmp_path / "a")], folder) == first
    kept = (files_folder(folder) / "a").read_bytes()
    (tmp_path / "a").unlink()
    a_file(tmp_path / "a", 10)
    with pytest.raises(ConfigError, match="another run's"):
        add_files([str(tmp_path / "a")], folder)
    assert (files_folder(folder) / "a").read_bytes() == kept


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (5, "write a table"),
        ({"a": 5}, "write a table"),
        (["x/a", "y/a"], "two have one name"),
        ({"../a": "here"}, "name"),
        ({"a": "nowhere"}, "cannot add a from nowhere: No such file"),
        ({"a": "."}, "is no file"),
        ({"a": "empty"}, "size_bytes"),
        ({str(i): "here" for i in range(17)}, "at most 16"),
    ],
    ids=repr,
)
def test_a_mistake_is_one_line_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: object, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    a_file(tmp_path / "here", 10)
    (tmp_path / "empty").touch()
    with pytest.raises(ConfigError, match=words) as refused:
        add_files(given, tmp_path / "run")
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.glob("run/files/*"))


# ---- what is here


def test_a_file_that_is_missing_short_or_altered_is_not_there(tmp_path: Path) -> None:
    for name in "abcd":
        a_file(tmp_path / name, 1000)
    specs = add_files([str(tmp_path / name) for name in "abcd"], tmp_path / "run")
    manifest, place = manifest_with(specs), files_folder(tmp_path / "run")
    assert missing_files(manifest, tmp_path / "run") == []
    (place / "a").unlink()
    (place / "b").write_bytes((place / "b").read_bytes()[:-1])
    altered = bytearray((place / "d").read_bytes())
    altered[500] ^= 1
    (place / "d").write_bytes(altered)
    assert missing_files(manifest, tmp_path / "run") == [0, 1, 3]


# ---- serving


class Inner:
    """Somebody else's inbox."""

    def __init__(self) -> None:
        self.notes: list[object] = []

    def on_note(self, src: PeerId, note: Note) -> None:
        self.notes.append(note)

    async def blob(self, src: PeerId, ref: BlobRef) -> FileSource:
        raise NotAvailable(f"no {ref.kind}")


def inbox_of(folder: Path, sizes: dict[str, int]) -> tuple[FilesInbox, Inner]:
    for name, size in sizes.items():
        a_file(folder / name, size)
    specs = add_files([str(folder / name) for name in sizes], folder / "run")
    inner = Inner()
    return FilesInbox(inner, manifest_with(specs), folder / "run"), inner


async def test_a_file_is_served_piece_by_piece_from_the_disk(tmp_path: Path) -> None:
    inbox, _ = inbox_of(tmp_path, {"a": 10, "b": 2 * GRAIN_BYTES + 5})
    source = await inbox.blob(SRC, BlobRef("file", part=1))
    assert source.size_bytes == 2 * GRAIN_BYTES + 5
    data = (tmp_path / "b").read_bytes()
    cuts = [0, 1, 5000, GRAIN_BYTES, 2 * GRAIN_BYTES - 1, 2 * GRAIN_BYTES, len(data)]
    for start, stop in pairwise(cuts):
        assert await source.read(start, stop) == data[start:stop]


async def test_all_else_is_asked_of_the_inner_inbox(tmp_path: Path) -> None:
    inbox, inner = inbox_of(tmp_path, {"a": 10})
    with pytest.raises(NotAvailable, match="no state"):
        await inbox.blob(SRC, BlobRef("state"))
    inbox.on_note(SRC, "a note")  # type: ignore[arg-type]
    assert inner.notes == ["a note"]


async def test_what_is_not_there_is_not_available(tmp_path: Path) -> None:
    inbox, _ = inbox_of(tmp_path, {"a": 10, "b": 10, "c": 10})
    place = files_folder(tmp_path / "run")
    with pytest.raises(NotAvailable, match="no such file"):
        await inbox.blob(SRC, BlobRef("file", part=3))
    (place / "b").unlink()
    with pytest.raises(NotAvailable, match="b is not here"):
        await inbox.blob(SRC, BlobRef("file", part=1))
    os.truncate(place / "a", 9)
    with pytest.raises(NotAvailable, match="a is not here"):
        await inbox.blob(SRC, BlobRef("file", part=0))


async def test_a_file_that_shrinks_while_it_is_served_ends_the_transfer(tmp_path: Path) -> None:
    inbox, _ = inbox_of(tmp_path, {"a": 2 * GRAIN_BYTES})
    source = await inbox.blob(SRC, BlobRef("file"))
    os.truncate(files_folder(tmp_path / "run") / "a", GRAIN_BYTES)
    await source.read(0, 10)
    with pytest.raises(NotAvailable, match="damaged"):
        await source.read(GRAIN_BYTES, GRAIN_BYTES + 10)


def test_the_digest_is_that_of_the_library(tmp_path: Path) -> None:
    data = a_file(tmp_path / "a", 3 * GRAIN_BYTES + 1)
    assert digest_of(tmp_path / "a") == blake3(data).hexdigest()
