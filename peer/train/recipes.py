"""Recipes: a name in the manifest becomes files on this machine. A manifest never carries code.

`stdlib` is the source of the Python standard library, which every peer already has, and
`stdlib:GLOB` the files of it that match. `package:NAME/GLOB` is files of an installed package:
found by its metadata, never imported, and never outside its folder. It must have come from an
index, so that these two kinds are public text. `text:GLOB` is files of the operator's own.
`dataset:NAME` is streamed, see `peer.train.dataset`. Several globs are joined with `|`; each has at
most one `**`, and 16 parts from its first wildcard on, as a stranger's must not take forever.
"""

import glob
import importlib.metadata
import platform
import re
import sysconfig
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from protocol.errors import ConfigError

Files = list[tuple[str, Path]]
"""Relative POSIX path and path, sorted."""

OR = "|"
MIX = "mix:"
DATASET = "dataset:"
"""What is streamed and has no files; see `peer.train.dataset`."""
DATASET_FORMATS = ("json", "parquet", "text")
"""Of datasets in files of the operator's own: `dataset:json:GLOB`."""
AND = " + "
"""Joins the recipes of a mix, see `peer.train.data`."""

MAX_PARTS = 16
"""Of a glob, from its first wildcard on."""

# In lower case, and compared so: not every file system tells the two apart.
_NOT_IN_STDLIB = {  # installed beside it, or neither code nor prose
    "site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__",
}  # fmt: skip
# _sysconfigdata and sitecustomize are written by whoever built or packaged this Python.
_NOT_EVERYWHERE = ("_sysconfigdata", "sitecustomize")
_PACKAGE_FOLDERS = {"site-packages", "dist-packages"}
_PACKAGE = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)/(?P<pattern>.+)")


def files_of(recipe: str) -> tuple[Files, str]:
    """Return the files that a recipe names, and a description for people.

    Raises:
        ConfigError: there is no such recipe, or nothing matches it.
    """
    name, colon, argument = recipe.partition(":")
    if name not in RECIPES:
        raise ConfigError(f"data.recipe {recipe!r} is unknown; there are {', '.join(RECIPES)}")
    if colon and not argument:
        raise ConfigError(f"data.recipe {recipe!r} has nothing after the colon")
    return RECIPES[name](argument)


def parts_of(recipe: str) -> tuple[str, ...]:
    """Return the recipes that a mix is made of; of any other, the recipe itself."""
    return tuple(recipe.removeprefix(MIX).split(AND)) if recipe.startswith(MIX) else (recipe,)


def operator_globs(recipe: str) -> tuple[str, ...]:
    """Return the globs by which a recipe reads files of the operator's own; none if it does not."""
    prefixes = ("text:", *(f"{DATASET}{form}:" for form in DATASET_FORMATS))
    return tuple(
        part.removeprefix(prefix)
        for part in parts_of(recipe)
        for prefix in prefixes
        if part.startswith(prefix)
    )


def _stdlib(argument: str) -> tuple[Files, str]:
    root = Path(sysconfig.get_paths()["stdlib"])
    recipe = f"stdlib:{argument}" if argument else "stdlib"
    files = [
        (relative, path)
        for relative, path in _inside(root, argument or "**/*.py", recipe)
        if not _NOT_IN_STDLIB & set(PurePosixPath(relative.casefold()).parts)
        and not path.name.casefold().startswith(_NOT_EVERYWHERE)
    ]
    if not files:
        raise ConfigError(
            f"data.recipe {recipe!r} matches no file of the standard library in {root}"
        )
    which = f"{argument} of " if argument else ""
    version = platform.python_version()
    return files, f"{len(files)} files of {which}the Python {version} standard library"


def _package(argument: str) -> tuple[Files, str]:
    recipe = f"package:{argument}"
    match = _PACKAGE.fullmatch(argument)
    if match is None:
        raise ConfigError(f"data.recipe {recipe!r}: write package:NAME/GLOB")
    name, pattern = match["name"], match["pattern"]
    root, version = _installed(name, recipe)
    files = [
        (relative, path)
        for relative, path in _inside(root, pattern, recipe)
        if "__pycache__" not in PurePosixPath(relative.casefold()).parts
    ]
    if not files:
        raise ConfigError(f"data.recipe {recipe!r} matches no file of {name} {version} in {root}")
    _require_no_way_out(root, files, recipe)
    return files, f"{len(files)} files of {pattern} of the package {name} {version}"


