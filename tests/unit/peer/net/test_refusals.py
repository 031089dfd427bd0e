import logging

import pytest

from peer.net import refusals
from peer.net.refusals import RefusalLog, readable

logger = logging.getLogger("test")


def test_a_reason_is_said_once_a_peer(caplog: pytest.LogCaptureFixture) -> None:
    log = RefusalLog(logger)
    for size in (1, 2, 3):
        log.refuse("a", "LimitExceeded", f"a note of {size} bytes")
        log.refuse("b", "LimitExceeded", f"a note of {size} bytes")
    log.refuse("a", "hello", "another run")
    assert [record.getMessage() for record in caplog.records] == [
        "refused peer a: a note of 1 bytes (said once)",
        "refused peer b: a note of 1 bytes (said once)",
        "refused peer a: another run (said once)",
    ]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "_CAPACITY", 3)
    log = RefusalLog(logger)
    for number in range(10):
        log.refuse(str(number), "hello", "no")
    assert [peer for peer, _ in log._seen] == ["7", "8", "9"]


def test_strangers_words_are_shown_only_if_harmless() -> None:
    assert readable("plain words") == "plain words"
    assert readable("a\nfake log line") == "no readable reason"
    assert len(readable("x" * 1000)) == 300
