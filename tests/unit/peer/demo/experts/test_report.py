import io
import json
import struct
from pathlib import Path

import pytest
from rich.console import Console

from peer.demo.experts.picture import draw
from peer.demo.experts.play import Play
from peer.demo.experts.report import Judged, Report, judged_of, report_of
from peer.demo.experts.table import show


def make(play: Play, judged: list[Judged]) -> Report:
    parameters = {"python": 364_000, "manual": 296_000, "cpp": 394_000}
    return report_of(
        play,
        judged,
        parameters,
        method="diloco",
        seed=3,
        evaluation_bytes=1024,
        took_s=61.0,
        cpu_s=90.0,
    )


def test_means_are_over_domains() -> None:
    row = {"name": "a", "kind": "expert", "bits_per_byte": {"x": 1.0, "y": 4.0}}
    assert judged_of([row])[0].mean == 2.5


def test_the_report_is_json(play: Play, judged: list[Judged], tmp_path: Path) -> None:
    make(play, judged).write(tmp_path / "report.json")
    read = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert read["kill"]["peer"] == "peer-2"
    assert read["rescue"]["step"] == 80
    assert read["peers"]["peer-4"] == ["cpp", "manual"]
    assert [domain["done_s"] for domain in read["domains"]] == [30.0, 52.0, 30.0]


def test_the_table_says_what_counts(play: Play, judged: list[Judged]) -> None:
    shown = io.StringIO()
    show(make(play, judged), Console(file=shown, width=120))
    for part in ("peer-2 killed, alone in manual", "0:40", "20 s later", "3.333", "2.050", "296k"):
        assert part in shown.getvalue()
    assert "All as promised" in shown.getvalue()


def test_an_empty_play_has_a_report(tmp_path: Path) -> None:
    play = Play(1000.0)
    shown = io.StringIO()
    show(make(play, []), Console(file=shown))
    draw(play, tmp_path / "domains.png")
    assert "the whole demo" in shown.getvalue()


def test_draws_a_play(play: Play, tmp_path: Path) -> None:
    draw(play, tmp_path / "domains.png")
    data = (tmp_path / "domains.png").read_bytes()
    assert struct.unpack(">II", data[16:24]) == (1500, 945)
