"""The command: one table, fixes that can be copied, and exit codes that say what to do."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import peer.cli.doctor
import peer.doctor.visit
from peer.doctor.finding import Finding, Verdict, conclusion, exit_code
from peer.doctor.machine import Disk, Machine, Torch
from peer.net.pace import Cap
from protocol.identity import Identity
from protocol.manifest import RunId
from protocol.ticket import Address, Ticket
from thinwire.__main__ import main

SYSCTLS = {
    "tcp_congestion_control": "bbr",
    "tcp_available_congestion_control": "bbr cubic",
    "tcp_wmem": "4096\t16384\t4194304",
    "tcp_rmem": "4096\t131072\t6291456",
}
SOMEBODY = Identity(b"s" * 32).peer_id
TICKET = Ticket(RunId("ab" * 32), SOMEBODY, (Address("10.0.0.1", 4001, SOMEBODY),))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    sysctls = tmp_path / "sysctls"
    sysctls.mkdir()
    for name, text in SYSCTLS.items():
        (sysctls / name).write_text(text)
    return Machine(
        system="linux",
        sysctls=sysctls,
        open_files=(4096, 4096),
        torch=Torch(version="2.13.0", built_for="CPU"),
        free_memory_bytes=8 << 30,
        disk=Disk(place=tmp_path, free_bytes=8 << 30),
    )


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> Machine:
    """What the command examines in place of this machine."""

    def there(*, folder: Path | None, up: Cap, down: Cap, **_: object) -> Machine:
        return replace(machine, folder=folder, up=up, down=down)

    monkeypatch.setattr(peer.cli.doctor, "this_machine", there)
    return machine


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """What a visit finds in place of a real one."""
    findings: list[Finding] = []

    class Visit:
        def __init__(self, *_: Any, **__: Any) -> None:
            self.findings = findings

        async def make(self) -> None:
            pass

    monkeypatch.setattr(peer.doctor.visit, "Visit", Visit)
    return findings


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["thinwire", "doctor", *words])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def slow(machine: Machine) -> None:
    (machine.sysctls / "tcp_congestion_control").write_text("cubic")


def test_the_exit_code_says_whether_there_is_something_to_do(
    examined: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch) == 0
    healthy = capsys.readouterr().out
    assert "sudo" not in healthy
    assert healthy.splitlines()[-1] == "This machine is well."
    slow(examined)
    assert run(monkeypatch) == 1
    poor = capsys.readouterr().out
    assert "sudo sysctl" in poor
    assert poor.splitlines()[-1] == "One thing is poor; see above."


@pytest.mark.parametrize(
    ("verdict", "code", "last"),
    [
        ("good", 0, "Joining run abababababab makes sense."),
        ("unknown", 0, "Joining run abababababab makes sense."),
        ("poor", 1, "Joining run abababababab works, but one thing is poor; see above."),
        ("fatal", 2, "Joining run abababababab from here would fail: thing: so. The fix is above."),
    ],
)
@pytest.mark.usefixtures("examined")
def test_with_a_ticket_the_last_sentence_says_whether_joining_makes_sense(
    verdict: Verdict,
    code: int,
    last: str,
    found: list[Finding],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found.append(Finding("thing", verdict, "so", "it is broken", "mend it"))
    assert run(monkeypatch, str(TICKET)) == code
    assert capsys.readouterr().out.splitlines()[-1] == last


def test_what_is_fatal_outweighs_what_is_poor() -> None:
    verdicts: tuple[Verdict, ...] = ("poor", "fatal", "good", "poor")
    findings = [Finding(each, each, "so", f"{each} it is") for each in verdicts]
    assert exit_code(findings) == 2
    assert conclusion(findings, run="abc").endswith("would fail: fatal: so. The fix is above.")
    assert "2 things are poor" in conclusion([findings[0], findings[3]], run="abc")


@pytest.mark.parametrize("cut", [5, -1, -10])
@pytest.mark.usefixtures("examined")
def test_a_ticket_that_is_cut_off_is_a_finding_with_its_fix(
    cut: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, str(TICKET)[:cut]) == 2
    said = " ".join(capsys.readouterr().out.split())
    assert "cut off or mistyped" in said
    assert "copy the whole ticket again" in said


@pytest.mark.parametrize("as_folder", [False, True])
@pytest.mark.usefixtures("examined", "found")
def test_a_ticket_may_be_in_a_file_or_a_folder(
    as_folder: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ticket.txt"
    file.write_text(f"{TICKET}\n")
    assert run(monkeypatch, str(tmp_path if as_folder else file)) == 0


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_fix_is_never_broken_into_lines(
    columns: int,
    examined: Machine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    slow(examined)
    assert run(monkeypatch) == 1
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    fix = "sudo sysctl -w net.core.default_qdisc=fq net.ipv4.tcp_congestion_control=bbr"
    assert fix in lines


def test_json_is_one_object_with_the_same_findings(
    examined: Machine,
    found: list[Finding],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found.append(Finding("thing", "fatal", "so", "it is broken", "mend it"))
    slow(examined)
    assert run(monkeypatch, str(TICKET), "--json") == 2
    (line,) = capsys.readouterr().out.splitlines()
    data = json.loads(line)
    assert not data["is_well"]
    assert data["exit_code"] == 2
    verdicts = {finding["subject"]: finding["verdict"] for finding in data["findings"]}
    assert verdicts["congestion control"] == "poor"
    assert verdicts["thing"] == "fatal"
    assert "would fail" in data["conclusion"]


def test_what_takes_long_says_what_it_does_but_not_among_the_results(
    examined: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch) == 0
    said = capsys.readouterr()
    assert "loading" in said.err
    assert "loading" not in said.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dir", "nowhere"], "there is no folder nowhere"),
        (["--up", "fast"], "--up 'fast' is not a rate"),
        (["--step-s", "soon"], "--step-s 'soon' is not a time"),
        (["--listen", "here:0:0"], "--listen here:0:0: the port must be a number"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"thinwire: {said}")


def test_what_strangers_wrote_does_nothing_to_the_screen(
    examined: Machine,
    found: list[Finding],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found.append(Finding("[/red]\x1b[2J", "fatal", "a\x1b[31mb", "c\rd", "\x1b]0;title\x07"))
    assert run(monkeypatch, str(TICKET)) == 2
    said = capsys.readouterr().out
    assert "[/red]" in said
    assert all(char.isprintable() or char == "\n" for char in said)
