import io
import os
import signal
import sys
from pathlib import Path

import pytest
from rich.console import Console

from peer.demo import script
from peer.demo.cast import ActorDied, Cast
from peer.demo.play import Play
from peer.demo.production import TooSlow
from peer.demo.report import Scores, report_of
from peer.demo.screen import Screen
from peer.demo.stage import Stage
from peer.demo.verdict import problems_of

FAKE = (sys.executable, "-S", str(Path(__file__).with_name("fake_thinwire.py")))
STEPS = 90


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "LOOK_S", 0.02)
    monkeypatch.setattr(script, "QUIET_S", 0.1)


def play_all(directory: Path, console: Console) -> tuple[Play, Cast]:
    with Cast(directory) as cast, Screen(console) as screen:
        stage = Stage(
            cast, screen, directory, steps=STEPS, interval_steps=5, thinwire=FAKE, lone=FAKE
        )
        stage.open(stage.found())
        stage.train(directory / "alone.json")
        stage.close()
    return stage.play_so_far, cast


def test_plays_all_cues_and_leaves_nobody_behind(tmp_path: Path) -> None:
    shown = io.StringIO()
    play, cast = play_all(tmp_path, Console(file=shown, width=200))
    assert [played.cue for played in play.played] == ["kill_peer", "new_peer", "kill_bootstrap"]
    assert cast.actors[script.VICTIM].exit_code == -signal.SIGKILL
    assert cast.actors[script.BOOTSTRAP].exit_code == -signal.SIGKILL
    assert play.exit_codes == dict.fromkeys(script.SURVIVORS, 0)
    assert play.peers[script.VICTIM].step < STEPS
    assert all(play.peers[name].is_done for name in script.SURVIVORS)
    assert play.is_complete
    assert not any(actor.is_alive for actor in cast.actors.values())
    scores = Scores(1_000_000, 1024, 8.0, 3.0, dict.fromkeys(script.SURVIVORS, 2.0), 1)
    report = report_of(play, scores, method="diloco", seed=0, took_s=1.0)
    assert problems_of(report, play) == []
    text = shown.getvalue()
    assert "peer-2 was killed with SIGKILL, at step" in text
    assert "next: peer-4 will join, with nothing but the ticket, at step 40" in text


def test_in_a_terminal_there_is_a_table(tmp_path: Path) -> None:
    shown = io.StringIO()
    play_all(tmp_path, Console(file=shown, force_terminal=True, width=120, height=40))
    assert "bits/byte" in shown.getvalue()
    assert "serves the ticket" in shown.getvalue()


def test_a_peer_that_dies_by_itself_ends_the_play(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_DIES", "peer-3")
    with pytest.raises(ActorDied, match="peer-3 ended unexpectedly with exit code 1") as raised:
        play_all(tmp_path, Console(file=io.StringIO()))
    assert raised.value.actor.tail() == "peer-3: out of memory"


def test_refused_settings_end_the_play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_REFUSES", "1")
    with pytest.raises(ActorDied, match="founder") as raised:
        play_all(tmp_path, Console(file=io.StringIO()))
    assert "no preset" in raised.value.actor.tail()


def test_a_slow_machine_is_given_up_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "DEADLINE_S", 1.2)
    play, _ = play_all(tmp_path, Console(file=io.StringIO()))
    assert not play.is_complete
    scores = Scores(1_000_000, 1024, 8.0, float("nan"), {"peer-1": 2.0}, 1)
    problems = problems_of(report_of(play, scores, method="diloco", seed=0, took_s=2.0), play)
    assert any("when time was up" in problem for problem in problems)


def test_a_bootstrap_node_without_a_ticket_is_too_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "BOOTSTRAP_S", 0.3)
    with Cast(tmp_path) as cast, Screen(Console(file=io.StringIO())) as screen:
        sleeper = (sys.executable, "-S", "-c", "import time; time.sleep(60)")
        stage = Stage(cast, screen, tmp_path, steps=STEPS, interval_steps=5, thinwire=sleeper)
        with pytest.raises(TooSlow, match="the bootstrap node took more than"):
            stage.open(tmp_path)
    assert not cast.actors[script.BOOTSTRAP].is_alive
    assert not is_process(cast.actors[script.BOOTSTRAP].pid)


def is_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
