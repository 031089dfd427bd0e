import io
import signal
import sys
from pathlib import Path

import pytest
from rich.console import Console

from peer.demo import script as common
from peer.demo.cast import ActorDied, Cast
from peer.demo.experts import script
from peer.demo.experts.play import Play
from peer.demo.experts.report import Judged, report_of
from peer.demo.experts.stage import Stage
from peer.demo.experts.verdict import problems_of
from peer.demo.screen import Screen
from protocol.manifest import Manifest, manifest_from

FAKE = (sys.executable, "-S", str(Path(__file__).with_name("fake_thinwire.py")))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "LOOK_S", 0.02)


def play_all(directory: Path, console: Console, manifest: Manifest) -> tuple[Play, Cast]:
    domains = [
        domain.model_copy(update={"inner": domain.inner.model_copy(update={"total_steps": 60})})
        for domain in manifest.domains
    ]
    manifest = manifest_from(manifest.model_copy(update={"domains": domains}).model_dump())
    with Cast(directory) as cast, Screen(console) as screen:
        stage = Stage(cast, screen, directory, width=100, thinwire=FAKE)
        stage.open(stage.found())
        stage.perform(manifest)
        stage.close()
    return stage.play_so_far, cast


def test_kills_a_lonely_peer_and_waits_for_all_experts(
    tmp_path: Path, manifest: Manifest, judged: list[Judged]
) -> None:
    shown = io.StringIO()
    play, cast = play_all(tmp_path, Console(file=shown, width=300), manifest)
    assert play.kill is not None
    assert cast.actors[play.kill.peer].exit_code == -signal.SIGKILL
    rescue = play.rescue()
    assert rescue is not None
    assert (rescue.peer, rescue.step) == ("peer-4", 15)
    assert set(play.complete()) == set(script.PEERS) - {play.kill.peer}
    assert play.exit_codes == dict.fromkeys(("bootstrap", *play.complete()), 0)
    assert not any(actor.is_alive for actor in cast.actors.values())
    report = report_of(
        play, judged, {}, method="diloco", seed=0, evaluation_bytes=1, took_s=1.0, cpu_s=1.0
    )
    assert problems_of(report, play) == []
    text = shown.getvalue()
    assert f"{play.kill.peer} was killed with SIGKILL, alone in {play.kill.domain}" in text
    assert f"next: {play.kill.peer}'s card expires in about" in text
    assert f"peer-4 takes {play.kill.domain} over, from step 15" in text


def test_in_a_terminal_there_are_two_tables(tmp_path: Path, manifest: Manifest) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=120, height=40)
    play_all(tmp_path, console, manifest)
    for heading in ("copies", "what it does", "keeps", "3 of 3 domains done"):
        assert heading in shown.getvalue()


def test_a_peer_that_dies_by_itself_ends_the_play(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_DIES", "peer-3")
    with pytest.raises(ActorDied, match="peer-3 ended unexpectedly"):
        play_all(tmp_path, Console(file=io.StringIO()), manifest)


def test_ends_also_when_nobody_could_be_killed(
    tmp_path: Path, manifest: Manifest, judged: list[Judged], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Play, "victim", lambda play: None)
    play, _ = play_all(tmp_path, Console(file=io.StringIO()), manifest)
    assert play.complete() == list(script.PEERS)
    report = report_of(
        play, judged, {}, method="diloco", seed=0, evaluation_bytes=1, took_s=1.0, cpu_s=1.0
    )
    (problem,) = problems_of(report, play)
    assert problem.startswith("nobody was killed")


def test_a_slow_machine_is_given_up_and_reported(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "DEADLINE_S", 1.0)
    play, _ = play_all(tmp_path, Console(file=io.StringIO()), manifest)
    assert play.complete_s is None
    report = report_of(
        play, [], {}, method="diloco", seed=0, evaluation_bytes=1, took_s=1.0, cpu_s=1.0
    )
    assert any("when time was up" in problem for problem in problems_of(report, play))
