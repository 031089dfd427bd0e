import logging

import pytest

from peer.net import refusals
from peer.net.refusals import MAX_LINES_PER_MINUTE, RefusalLog, readable

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


def test_a_crowd_cannot_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    now_s = [0.0]
    log = RefusalLog(logger, lambda: now_s[0])
    num_seconds, per_s = 600, 20
    for second in range(num_seconds):
        now_s[0] = float(second)
        for number in range(per_s):
            log.refuse(f"{second}.{number}", "hello", "no")
    messages = [record.getMessage() for record in caplog.records]
    minutes = num_seconds // 60
    assert len(messages) <= minutes * (MAX_LINES_PER_MINUTE + 1)
    more = [message for message in messages if "more refusals" in message]
    assert more == [f"refused peers: and {60 * per_s - MAX_LINES_PER_MINUTE} more refusals"] * (
        minutes - 1
    )


def test_strangers_words_are_shown_only_if_harmless() -> None:
    assert readable("plain words") == "plain words"
    assert readable("a\nfake log line") == "no readable reason"
    assert len(readable("x" * 1000)) == 300
