import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.text
import pytest
from matplotlib.figure import Figure

from peer.experts.evaluation import Column, Evaluation, Row
from peer.experts.evaluation_report import labels
from peer.experts.heat_map import draw
from tests.unit.peer.experts.tiny import an_expert


def drawn(
    bits: Sequence[Sequence[float]], path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[matplotlib.text.Text]:
    """Returns the numbers in the picture of two experts, an ensemble and three texts."""
    names = ("law", "code", "poems")
    rows = [
        Row(name, "ensemble" if name == "uniform" else "expert", dict(zip(names, of, strict=True)))
        for name, of in zip(("law", "code", "uniform"), bits, strict=True)
    ]
    evaluation = Evaluation(
        context=16,
        experts=[an_expert("law"), an_expert("code")],
        columns=[Column(name, "", name == "poems", 9, 0, None) for name in names],
        rows=rows,
        prior=None,
        top_k=None,
        asked_frac=None,
    )
    pages: list[Figure] = []
    save = Figure.savefig

    def saved(figure: Figure, *args: Any, **options: Any) -> None:
        pages.append(figure)
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", saved)
    draw(evaluation, labels(evaluation), path)
    (page,) = pages
    return [text for text in page.axes[0].texts if text.get_text()[0] in "-0123456789"]


def test_every_number_is_there_and_the_best_of_each_text_is_bold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bits = [[1.25, 3.5, 2.25], [2.75, 1.5, 2.5], [1.0, 1.75, 2.0]]
    numbers = drawn(bits, tmp_path / "m.png", monkeypatch)
    assert [float(text.get_text()) for text in numbers] == [each for row in bits for each in row]
    bold = {text.get_text() for text in numbers if text.get_fontweight() == "bold"}
    assert bold == {"1.00", "1.50", "2.00"}
    places = [text.get_position() for text in numbers]
    # What is not of its own domain, and who is not one expert, stand apart.
    assert places[2][0] - places[1][0] > places[1][0] - places[0][0]
    assert places[6][1] - places[3][1] > places[3][1] - places[0][1]


def test_a_number_is_legible_on_its_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = drawn([[1, 2, 3], [3, 3, 3], [1.5, 1, 1]], tmp_path / "m.png", monkeypatch)
    ink = {text.get_text(): text.get_color() for text in numbers[:2] + numbers[3:4]}
    assert ink == {"1.00": "white", "2.00": "black", "3.00": "black"}


@pytest.mark.parametrize("worst", [math.nan, math.inf, 2.0])
def test_what_is_no_number_or_all_alike_is_drawn(
    worst: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = drawn([[worst] * 3, [2.0] * 3, [2.0] * 3], tmp_path / "m.png", monkeypatch)
    assert {text.get_text() for text in numbers} == {"2.00"} | (
        {"-"} if not math.isfinite(worst) else set()
    )
