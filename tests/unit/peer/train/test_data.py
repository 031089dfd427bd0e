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
        ("dataset:wikitext", "is streamed"),
        ("pile", "unknown"),
        ("stdlib:", "nothing after the colon"),
        ("stdlib:3.9", "matches no file of the standard library"),
        ("mix:", "write mix:RECIPE"),
        ("mix:stdlib + mix:stdlib", "no mix in a mix"),
    ],
    ids=["no match", "streamed", "unknown", "no argument", "no such", "no parts", "mix in a mix"],
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


def test_where_chance_gives_validation_too_little_it_gets_the_tails(tmp_path: Path) -> None:
    for i in range(30):
        (tmp_path / f"{i}.txt").write_text(f"<{i:02}>" * 5000)
    corpus = load_text(f"text:{tmp_path}/*.txt", 0.005)
    assert len(corpus.validation) == 30 * 100 + 29
    for i in range(30):
        assert b"<%02d>" % i in corpus.train.tobytes()
        assert b"<%02d>" % i in corpus.validation.tobytes()


@pytest.fixture
def parts(tmp_path: Path) -> tuple[str, str]:
    """A domain of 40 kB, and one of 4 MB whose bytes tell where they are."""
    (tmp_path / "small.txt").write_text("s" * 40_000)
    (tmp_path / "large.txt").write_text("".join(f"{i:07}\n" for i in range(500_000)))
    return f"text:{tmp_path}/small.txt", f"text:{tmp_path}/large.txt"


def test_in_a_mix_the_large_does_not_drown_the_small(parts: tuple[str, str]) -> None:
    small, large = (load_text(part, 0.1) for part in parts)
    mix = load_text(f"mix:{parts[0]} + {parts[1]}", 0.1)
    for mixed, from_small, from_large in (
        (mix.train, small.train, large.train),
        (mix.validation, small.validation, large.validation),
    ):
        text = mixed.tobytes()
        assert text.count(b"s") == len(from_small)
        assert 3.9 < (len(text) - len(from_small)) / len(from_small) <= 4.01
        taken = [line for line in text.split(b"\n") if len(line) == 7]
        whole = [line for line in from_large.tobytes().split(b"\n") if len(line) == 7]
        assert set(taken) <= set(whole)
        span = (int(taken[-1]) - int(taken[0])) / (int(whole[-1]) - int(whole[0]))
        assert span > 0.99  # pieces from all over it


def test_a_mix_of_equals_has_all_of_each_and_trains_on_nobody_s_validation(
    folder: Path,
) -> None:
    one, other = f"text:{folder}/0/*.txt", f"text:{folder}/1/*.txt"
    mix = load_text(f"mix:{one} + {other}", 0.1)
    train = mix.train.tobytes()
    for recipe in (one, other):
        corpus = load_text(recipe, 0.1)
        assert corpus.train.tobytes() in train
        assert corpus.validation.tobytes() in mix.validation.tobytes()
        assert corpus.validation.tobytes()[:200] not in train
