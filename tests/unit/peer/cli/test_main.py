"""What an operator sees when something is wrong, and what `join` makes of its words."""

import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

import peer.cli.join
from peer.config import PeerConfig
from peer.net.pace import NO_CAP, Cap
from peer.run_folder import read_ticket, write_ticket
from protocol.errors import ConfigError, MalformedMessage, TransportError
from protocol.identity import Identity
from protocol.manifest import RunId
from protocol.ticket import Address, Ticket
from thinwire.__main__ import main

IDS = [Identity(bytes([n]) * 32).peer_id for n in range(1, 20)]


def ticket_of(num_addresses: int = 1) -> Ticket:
    addresses = (Address(f"192.0.2.{n}", 4000 + n, IDS[n]) for n in range(num_addresses))
    return Ticket(RunId("ab" * 32), IDS[0], tuple(addresses), b"s" * 16)


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["thinwire", *words])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code is None or isinstance(left.value.code, int)
    return left.value.code or 0


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[PeerConfig]:
    """What `join` would have lived with; nobody lives."""
    seen: list[PeerConfig] = []

    async def live(config: PeerConfig, console: object, *, plain: bool) -> None:
        seen.append(config)

    monkeypatch.setattr(peer.cli.join, "_live", live)
    monkeypatch.setattr(peer.cli.join, "run_loop", exhaust)
    monkeypatch.setattr(peer.cli.join, "_log_to", lambda console, folder: None)
    monkeypatch.chdir(tmp_path)
    return seen


def exhaust(main: Coroutine[Any, Any, None]) -> None:
    with pytest.raises(StopIteration):
        main.send(None)


# ---- what goes wrong


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("change this"), 2),
        (TransportError("the wire broke"), 1),
        (MalformedMessage("nonsense came in"), 1),
    ],
    ids=["an operator's mistake", "weather", "a stranger's fault"],
)
def test_an_error_of_ours_is_one_line_and_a_code(
    error: Exception,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    configs: list[PeerConfig],
) -> None:
    def fail(main: Coroutine[Any, Any, None]) -> None:
        main.close()
        raise error

    monkeypatch.setattr(peer.cli.join, "run_loop", fail)
    assert run(monkeypatch, "join", str(ticket_of())) == code
    captured = capsys.readouterr()
    assert captured.err == f"thinwire: {error}\n"
    assert captured.out == ""


