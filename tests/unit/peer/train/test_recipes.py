import importlib
import sys
from pathlib import Path

import pytest

from peer.train.recipes import files_of, operator_globs, parts_of
from protocol.errors import ConfigError


def names(recipe: str) -> list[str]:
    return [relative for relative, _ in files_of(recipe)[0]]


def test_a_glob_picks_files_of_the_standard_library() -> None:
    files, description = files_of("stdlib:asyncio/*.py|json/*.py")
    relatives = [relative for relative, _ in files]
    assert relatives == sorted(relatives)
    assert {"asyncio/tasks.py", "json/decoder.py"} <= set(relatives)
    assert all(relative.startswith(("asyncio/", "json/")) for relative in relatives)
    assert "standard library" in description
    assert f"{len(files)} files" in description


def test_what_the_library_leaves_out_no_glob_brings_back() -> None:
    everything = set(names("stdlib"))
    assert set(names("stdlib:**/*.py")) == everything
    assert not any("test" in Path(name).parts for name in everything)
    with pytest.raises(ConfigError, match="matches no file"):
        files_of("stdlib:test/*.py")


def test_overlapping_globs_give_each_file_once() -> None:
    assert names("stdlib:json/*.py|json/d*.py|json/decoder.py") == names("stdlib:json/*.py")


