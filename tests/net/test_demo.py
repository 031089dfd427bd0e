"""The demo's processes, the real ones. A whole demo takes minutes: `make demo` shows that."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

import peer

pytestmark = [
    pytest.mark.net,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]
PATIENCE_S = 30.0
"""On a busy machine; whoever is not told, or does not hear, lives for minutes."""


def processes_with(mark: str) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def wait_until(is_true: Callable[[], bool], within_s: float) -> bool:
    end_s = time.monotonic() + within_s
    while not is_true() and time.monotonic() < end_s:
        time.sleep(0.1)
    return is_true()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)], ids=["Ctrl+C", "SIGKILL"]
)
def test_no_process_outlives_the_demo(tmp_path: Path, number: signal.Signals, code: int) -> None:
    mark = uuid.uuid4().hex
    root = str(Path(peer.__file__).parents[1])
    command = [sys.executable, "-m", "thinwire", "demo", "--dir", str(tmp_path / "demo")]
    log = tmp_path / "log.txt"
    with log.open("w") as file:
        demo = subprocess.Popen(
            command,
            stdout=file,
            stderr=file,
            env={**os.environ, "PYTHONPATH": root, "DEMO_TEST_MARK": mark},
        )
    try:
        has_joined = (tmp_path / "demo" / "peer-1" / "events.jsonl").exists
        assert wait_until(has_joined, 90.0), log.read_text()
        assert sum("join" in line for line in processes_with(mark)) >= 3
        demo.send_signal(number)
        assert demo.wait(PATIENCE_S) == code
        assert wait_until(lambda: not processes_with(mark), PATIENCE_S), processes_with(mark)
    finally:
        demo.kill()
        demo.wait()
