import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import peer
from peer.demo.cast import Actor, ActorDied, Cast

SLEEP = (sys.executable, "-S", "-c", "import time; time.sleep(60)")
FAMILY = (
    sys.executable,
    "-S",
    "-c",
    "import os, time; (child := os.fork()) and print(child, flush=True); time.sleep(60)",
)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until(is_true: object, within_s: float = 10.0) -> bool:
    assert callable(is_true)
    end_s = time.monotonic() + within_s
    while not is_true() and time.monotonic() < end_s:
        time.sleep(0.02)
    return bool(is_true())


def test_a_kill_reaches_the_whole_family(tmp_path: Path) -> None:
    actor = Actor("family", tmp_path)
    actor.start(FAMILY)
    assert wait_until(lambda: "\n" in actor.output_path.read_text())
    child = int(actor.output_path.read_text())
    assert is_running(child)
    actor.kill()
    assert actor.exit_code == -signal.SIGKILL
    assert wait_until(lambda: not is_running(child))


def test_who_ends_unasked_is_noticed_and_quoted(tmp_path: Path) -> None:
    with Cast(tmp_path) as cast:
        actor = cast.start("peer-1", (sys.executable, "-S", "-c", "raise SystemExit('no memory')"))
        assert wait_until(lambda: not actor.is_alive)
        with pytest.raises(ActorDied, match="peer-1 ended unexpectedly with exit code 1"):
            cast.check()
        assert actor.tail() == "no memory"


@pytest.mark.parametrize("code", [0, 3])
def test_who_may_finish_may_only_finish_well(tmp_path: Path, code: int) -> None:
    with Cast(tmp_path) as cast:
        actor = cast.start("lone", (sys.executable, "-S", "-c", f"raise SystemExit({code})"))
        actor.may_finish = True
        assert wait_until(lambda: not actor.is_alive)
        with pytest.raises(ActorDied) if code else contextlib.nullcontext():
            cast.check()


def test_who_was_told_to_end_is_not_an_accident(tmp_path: Path) -> None:
    with Cast(tmp_path) as cast:
        cast.start("peer-1", SLEEP)
        cast.check()
        codes = cast.dismiss(["peer-1", "nobody"], within_s=10.0)
        cast.check()
    assert codes.keys() == {"peer-1"}
    assert codes["peer-1"] not in (None, -signal.SIGKILL)


def test_who_does_not_leave_is_killed(tmp_path: Path) -> None:
    deaf = "import signal, time; signal.signal(2, signal.SIG_IGN); print(1, flush=True)"
    with Cast(tmp_path) as cast:
        actor = cast.start("deaf", (sys.executable, "-S", "-c", f"{deaf}; time.sleep(60)"))
        assert wait_until(lambda: actor.output_path.read_text() != "")
        assert cast.dismiss(["deaf"], within_s=0.2) == {"deaf": None}
        assert actor.exit_code == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="PDEATHSIG is Linux's")
def test_actors_end_with_a_demo_that_is_killed(tmp_path: Path) -> None:
    demo = (
        "import sys, time; from pathlib import Path; from peer.demo.cast import Cast\n"
        f"actor = Cast(Path({str(tmp_path)!r})).start('peer-1', {SLEEP!r})\n"
        "print(actor.pid, flush=True); time.sleep(60)"
    )
    root = str(Path(peer.__file__).parents[1])
    with subprocess.Popen(
        (sys.executable, "-c", demo),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        parent.kill()
    assert wait_until(lambda: not is_running(pid))
