import io
import signal
from pathlib import Path

import pytest
from rich.console import Console

from peer.demo import DEFAULT_STEPS, run, run_demo
from peer.demo.cast import Cast
from peer.demo.script import METHODS


def play(directory: Path, method: str = "diloco") -> tuple[int, str]:
    shown = io.StringIO()
    code = run_demo(
        method, seed=0, steps=DEFAULT_STEPS, directory=directory, console=Console(file=shown)
    )
    return code, shown.getvalue()


def test_a_method_that_it_cannot_play(tmp_path: Path) -> None:
    code, told = play(tmp_path, "adam")
    assert code == 2
    assert " ".join(told.split()) == f"the demo can play {', '.join(METHODS)}, not 'adam'"


def test_a_directory_with_another_demo(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    code, told = play(tmp_path)
    assert (code, "choose another --dir" in told) == (2, True)


def test_ctrl_c_and_sigterm_end_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def show(cast: Cast, *args: object, **options: object) -> int:
        signal.raise_signal(signal.SIGTERM)
        return 0

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(run, "_show", show)
    code, told = play(tmp_path)
    assert code == 130
    assert "No process of the demo is left" in told
    assert signal.getsignal(signal.SIGTERM) is before
