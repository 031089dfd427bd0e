"""What `thinwire contribution` prints, without a swarm."""

from dataclasses import replace
from pathlib import Path

import pytest

from peer.cli.contribution import part_in_words
from peer.contribution import ContributionFile, Tally
from peer.evidence import evidence_of, write_evidence
from peer.identity_file import load_identity
from peer.run_folder import IDENTITY, write_ticket
from protocol.identity import Identity
from protocol.manifest import RunId
from protocol.messages import Member
from protocol.ticket import Address, Ticket
from tests.unit.peer.cli.test_main import run
from tests.unit.peer.test_evidence import ID, OTHERS, RUN, signed

NODE = Address("192.0.2.1", 4001, OTHERS[0].peer_id)
TICKET = Ticket(RUN.run_id, Identity(b"f" * 32).peer_id, (NODE,))
ELSEWHERE = replace(TICKET, run_id=RunId("00" * 32))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A peer's, whose name is `mine`, in the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    folder = tmp_path / "mine"
    folder.mkdir()
    load_identity(folder / IDENTITY)
    write_ticket(folder, TICKET)
    return folder


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line.strip()]


def test_a_peer_sees_what_became_of_its_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    peer_id = load_identity(folder / IDENTITY).peer_id
    tally = Tally()
    tally.begin_life(0)
    tally.trained(10_000)
    tally.landed(7_500, [Member(peer_id=OTHERS[0].peer_id, tokens=5)], num_fragments=1)
    tally.late(2)
    for _ in range(3):
        tally.refused("[bold]the partner\x1b left")
    ContributionFile(folder, run_id=RUN.run_id, peer_id=peer_id).write(tally)
    assert run(monkeypatch, "contribution", "mine") == 0
    assert said(capsys) == [
        f"peer {peer_id[-6:]}, run {RUN.run_id[:12]}",
        "trained 10,000 tokens",
        "used 7,500 tokens (75 %), in 1 average",
        "late for 2 averages: this work went, or goes, with a later one",
        "refused 3 times: [bold]the partner left",
    ]
    assert part_in_words(folder, RUN.run_id).startswith(
        "your part: trained 10,000 tokens; used 7,500 tokens (75 %), in 1 average; late for 2"
    )


def test_a_peer_that_has_done_nothing_yet_sees_that(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "contribution", "mine") == 0
    lines = said(capsys)
    assert "used 0 tokens, in 0 averages" in lines
    assert lines[-1].endswith("of training")
    assert not part_in_words(folder, RUN.run_id)


def test_anybody_can_check_a_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_evidence(Path("file.json"), evidence_of(ID, RUN, signed()))
    assert run(monkeypatch, "contribution", "--verify", "file.json") == 0
    lines = said(capsys)
    assert lines[0] == f"peer {ID[-6:]}, run {RUN.run_id[:12]}"
    assert "used 1,000 tokens (50 %), in 4 averages" in lines
    assert "attested: 400 of 1,000 used tokens, by 2 peers" in lines
    assert f"{OTHERS[1].peer_id[-6:]} 2 400 2001-09-09 01:46:40" in lines
    assert lines[-1] == "3 reports, all signatures hold"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nowhere"], "nowhere holds no run"),
        (["node"], "node is no peer's folder"),
        ([], "give a ticket, or the folder of a peer"),
        (["mine", "--ticket", "hello"], "no thinwire ticket"),
        (["mine", "--ticket", str(ELSEWHERE)], "another"),
        (["--verify", "nowhere"], "cannot read nowhere"),
        (["mine", "--verify", "nowhere"], "--verify looks at a file alone"),
    ],
    ids=lambda words: " ".join(word[:12] for word in words) if isinstance(words, list) else None,
)
def test_a_mistake_of_the_operator_is_one_line_and_code_2(
    words: list[str],
    expected: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    node = folder.parent / "node"
    node.mkdir()
    write_ticket(node, TICKET)
    assert run(monkeypatch, "contribution", *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("thinwire: ")
    assert expected in line
    assert not (node / IDENTITY).exists()
