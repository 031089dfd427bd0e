"""What a loop says of its peer, as the settings of one."""

from dataclasses import replace
from pathlib import Path

import pytest

from peer.config import PeerConfig
from peer.loop.options import config_of, ticket_and_folder
from peer.run_folder import IDENTITY, TICKET, write_ticket
from peer.train.lines import Join
from protocol.errors import ConfigError
from protocol.identity import Identity
from protocol.manifest import RunId
from protocol.ticket import Address, Ticket

PEER = Identity(bytes(32)).peer_id
RUN_TICKET = Ticket(RunId("ab" * 32), PEER, (Address("127.0.0.1", 4001, PEER),))


def a_join(folder: Path) -> Join:
    return Join(
        ticket=str(RUN_TICKET),
        directory=str(folder),
        resume=None,
        listen="127.0.0.1",
        announce=None,
        up=None,
        down=None,
        evaluate_every_rounds=0,
        checkpoint_every_s=300.0,
        keep_checkpoints=2,
        wait_s=60.0,
    )


def test_the_ticket_is_a_word_a_file_a_folder_or_the_peers_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ticket(tmp_path, RUN_TICKET)
    file = tmp_path / TICKET
    for given in (str(RUN_TICKET), file, str(file), tmp_path, str(tmp_path)):
        assert ticket_and_folder(given, tmp_path / "peer") == (RUN_TICKET, tmp_path / "peer")
    assert ticket_and_folder(None, tmp_path) == (RUN_TICKET, tmp_path)
    (tmp_path / IDENTITY).touch()  # a peer was here
    monkeypatch.chdir(tmp_path)
    assert ticket_and_folder(None, None) == (RUN_TICKET, tmp_path)


def test_without_a_folder_it_is_named_after_the_run_and_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, folder = ticket_and_folder(str(RUN_TICKET), None)
    assert folder == tmp_path / f"thinwire-{'ab' * 6}"


def test_no_ticket_anywhere_is_the_callers_to_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for given, folder in ((None, None), (None, tmp_path), (tmp_path, None), ("tw1no", None)):
        with pytest.raises(ConfigError) as refused:
            ticket_and_folder(given, folder)
        assert "\n" not in str(refused.value)


def test_settings_are_those_of_a_peer_with_a_loop_of_its_own(tmp_path: Path) -> None:
    told = replace(
        a_join(tmp_path), resume=True, listen="0.0.0.0:7000", announce="10.0.0.1", up="20M"
    )
    config = config_of(told)
    assert config.has_own_loop
    assert (config.ticket, config.directory, config.resume) == (RUN_TICKET, tmp_path, True)
    assert (config.listen_host, config.listen_port) == ("0.0.0.0", 7000)
    assert config.announce_host == "10.0.0.1"
    assert config.up.usual_bps == 20_000_000
    assert config.down == PeerConfig(ticket=RUN_TICKET, directory=tmp_path).down


@pytest.mark.parametrize(
    "change",
    [
        {"listen": "somewhere:port"},
        {"up": "much"},
        {"down": "-1M"},
        {"checkpoint_every_s": 0.5},
        {"keep_checkpoints": 0},
        {"wait_s": 0.0},
        {"ticket": "tw1no"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_wrong_setting_is_refused_in_one_line(tmp_path: Path, change: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as refused:
        config_of(replace(a_join(tmp_path), **change))  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)
