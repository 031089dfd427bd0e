import hashlib
from pathlib import Path

import pytest

from peer.train import data
from peer.train.data import Corpus, check_validation, load_text, validation_digest
from protocol.errors import ConfigError
from protocol.manifest import DataSpec


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(100):
        path = tmp_path / f"{i % 3}" / f"{i}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"<{i}>" * 200)
    (tmp_path / "0" / "latin1.txt").write_bytes(b"\xe9t\xe9" * 1000)
    return tmp_path


def test_stdlib_is_split_by_file_and_the_same_each_time() -> None:
    first, second = load_text("stdlib", 0.05), load_text("stdlib", 0.05)
    assert len(first.train) > 2_000_000
    assert 0.01 < len(first.validation) / len(first.train) < 0.2
    assert validation_digest(first) == validation_digest(second)
    assert "standard library" in first.description
    assert b"site-packages/" not in first.description.encode()


def test_a_file_is_in_one_half_only(folder: Path) -> None:
    corpus = load_text(f"text:{folder}/**/*.txt", 0.3)
    train, validation = corpus.train.tobytes(), corpus.validation.tobytes()
    for i in range(100):
        assert (b"<%d>" % i in train) != (b"<%d>" % i in validation)
    assert b"\xe9" not in train + validation
    assert 10 < sum(b"<%d>" % i in validation for i in range(100)) < 50


def test_the_split_depends_on_relative_paths_alone(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "moved"
    before = load_text(f"text:{folder}/**/*.txt", 0.3)
    folder.rename(elsewhere)
    after = load_text(f"text:{elsewhere}/**/*.txt", 0.3)
    assert validation_digest(before) == validation_digest(after)


def test_a_single_file_is_split_at_its_tail(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_bytes(bytes(range(65, 75)) * 10_000)
    corpus = load_text(f"text:{tmp_path}/book.txt", 0.1)
    assert (len(corpus.train), len(corpus.validation)) == (90_000, 10_000)


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ("text:/nonexistent/*.txt", "matches no file"),
        ("hf:wikitext", "not in this version"),
        ("pile", "unknown"),
        ("stdlib:3.9", "no argument"),
    ],
    ids=["no match", "later", "unknown", "argument"],
)
def test_a_recipe_that_gives_nothing_says_why(recipe: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_text(recipe, 0.1)


def test_too_little_and_too_much_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("short")
    with pytest.raises(ConfigError, match="too little text: 5 bytes"):
        load_text(f"text:{tmp_path}/*.txt", 0.1)
    monkeypatch.setattr(data, "MAX_TEXT_BYTES", 3)
    with pytest.raises(ConfigError, match="held in memory"):
        load_text(f"text:{tmp_path}/*.txt", 0.1)


def test_validation_is_checked_against_the_manifest(corpus: Corpus) -> None:
    digest = validation_digest(corpus)
    assert digest == hashlib.sha256(corpus.validation.tobytes()).hexdigest()
    assert check_validation(corpus, DataSpec()) is None
    assert check_validation(corpus, DataSpec(validation_digest=digest)) is None
    other = DataSpec(validation_bytes=99, validation_digest="ab" * 32)
    problem = check_validation(corpus, other)
    assert problem is not None
    for part in (str(len(corpus.validation)), digest[:12], "99", "abababababab", "Python 3."):
        assert part in problem
