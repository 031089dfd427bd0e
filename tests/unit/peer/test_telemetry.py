import json
import logging
from pathlib import Path
from typing import Any

import pytest

from peer.telemetry import Events, read_events
from protocol.identity import PeerId
from protocol.manifest import RunId
from tests.unit.peer.small_disk import a_small_disk, fill


def open_events(path: Path) -> Events:
    return Events(path, run_id=RunId("ab" * 32), peer_id=PeerId("somebody"))


def test_each_event_is_on_disk_at_once_with_clocks_and_names(tmp_path: Path) -> None:
    events = open_events(tmp_path / "events.jsonl")
    events.write("landed", round=3, partners=(PeerId("other"),), path=tmp_path)
    events.write("left", step=7)
    first, second = read_events(tmp_path / "events.jsonl")  # before it is closed
    events.close()
    assert first.items() >= {"event": "landed", "round": 3, "partners": ["other"]}.items()
    assert second.items() >= {"event": "left", "step": 7, "peer_id": "somebody"}.items()
    assert first["run_id"] == "ab" * 32
    assert first["t_mono_s"] <= second["t_mono_s"]
    assert first["t_unix_s"] > 1.7e9


def test_in_a_run_with_domains_each_event_says_in_which_it_was(tmp_path: Path) -> None:
    events = open_events(tmp_path / "events.jsonl")
    events.write("starting")
    events.domain = "law"
    events.write("landed", round=3)
    events.write("domain_copied", of="math")
    events.close()
    before, landed, copied = read_events(tmp_path / "events.jsonl")
    assert "domain" not in before
    assert (landed["domain"], landed["round"]) == ("law", 3)
    assert (copied["domain"], copied["of"]) == ("law", "math")


def test_a_peer_that_comes_back_writes_behind_its_former_life(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for life in range(2):
        events = open_events(path)
        events.write("joined", life=life)
        events.close()
    assert [event["life"] for event in read_events(path)] == [0, 1]


def test_a_last_line_that_is_half_written_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    events = open_events(path)
    events.write("joined")
    events.close()
    whole = path.read_text()
    for length in (1, len(whole) // 2, len(whole) - 1):
        path.write_text(whole + whole[:length])
        assert [event["event"] for event in read_events(path)] == ["joined"]


def test_a_half_written_line_of_a_former_life_harms_no_later_event(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    events = open_events(path)
    events.write("joined", life=0)
    events.close()
    path.write_text(path.read_text() + '{"event": "progr')
    events = open_events(path)
    events.write("joined", life=1)
    events.write("left", life=1)
    events.close()
    lives = [(event["event"], event["life"]) for event in read_events(path)]
    assert lives[0] == ("joined", 0)
    assert lives[-1] == ("left", 1)


def test_lines_that_a_disk_has_damaged_cost_no_others(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    events = open_events(path)
    events.write("joined")
    events.close()
    whole = path.read_bytes()
    for damage in (b"\xff\xfe\x00", b'{"event": "\xc3', b"[]", b"[" * 100_000, b"7"):
        path.write_bytes(damage + b"\n" + whole + damage)
        events = open_events(path)
        events.write("left")
        events.close()
        assert [event["event"] for event in read_events(path)] == ["joined", "left"]


def test_a_loss_that_is_not_known_yet_is_still_json(tmp_path: Path) -> None:
    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is no JSON")

    events = open_events(tmp_path / "events.jsonl")
    events.write("progress", loss_bits_per_byte=float("nan"))
    events.close()
    json.loads((tmp_path / "events.jsonl").read_text(), parse_constant=refuse)


def test_what_an_operator_should_see_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="thinwire")
    events = open_events(tmp_path / "events.jsonl")
    events.write("landed", round=3)
    events.write("exchange_failed", reason="too slow")
    events.close()
    levels = {record.getMessage().split(" {")[0]: record.levelname for record in caplog.records}
    assert levels == {"landed": "DEBUG", "exchange failed": "WARNING"}


def test_a_full_disk_ends_neither_the_peer_nor_its_later_events(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with a_small_disk(tmp_path / "disk") as disk:
        path = disk / "events.jsonl"
        events = open_events(path)
        events.write("joined")
        filler = fill(disk)
        for n in range(300):
            events.write("progress", n=n)
        (warning,) = caplog.records  # once, and not for each event
        assert "No space left" in warning.getMessage()
        filler.unlink()
        events.write("landed")
        events.write("left")
        names = [event["event"] for event in read_events(path)]
        assert names[0] == "joined"
        assert names[-2:] == ["landed", "left"]
        filler = fill(disk)
        for n in range(300):
            events.write("progress", n=n)
        events.close()
        open_events(path).close()  # as of the next life
