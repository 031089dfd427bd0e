"""What `join` makes of its words when the peer was here before."""

import shlex
from pathlib import Path

import pytest

from peer.cli.join import way_back
from peer.config import PeerConfig
from peer.run_folder import IDENTITY, write_ticket
from tests.unit.peer.cli.test_main import configs, run, ticket_of

__all__ = ["configs"]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    write_ticket(folder, ticket_of(5))
    (folder / IDENTITY).write_bytes(b"key")
    return folder


@pytest.mark.parametrize(
    ("words", "resume"),
    [
        (["--dir", "mine"], None),
        ([str(ticket_of(1)), "--dir", "mine"], None),
        (["--resume", "mine"], True),
        (["--dir", "mine", "--fresh"], False),
    ],
    ids=["the folder", "ticket and folder", "resume", "fresh"],
)
def test_a_checkpoint_is_taken_unless_the_words_say_otherwise(
    words: list[str],
    resume: bool | None,
    mine: Path,
    monkeypatch: pytest.MonkeyPatch,
    configs: list[PeerConfig],
) -> None:
    assert run(monkeypatch, "join", *words) == 0
    (config,) = configs
    assert config.resume is resume
    assert config.directory == Path("mine")
    assert set(config.ticket.addresses) == set(ticket_of(5).addresses)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--listen", "0.0.0.0"],
        ["--listen", "0.0.0.0:7000", "--announce", "192.0.2.9"],
        ["--listen", ":7000"],
    ],
    ids=" ".join,
)
def test_the_way_back_leads_to_where_others_look_for_us(
    words: list[str], mine: Path, monkeypatch: pytest.MonkeyPatch, configs: list[PeerConfig]
) -> None:
    mine.rename("my peer")
    assert run(monkeypatch, "join", str(ticket_of(1)), "--dir", "my peer", *words) == 0
    told = shlex.split(way_back(configs[0]))
    assert told[0] == "thinwire"
    assert ("--listen" in told) is ("--listen" in words)
    assert run(monkeypatch, *told[1:]) == 0
    first, second = configs
    assert second == first


def test_nothing_need_be_said_in_a_peers_folder(
    mine: Path,
    monkeypatch: pytest.MonkeyPatch,
    configs: list[PeerConfig],
) -> None:
    monkeypatch.chdir(mine)
    assert run(monkeypatch, "join") == 0
    (config,) = configs
    assert (config.ticket, config.directory) == (ticket_of(5), Path())


def test_fresh_and_resume_contradict_each_other(
    mine: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    configs: list[PeerConfig],
) -> None:
    assert run(monkeypatch, "join", "--resume", "mine", "--fresh") == 2
    assert "leave one out" in capsys.readouterr().err
    assert configs == []