def test_text_takes_several_globs(tmp_path: Path) -> None:
    for name in ("a/1.txt", "b/2.txt", "b/3.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    files, _ = files_of(f"text:{tmp_path}/a/*.txt|{tmp_path}/b/*")
    assert [path.read_text() for _, path in files] == ["a/1.txt", "b/2.txt", "b/3.md"]


# ---- packages


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that must not be imported; the folder of its files."""
    site = tmp_path / "site-packages"
    root = site / "bardbooks"
    (root / "plays").mkdir(parents=True)
    (root / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (root / "plays" / "hamlet.txt").write_text("words, words, words")
    (root / "__pycache__").mkdir()
    (root / "__pycache__" / "x.txt").write_text("not this")
    info = site / "bard_books-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bard-books\nVersion: 1.2\n")
    (info / "top_level.txt").write_text("bardbooks\n")
    (tmp_path / "secret.txt").write_text("the operator's own")
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    return root


def test_files_of_a_package_are_found_without_importing_it(package: Path) -> None:
    files, description = files_of("package:bardbooks/**/*.txt|*.py")
    assert [relative for relative, _ in files] == ["__init__.py", "plays/hamlet.txt"]
    assert all(path.is_relative_to(package) for _, path in files)
    assert "bardbooks" not in sys.modules
    assert "bardbooks 1.2" in description


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ("package:bardbooks/../../secret.txt", "leads out of bardbooks"),
        ("package:bardbooks/plays/../../../*.txt", "leads out of bardbooks"),
        ("package:bardbooks//etc/passwd", "leads out of bardbooks"),
        ("package:bardbooks/*.txt|/etc/passwd", "leads out of bardbooks"),
        ("package:../bardbooks/*", "write package:NAME/GLOB"),
        ("package:bardbooks.plays/*", "write package:NAME/GLOB"),
        ("package:bardbooks", "write package:NAME/GLOB"),
        ("package:bardbooks/", "write package:NAME/GLOB"),
        ("package:bardbooks/*.rst", "matches no file of bardbooks 1.2"),
        ("package:nosuchpackage/*", "no installed package nosuchpackage"),
        ("stdlib:../*", "leads out"),
        ("stdlib:/etc/*", "leads out"),
    ],
)
def test_nothing_beside_the_folder_is_read(package: Path, recipe: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        files_of(recipe)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("is_folder", [False, True], ids=["file", "folder"])
def test_a_link_out_of_the_package_is_refused(package: Path, is_folder: bool) -> None:
    outside = package.parent.parent
    (package / "way").symlink_to(outside if is_folder else outside / "secret.txt")
    with pytest.raises(ConfigError, match="a link that leads elsewhere"):
        files_of("package:bardbooks/way/*.txt" if is_folder else "package:bardbooks/*")


def test_a_package_that_came_from_no_index_may_be_private(package: Path) -> None:
    (package.parent / "bard_books-1.2.dist-info" / "direct_url.json").write_text("{}")
    with pytest.raises(ConfigError, match="may be private"):
        files_of("package:bardbooks/plays/*")


def test_all_that_share_a_namespace_must_come_from_an_index(package: Path) -> None:
    site = package.parent
    secret = site / "secret_books-0.1.dist-info"
    secret.mkdir()
    (secret / "METADATA").write_text("Metadata-Version: 2.1\nName: secret-books\nVersion: 0.1\n")
    (secret / "top_level.txt").write_text("bardbooks\n")
    importlib.invalidate_caches()
    assert names("package:bardbooks/plays/*") == ["plays/hamlet.txt"]
    for info in (secret, site / "bard_books-1.2.dist-info"):
        (info / "direct_url.json").write_text("{}")
        with pytest.raises(ConfigError, match="may be private"):
            files_of("package:bardbooks/plays/*")
        (info / "direct_url.json").unlink()


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("**/" * 5 + "*.py", "at most one '**'"),
        ("a/**/b/**", "at most one '**'"),
        ("*/" * 1500 + "x", "at most 16 parts"),
        ("*/" + "x/" * 16, "at most 16 parts"),
        ("*.py|\x00", "no control characters"),
        ("*\x1b[2J.py", "no control characters"),
        ("*.py\nfoo", "no control characters"),
    ],
    ids=range(7),
)
@pytest.mark.parametrize("kind", ["stdlib:", "package:bardbooks/", "text:/nowhere/"])
@pytest.mark.usefixtures("package")
def test_a_strangers_pattern_neither_hangs_nor_crashes_us(
    kind: str, pattern: str, says: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        files_of(kind + pattern)
    said = str(refused.value)
    assert said.isprintable()
    if not (kind.startswith("package") and "\n" in pattern):  # then it is no package's at all
        assert says in said


def test_a_deep_folder_of_the_operator_s_own_is_fine(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*"abcdefghijklmnopqrst")
    deep.mkdir(parents=True)
    (deep / "1.txt").write_text("here")
    assert names(f"text:{deep}/*.txt") == ["1.txt"]


def test_a_home_that_nobody_has_is_told() -> None:
    with pytest.raises(ConfigError, match="no such home folder"):
        files_of("text:~nobody-is-called-so/*.txt")


def test_names_are_left_out_whatever_their_case(package: Path) -> None:
    (package / "__pycache__").rename(package / "__PyCache__")
    assert names("package:bardbooks/**/*.txt") == ["plays/hamlet.txt"]


def test_a_project_that_only_lies_on_the_path_is_no_package(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = package.parent.rename(tmp_path / "project")
    monkeypatch.syspath_prepend(str(moved))
    with pytest.raises(ConfigError, match="no installed package bardbooks"):
        files_of("package:bardbooks/plays/*")


# ---- what is the operator's


@pytest.mark.parametrize(
    ("recipe", "globs"),
    [
        ("stdlib", ()),
        ("package:sympy/*.py", ()),
        ("text:/home/me/*.txt", ("/home/me/*.txt",)),
        ("mix:stdlib + text:/a/* + package:x/y + text:/b/*", ("/a/*", "/b/*")),
        ("mix:stdlib", ()),
    ],
)
def test_an_operator_s_files_are_found_in_a_mix_too(recipe: str, globs: tuple[str, ...]) -> None:
    assert operator_globs(recipe) == globs


def test_the_parts_of_a_mix_are_recipes() -> None:
    assert parts_of("mix:stdlib + text:/a b+c/*") == ("stdlib", "text:/a b+c/*")
    assert parts_of("text:/x + y/*") == ("text:/x + y/*",)
