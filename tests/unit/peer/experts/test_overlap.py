import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.experts.overlap import check_overlap
from peer.train.data import Corpus, load_text
from protocol.errors import ConfigError


def document(seed: int, paragraphs: int = 20) -> str:
    """Return a document of a domain; no two have a paragraph in common."""
    rng = np.random.default_rng(seed)
    words = rng.integers(10**5, 10**6, size=(paragraphs, 60))
    return "\n\n".join(" ".join(map(str, line)) for line in words)


def corpus(*documents: str) -> Corpus:
    text = np.frombuffer("\n".join(documents).encode(), dtype=np.uint8)
    cut = len(text) * 9 // 10
    return Corpus(text[:cut], text[cut:], "a text")


LAW = [document(seed) for seed in range(10)]
CODE = [document(seed) for seed in range(10, 20)]


def overlap(one: Corpus, other: Corpus) -> str:
    with pytest.raises(ConfigError) as refused:
        check_overlap({"law": one, "apart": corpus(document(99)), "code": other})
    said = str(refused.value)
    assert "\n" not in said
    assert said.startswith("domains law and code overlap: ")
    return said


def test_domains_apart_are_fine() -> None:
    check_overlap({"law": corpus(*LAW), "code": corpus(*CODE), "small": corpus(document(50))})


def test_the_same_text_is_all_of_it() -> None:
    assert "all of" in overlap(corpus(*LAW), corpus(*LAW))


@given(place=st.integers(0, 10))
def test_one_document_of_the_other_is_found_wherever_it_is(place: int) -> None:
    mixed = [*CODE[:place], LAW[4], *CODE[place:]]
    said = overlap(corpus(*LAW), corpus(*mixed))
    shown = said.split("such as '")[1][:50]
    assert shown in " ".join(LAW[4].split())


def test_other_line_ends_and_wrapping_do_not_hide_it() -> None:
    wrapped = LAW[4].replace(" ", "\r\n", 7).replace("\n\n", "\n \n\n")
    overlap(corpus(*LAW), corpus(*CODE, wrapped))


def test_documents_of_one_line_each_are_found_too() -> None:
    lines = [" ".join(text.split())[:4000] for text in LAW + CODE]
    overlap(corpus(*lines[:12]), corpus(*lines[8:]))


def test_boilerplate_is_tolerated_however_often_it_occurs() -> None:
    licence = document(77, 5)  # 2 kB
    check_overlap(
        {
            "law": corpus(*(f"{licence}\n\n{text}" for text in LAW)),
            "code": corpus(*(f"{licence}\n\n{text}" for text in CODE)),
        }
    )


def test_short_paragraphs_are_tolerated() -> None:
    short = "\n\n".join(f"chapter {i}" for i in range(2000))
    check_overlap({"law": corpus(short, *LAW), "code": corpus(short, *CODE)})


def test_a_text_without_blank_lines_is_found() -> None:
    topics = load_text("stdlib:pydoc_data/topics.py", 0.05)
    assert b"\n\n" not in topics.train.tobytes()[10_000:-10_000]
    overlap(topics, load_text("stdlib:pydoc_data/topics.py", 0.2))


def found_frac(place: int, seed: int) -> float:
    """Returns how much of a poem is found in a longer one that has it from line `place` on."""

    def poem(seed: int, lines: int) -> list[str]:
        rng = np.random.default_rng(seed)
        return [" ".join(map(str, line)) for line in rng.integers(10**5, 10**6, size=(lines, 6))]

    shared, own = poem(seed, 400), poem(seed + 100, 200)
    one = corpus("\n".join(shared))
    said = overlap(one, corpus("\n".join([*own[:place], *shared, *own[place:]])))
    return int(said.split(" bytes")[0].split()[-1].replace(",", "")) / len(one.train)


def test_short_lines_are_found_wherever_they_are() -> None:
    # Where parts end is a matter of hashes, so what is lost at either end varies.
    found = [found_frac(place, seed) for place in (0, 1, 57, 194, 200) for seed in range(20)]
    assert min(found) > 0.6
    assert sum(found) / len(found) > 0.9


def test_equal_texts_of_which_no_paragraph_counts_overlap() -> None:
    short = "\n\n".join(f"chapter {i}" for i in range(2000))
    assert "they have the same text" in overlap(corpus(short), corpus(short))


def test_real_domains_stay_apart() -> None:
    python, topics = (load_text(f"stdlib:{g}", 0.05) for g in ("*.py", "pydoc_data/topics.py"))
    check_overlap({"python": python, "manual": topics})