def test_a_bug_is_not_made_nice(monkeypatch: pytest.MonkeyPatch, configs: list[PeerConfig]) -> None:
    def fail(main: Coroutine[Any, Any, None]) -> None:
        main.close()
        raise ZeroDivisionError

    monkeypatch.setattr(peer.cli.join, "run_loop", fail)
    monkeypatch.setattr(sys, "argv", ["thinwire", "join", str(ticket_of())])
    with pytest.raises(ZeroDivisionError):
        main()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["join"], "give a ticket"),
        (["join", "hello"], "no thinwire ticket"),
        (["join", str(ticket_of())[:-1]], "mistyped"),
        (["join", str(ticket_of()), "--listen", "host:port"], "--listen host:port"),
        (["join", str(ticket_of()), "--dir", "a", "--resume", "b"], "leave --dir out"),
        (["join", "--resume", "nowhere"], "holds no run"),
        (["join", str(ticket_of()), "--dir", "file"], "cannot use the folder file"),
        (["new", "nowhere.toml"], "cannot read nowhere.toml"),
        (["bootstrap", "nowhere", "--listen", "host:99999"], "--listen host:99999"),
        (["join", str(ticket_of()), "--metrics", "host"], "--metrics host: it is [HOST:]PORT"),
        (["join", str(ticket_of()), "--up", "fast"], "--up 'fast' is not a rate"),
        (["join", str(ticket_of()), "--down", "20"], "--down '20' is 20 bit/s"),
        (["bootstrap", "nowhere", "--up", "20M,8-18=5M"], "--up '8' is not a time of day"),
    ],
    ids=lambda words: " ".join(word[:12] for word in words) if isinstance(words, list) else None,
)
def test_a_mistake_of_the_operator_is_one_line_and_code_2(
    words: list[str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    configs: list[PeerConfig],
) -> None:
    Path("file").write_text("")
    assert run(monkeypatch, *words) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("thinwire: ")
    assert expected in said
    assert configs == []


@pytest.mark.parametrize("words", [["fly"], ["join", "--fast"], ["join", "--threads", "many"]])
def test_words_that_the_command_does_not_know_are_code_2(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(monkeypatch, *words) == 2


def test_the_version_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.startswith("thinwire 0.")


def test_a_real_process_says_one_line_on_stderr_and_no_trace(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "thinwire", "join", "hello", "--dir", str(tmp_path / "peer")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("thinwire: this is no thinwire ticket")
    assert done.stdout == ""
    assert not (tmp_path / "peer").exists()


# ---- what join makes of its words


def test_a_ticket_is_all_that_is_needed(
    monkeypatch: pytest.MonkeyPatch, configs: list[PeerConfig], tmp_path: Path
) -> None:
    assert run(monkeypatch, "join", str(ticket_of())) == 0
    (config,) = configs
    assert config.ticket == ticket_of()
    assert config.directory == Path("thinwire-abababababab")
    assert (tmp_path / config.directory).is_dir()
    assert (config.listen_host, config.listen_port) == ("127.0.0.1", 0)
    assert not config.resume
    assert not config.allow_text_recipe


@pytest.mark.parametrize(
    ("words", "expected"),
    [([], None), (["--metrics", "9100"], ("127.0.0.1", 9100))],
)
def test_metrics_are_served_only_where_they_are_asked_for(
    words: list[str],
    expected: tuple[str, int] | None,
    monkeypatch: pytest.MonkeyPatch,
    configs: list[PeerConfig],
) -> None:
    assert run(monkeypatch, "join", str(ticket_of()), *words) == 0
    assert [config.metrics for config in configs] == [expected]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], (None, None)),
        (["--tensorboard", "tb", "--wandb", "mine"], (Path("tb"), "mine")),
    ],
)
def test_trackers_are_told_only_where_they_are_asked_for(
    words: list[str],
    expected: tuple[Path | None, str | None],
    monkeypatch: pytest.MonkeyPatch,
    configs: list[PeerConfig],
) -> None:
    assert run(monkeypatch, "join", str(ticket_of()), *words) == 0
    assert [(config.tensorboard, config.wandb_project) for config in configs] == [expected]


def test_caps_may_depend_on_the_hour(
    monkeypatch: pytest.MonkeyPatch, configs: list[PeerConfig]
) -> None:
    assert run(monkeypatch, "join", str(ticket_of())) == 0
    words = ("--up", "20M,08:00-18:00=5M", "--down", "100M")
    assert run(monkeypatch, "join", str(ticket_of()), *words) == 0
    uncapped, capped = configs
    assert (uncapped.up, uncapped.down) == (NO_CAP, NO_CAP)
    assert [capped.up.bps(60 * hour) for hour in (7, 8, 18)] == [20e6, 5e6, 20e6]
    assert capped.down == Cap(100e6)


@pytest.mark.parametrize(
    "num_addresses",
    [
        1,
        2,
        3,
        16,
    ],
)
def test_a_ticket_may_list_many_addresses(
    num_addresses: int, monkeypatch: pytest.MonkeyPatch, configs: list[PeerConfig]
) -> None:
    run(monkeypatch, "join", str(ticket_of(num_addresses)))
    assert configs[0].ticket == ticket_of(num_addresses)


def test_a_ticket_may_be_in_a_file_and_broken_into_lines(
    monkeypatch: pytest.MonkeyPatch, configs: list[PeerConfig]
) -> None:
    text = str(ticket_of(5))
    Path("ticket.txt").write_text("\n".join(text[at : at + 60] for at in range(0, len(text), 60)))
    run(monkeypatch, "join", "ticket.txt", "--dir", "mine")
    (config,) = configs
    assert (config.ticket, config.directory) == (ticket_of(5), Path("mine"))


def test_resuming_takes_the_ticket_from_the_folder(
    monkeypatch: pytest.MonkeyPatch, configs: list[PeerConfig]
) -> None:
    Path("mine").mkdir()
    write_ticket(Path("mine"), ticket_of(5))
    assert run(monkeypatch, "join", "--resume", "mine") == 0
    (config,) = configs
    assert config.resume
    assert (config.ticket, config.directory) == (read_ticket(Path("mine")), Path("mine"))
