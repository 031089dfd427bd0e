import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from peer.demo.play import Play
from peer.demo.report import Report, Scores, data_parallel_bytes, failed_exchanges, report_of
from peer.demo.table import show
from peer.demo.watch import PeerView

Write = Callable[[str, list[dict[str, Any]]], PeerView]


def make(play: Play, scores: Scores) -> Report:
    return report_of(play, scores, method="diloco", seed=3, took_s=99.0)


def test_a_ring_sends_each_gradient_almost_twice() -> None:
    assert data_parallel_bytes(3, 300, 10) == pytest.approx(2 * 2 / 3 * 4 * 300 * 10)


def test_the_figures_of_a_play(play: Play, scores: Scores) -> None:
    report = make(play, scores)
    assert report.end_bits_per_byte == report.worst_bits_per_byte == pytest.approx(2.2)
    assert report.middle_step == 270  # the killed peer got to 180, the newcomer began with 360
    assert report.sent_bytes_max == 12_001_000
    assert report.sent_bytes_mean == 12_000_500  # without the victim and the newcomer
    assert report.data_parallel_bytes == data_parallel_bytes(3, 400_000, 600)
    assert report.times_fewer_bytes == report.data_parallel_bytes / 12_001_000
    assert report.rounds_landed == 20
    assert report.exchanges_failed == []
    assert report.overhead_s == 0.25
    parts = {peer.name: (peer.part, peer.joined_at_step, peer.step) for peer in report.peers}
    assert parts["peer-2"] == ("killed", 0, 210)
    assert parts["peer-4"] == ("joined late", 300, 600)


def test_pairs_have_a_mean_and_a_worst(play: Play, scores: Scores) -> None:
    peers = {"peer-1": 2.0, "peer-3": 2.1, "peer-4": 2.5}
    report = make(play, replace(scores, peers=peers, anchors=3))
    assert report.end_bits_per_byte == pytest.approx(2.2)
    assert report.worst_bits_per_byte == 2.5


def test_an_exchange_that_failed_at_several_peers_is_one(play: Play, write_peer: Write) -> None:
    failure = {"event": "exchange_failed", "exchange_id": "y", "reason": "no part"}
    for name, t_unix_s in (("peer-1", 1025.0), ("peer-3", 1024.0)):
        event = failure | {"t_unix_s": t_unix_s, "partners": ["id-peer-2", "id-stranger"]}
        play.peers[name] = write_peer(name, [event])
    late = failure | {"exchange_id": "z", "t_unix_s": play.curtain_unix_s + 1, "partners": []}
    play.peers["peer-4"] = write_peer("peer-4", [late])
    (failed,) = failed_exchanges(play)
    assert failed == {
        "exchange_id": "y",
        "t_unix_s": 1024.0,
        "partners": ["id-stranger", "peer-2"],
        "reasons": {"peer-1": "no part", "peer-3": "no part"},
        "landed_elsewhere": False,
    }


def test_the_report_is_written_without_nan(play: Play, scores: Scores, tmp_path: Path) -> None:
    report = make(play, replace(scores, alone=math.nan))
    report.write(tmp_path / "report.json")
    read = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert read["alone_bits_per_byte"] is None
    assert read["end_bits_per_byte"] == pytest.approx(2.2)
    assert read["machine"]["cpu_count"] >= 1
    assert "torch" in read["versions"]
    assert [cue["cue"] for cue in read["cues"]] == ["kill_peer", "new_peer", "kill_bootstrap"]


def test_the_table_says_what_counts(play: Play, scores: Scores) -> None:
    shown = io.StringIO()
    report = make(play, scores)
    show(report, Console(file=shown, width=120))
    show(replace(report, problems=["it rained"]), Console(file=shown, width=120))
    text = shown.getvalue()
    for part in ("7.400", "2.200", "2.400", "12.0 MB", "107 x", "All as promised", "it rained"):
        assert part in text


def test_an_empty_play_has_a_report(tmp_path: Path) -> None:
    scores = Scores(400_000, 1024, 7.4, math.nan, {}, 0)
    report = make(Play(600, 30), scores)
    assert math.isnan(report.end_bits_per_byte)
    assert report.times_fewer_bytes == 0
    show(report, Console(file=io.StringIO()))
