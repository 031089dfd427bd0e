"""Fetched text: what is refused, and what no two documents have in common."""

import hashlib
import io
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.corpora import build, digest_of, shared_paragraphs
from benchmarks.corpora_archives import Archive, Unavailable, members
from benchmarks.corpora_documents import (
    TEST_FRAC,
    chosen,
    gathered,
    is_test,
    name_of,
    paragraph_keys,
    passages,
)
from benchmarks.corpora_sources import DOMAINS, _strings_of_r

LONG = [f"Paragraph {word}, " + f"{word} and its like are told of here " * 4 for word in "abcdef"]
paragraphs = st.sampled_from([*LONG, *(text.upper() + "!" for text in LONG), "else:", "Amen."])
documents = st.lists(st.lists(paragraphs, min_size=1, max_size=5).map("\n\n".join), max_size=8)


@given(documents)
def test_no_paragraph_of_note_is_in_two_documents(texts: list[str]) -> None:
    keys = [set(paragraph_keys(kept.decode())) for kept in chosen(texts, 1 << 20)]
    assert sum(map(len, keys)) == len(set().union(*keys))


@given(documents, st.randoms(use_true_random=False))
def test_the_order_of_the_documents_does_not_matter(texts: list[str], random: object) -> None:
    shuffled = sorted(texts, key=lambda text: hashlib.md5(f"{random}{text}".encode()).digest())
    assert chosen(texts, 900) == chosen(shuffled, 900)


@given(st.lists(st.sampled_from(["", "a line", "two\nlines", "x" * 40]), max_size=30))
def test_passages_are_the_whole_text_and_long_enough_but_for_the_last(lines: list[str]) -> None:
    text = "\n\n".join(lines)
    parts = list(passages(text, 50))
    assert "\n\n".join(parts) == text
    assert all(len(part) + 2 >= 50 for part in parts[:-1])


def test_short_texts_are_gathered_and_none_is_lost() -> None:
    assert list(gathered(["one", "two", "three"], 8)) == ["one\n\ntwo", "three"]


def test_the_test_split_has_about_its_part() -> None:
    count = sum(is_test(name_of(str(number).encode())) for number in range(10_000))
    assert count / 10_000 == pytest.approx(TEST_FRAC, abs=0.01)


def test_a_digest_knows_where_a_document_ends_and_not_in_which_order_they_came() -> None:
    both = [("train/a", b"one"), ("test/b", b"two")]
    assert digest_of(both) == digest_of(both[::-1])
    assert digest_of(both) != digest_of([("train/a", b"onet"), ("test/b", b"wo")])


def test_another_archive_than_the_one_expected_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "came"
    path.write_bytes(b"something else")
    archive = Archive("npm", "words@1.0.0", 14, "0" * 64)
    with pytest.raises(
        Unavailable, match=r"^words@1\.0\.0 is not .* 14 bytes .* 0000000000000000$"
    ):
        archive._check(path)


def test_a_missing_client_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(Unavailable, match=r"^words: there is no npm here$"):
        Archive("npm", "words", 1, "00").fetched(tmp_path)


def test_text_that_was_changed_is_refused_and_the_way_out_is_told(tmp_path: Path) -> None:
    (tmp_path / "legal" / "train").mkdir(parents=True)
    (tmp_path / "legal" / "train" / "a.txt").write_text("not what was fetched")
    with pytest.raises(Unavailable, match=r"20 bytes .* delete it to build legal anew"):
        build(tmp_path, "legal")


@pytest.mark.parametrize("registry", ["pip", "npm"])
def test_members_come_in_the_order_of_their_names(tmp_path: Path, registry: str) -> None:
    path = tmp_path / "archive"
    names = ["data/b.txt", "data/a.txt", "data/c.bin", "other/d.txt"]
    if registry == "pip":
        with zipfile.ZipFile(path, "w") as wheel:
            for name in names:
                wheel.writestr(name, name)
    else:
        with tarfile.open(path, "w:gz") as package:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = len(name)
                package.addfile(member, io.BytesIO(name.encode()))
    found = list(members(path, registry, under="data/", suffix=".txt"))
    assert found == [(name, name.encode()) for name in ("data/a.txt", "data/b.txt")]


def test_lines_are_read_from_r_objects_one_after_the_other() -> None:
    def record(*lines: bytes) -> bytes:
        flags = b"\x00\x04\x00\x09"
        plain = b"X\n" + b"".join(flags + len(line).to_bytes(4) + line for line in lines)
        packed = zlib.compress(plain)
        return len(plain).to_bytes(4) + packed

    data = record(b"Emma", b"", b"Chapter I") + record(b"Persuasion")
    assert list(_strings_of_r(data)) == ["Emma\n\nChapter I", "Persuasion"]


def test_paragraphs_that_two_domains_share_are_counted(tmp_path: Path) -> None:
    for name, text in (("one", LONG[0] + "\n\n" + LONG[1]), ("two", LONG[1] + "\n\nAmen.")):
        (tmp_path / name / "train").mkdir(parents=True)
        (tmp_path / name / "train" / "x.txt").write_text(text)
    assert shared_paragraphs(tmp_path, ["one", "two"]) == {"one+two": 1}


def test_there_are_six_domains_to_train_on_and_two_unseen_with_their_hashes() -> None:
    unseen = [name for name, domain in DOMAINS.items() if domain.is_unseen]
    assert len(DOMAINS) - len(unseen) >= 6
    assert len(unseen) >= 2
    assert len({domain.sha256 for domain in DOMAINS.values()}) == len(DOMAINS)
    assert all(len(domain.sha256) == 64 and domain.num_bytes for domain in DOMAINS.values())