def _installed(name: str, recipe: str) -> tuple[Path, str]:
    """Return the folder and the version of an installed package."""
    found = importlib.metadata.packages_distributions().get(name, ())
    providers = []  # several, if it is a namespace: files of each may lie in the folder
    for distribution in map(importlib.metadata.distribution, dict.fromkeys(found)):
        root = Path(str(distribution.locate_file(name)))
        if root.is_dir() and root.parent.name in _PACKAGE_FOLDERS:
            if distribution.read_text("direct_url.json") is not None:
                raise ConfigError(
                    f"data.recipe {recipe!r}: {name} was not installed from a package index, so "
                    "it may be private; use a text:GLOB recipe"
                )
            providers.append((root, distribution.version))
    if not providers:
        raise ConfigError(
            f"data.recipe {recipe!r}: there is no installed package {name} here; install it, if "
            "you trust it"
        )
    return providers[0]


def _inside(root: Path, patterns: str, recipe: str) -> Files:
    """Return the files in a folder that match."""
    matches: set[str] = set()
    for pattern in patterns.split(OR):
        parts = PurePosixPath(pattern).parts
        if not parts or pattern.startswith("/") or ".." in parts or "\\" in pattern:
            raise ConfigError(
                f"data.recipe {recipe!r}: {pattern!r} leads out of {root.name}; a pattern is "
                "relative, without '..'"
            )
        _require_modest(pattern, recipe)
        matches.update(glob.iglob(pattern, root_dir=root, recursive=True))
    relatives = sorted(Path(match).as_posix() for match in matches if (root / match).is_file())
    return [(relative, root / relative) for relative in relatives]


def _require_modest(pattern: str, recipe: str) -> None:
    """Refuse a pattern that no file system knows, or that could take forever to match."""
    if not pattern.isprintable():
        raise ConfigError(f"data.recipe {recipe!r}: a pattern has no control characters")
    path = Path(pattern)
    wild = path.parts[len(_fixed_part(path).parts) :]
    if wild.count("**") > 1:
        raise ConfigError(f"data.recipe {recipe!r}: a pattern has at most one '**'")
    if len(wild) > MAX_PARTS:
        raise ConfigError(
            f"data.recipe {recipe!r}: a pattern has at most {MAX_PARTS} parts from its first "
            "wildcard on"
        )


def _require_no_way_out(root: Path, files: Iterable[tuple[str, Path]], recipe: str) -> None:
    home = root.resolve()
    for relative, path in files:
        if not path.resolve().is_relative_to(home):
            raise ConfigError(
                f"data.recipe {recipe!r}: {relative!r} is a link that leads elsewhere"
            )


def _text(argument: str) -> tuple[Files, str]:
    recipe = f"text:{argument}"
    found: dict[Path, str] = {}
    for given in argument.split(OR):
        _require_modest(given, recipe)
        try:
            pattern = Path(given).expanduser()
        except RuntimeError:
            raise ConfigError(f"data.recipe {recipe!r}: there is no such home folder") from None
        root = _fixed_part(pattern)
        for match in map(Path, glob.iglob(str(pattern), recursive=True)):
            if match.is_file():
                found.setdefault(match, match.relative_to(root).as_posix())
    if not found:
        raise ConfigError(f"data.recipe {recipe!r} matches no file on this machine")
    files = sorted((relative, path) for path, relative in found.items())
    return files, f"{len(files)} files of {argument}"


def _fixed_part(pattern: Path) -> Path:
    fixed = 0
    while fixed < len(pattern.parts) - 1 and not glob.has_magic(pattern.parts[fixed]):
        fixed += 1
    return Path(*pattern.parts[:fixed])


def _dataset(argument: str) -> tuple[Files, str]:
    raise ConfigError(
        f"data.recipe {DATASET + argument!r} is streamed: it is the text of a run with one model, "
        "and no part of a mix or a domain"
    )


RECIPES: dict[str, Callable[[str], tuple[Files, str]]] = {
    "stdlib": _stdlib,
    "package": _package,
    "text": _text,
    "dataset": _dataset,
}
"""Recipes by registered name."""
