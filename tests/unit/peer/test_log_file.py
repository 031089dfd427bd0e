import logging
from pathlib import Path

import pytest

from peer.log_file import LogFile
from tests.unit.peer.small_disk import a_small_disk, fill


def record(text: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("peer", logging.WARNING, "", 0, text, arguments, None)


def test_a_full_disk_makes_a_gap_and_no_noise(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with a_small_disk(tmp_path / "disk") as disk:
        file = LogFile(disk / "peer.log")
        file.handle(record("first"))
        filler = fill(disk)
        for _ in range(500):
            file.handle(record("lost " * 100))
        filler.unlink()
        file.handle(record("last"))
        file.close()
        lines = (disk / "peer.log").read_text().splitlines()
    assert (lines[0], lines[-1]) == ("first", "last")
    assert len(lines) < 300
    assert capfd.readouterr().err == ""


def test_a_mistake_of_ours_is_still_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = LogFile(tmp_path / "peer.log")
    file.handle(record("%d", "no number"))
    file.close()
    assert "Logging error" in capfd.readouterr().err
