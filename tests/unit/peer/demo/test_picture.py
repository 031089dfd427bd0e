import math
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from peer.demo.picture import draw
from peer.demo.play import Play
from peer.demo.report import Scores, report_of


def size_of(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "broken off"])
def test_draws_a_play(play: Play, scores: Scores, tmp_path: Path, is_whole: bool) -> None:
    if not is_whole:
        scores = replace(scores, alone=math.nan, peers={})
        play.played, play.lone = play.played[:1], None
        del play.peers["peer-4"]
    report = report_of(play, scores, method="diloco", seed=0, took_s=1.0)
    draw(play, report, tmp_path / "losses.png")
    assert size_of(tmp_path / "losses.png") == (1500, 840)


def test_draws_an_empty_play(tmp_path: Path) -> None:
    scores = Scores(1000, 1024, 7.4, math.nan, {}, 0)
    report = report_of(Play(600, 30), scores, method="diloco", seed=0, took_s=1.0)
    draw(Play(600, 30), report, tmp_path / "losses.png")
    assert size_of(tmp_path / "losses.png") == (1500, 840)
