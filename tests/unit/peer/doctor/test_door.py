"""On the way to a run's door each obstacle is named for what it is."""

import asyncio
import socket
from pathlib import Path

import pytest

from peer.doctor import door
from peer.doctor.finding import Finding
from peer.doctor.machine import Machine
from peer.net.knock import ADVICE, Knock, Outcome, knock
from peer.remedies import UPGRADE, remedy
from peer.run_folder import Run, write_run
from protocol.card import Card
from protocol.identity import Identity, PeerId
from protocol.manifest import Manifest, manifest_from, sign_manifest
from protocol.ticket import Address, Ticket

FOUNDER = Identity(b"f" * 32)
RUN = manifest_from({"founder": FOUNDER.peer_id})
OTHER = manifest_from({"founder": FOUNDER.peer_id, "name": "other"})
TICKET = Ticket(RUN.run_id, FOUNDER.peer_id, (Address("81.2.69.142", 4001, FOUNDER.peer_id),))
NODE, PEER = PeerId("node"), PeerId("peer")
CARDS = {
    NODE: Card(wire_addresses=("1.2.3.4:4000",), role="bootstrap"),
    PEER: Card(wire_addresses=()),
}


def at(host: str, outcome: Outcome, port: int = 4001) -> Knock:
    return Knock(Address(host, port, FOUNDER.peer_id), outcome, 0.02)


def only(*knocks: Knock) -> Finding:
    (finding,) = door.knocked(knocks)
    return finding


# ---- knocking


async def test_a_knock_tells_an_open_door_from_one_where_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        there = await knock(Address("127.0.0.1", port, NODE))
        assert there.outcome == "open"
        assert 0 < there.trip_s < 5
    gone = await knock(Address("127.0.0.1", port, NODE))
    assert gone.outcome == "refused"


async def test_whoever_says_nothing_is_silent_and_a_name_may_not_exist(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    async def fails(*_: object) -> None:
        raise OSError(101, "Network is unreachable")

    async def no_such_name(*_: object, **__: object) -> None:
        raise socket.gaierror("no such name")

    monkeypatch.setattr(asyncio, "open_connection", never)
    assert (await knock(Address("192.0.2.1", 1, NODE), wait_s=0.01)).outcome == "silent"
    monkeypatch.setattr(asyncio, "open_connection", fails)
    assert (await knock(Address("192.0.2.1", 1, NODE))).outcome == "unreachable"
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", no_such_name)
    assert (await knock(Address("there", 1, NODE))).outcome == "nameless"


@pytest.mark.parametrize("host", ["a..b", "x" * 70 + ".example"])
async def test_what_cannot_be_a_name_is_no_name(host: str) -> None:
    assert (await knock(Address(host, 1, NODE))).outcome == "nameless"


async def test_of_a_name_with_several_addresses_the_best_one_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers: dict[str, OSError] = {
        "192.0.2.1": ConnectionRefusedError(),
        "2001:db8::1": OSError(101, "Network is unreachable"),
    }

    async def names(_: str, port: int, **__: object) -> list[object]:
        return [(0, 0, 0, "", (host, port)) for host in answers]

    async def fails(host: str, _: int) -> None:
        raise answers[host]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", names)
    monkeypatch.setattr(asyncio, "open_connection", fails)
    assert (await knock(Address("node.example", 1, NODE))).outcome == "refused"


@pytest.mark.parametrize(
    ("outcome", "cause", "fix"),
    [
        (
            "refused",
            "nobody listens on that port",
            "thinwire bootstrap RUN-FOLDER --listen 0.0.0.0:4000",
        ),
        ("silent", "firewall", "sudo ufw allow 4000:4001/tcp"),
        ("unreachable", "offline", "ip route get 81.2.69.142"),
        ("nameless", "name", "getent hosts 81.2.69.142"),
    ],
)
def test_each_closed_door_has_its_own_cause_and_fix(outcome: Outcome, cause: str, fix: str) -> None:
    finding = only(at("81.2.69.142", outcome))
    assert finding.verdict == "fatal"
    assert cause in finding.why
    assert fix in finding.fix
    assert ADVICE[outcome]


def test_a_ticket_that_names_loopback_is_of_one_machine_only() -> None:
    finding = only(at("127.0.0.1", "refused"))
    assert "this very machine" in finding.why
    assert "--listen 0.0.0.0:4000" in finding.fix


def test_an_address_of_a_home_network_is_suspected() -> None:
    assert "home network" in only(at("192.168.1.7", "silent")).why
    assert "home network" not in only(at("81.2.69.142", "silent")).why


def test_one_address_that_answers_is_enough() -> None:
    findings = list(door.knocked([at("81.2.69.142", "silent"), at("81.2.69.143", "open")]))
    assert [each.verdict for each in findings] == ["unknown", "good"]
    assert "20 ms" in findings[1].found


# ---- behind the door


def test_who_is_let_in_by_one_is_in() -> None:
    answers = door.Answers(manifests=[(b"", b"")], refused={PEER: "no"}, unreached={})
    (finding,) = door.answered(answers, CARDS)
    assert finding.verdict == "good"
    assert "1 peer, 1 bootstrap node" in finding.found


@pytest.mark.parametrize(
    ("reason", "cause", "fix"),
    [
        ("you speak version 1 of the protocol, this peer speaks 2", "version", UPGRADE),
        ("this run is by invitation: your ticket has no secret", "secret", "ticket"),
        ("X was not invited: it does not know the secret of our run", "secret", "ticket"),
        ("this peer is in run 12ab, not in 34cd", "another run", "ticket"),
        ("go away", "do not let us in", UPGRADE),
    ],
)
def test_a_refusal_is_shown_with_its_cause_and_fix(reason: str, cause: str, fix: str) -> None:
    answers = door.Answers(refused={NODE: f"node refuses us: {reason}"}, unreached={})
    (finding,) = door.answered(answers, CARDS)
    assert finding.verdict == "fatal"
    assert reason in finding.found
    assert cause in finding.why
    assert fix in finding.fix


def test_words_that_nobody_knows_have_no_remedy() -> None:
    assert remedy("go away") is None


def test_certificates_that_do_not_count_point_to_the_clock() -> None:
    known = remedy("the TLS handshake failed: somebody else answers there, or a clock is days off")
    assert known is not None
    assert "timedatectl" in known[1]


def test_peers_that_are_listed_but_closed_are_behind_a_wall_of_their_own() -> None:
    answers = door.Answers(refused={}, unreached={NODE: "no answer for 5 s"})
    (finding,) = door.answered(answers, CARDS)
    assert finding.verdict == "fatal"
    assert "no answer for 5 s" in finding.found
    assert "N and N + 1" in finding.fix


# ---- the manifest


def handed_over(*manifests: Manifest) -> tuple[Run | None, Finding]:
    signed = [(each.to_bytes(), sign_manifest(each, FOUNDER)) for each in manifests]
    return door.the_run(TICKET, signed)


def test_the_runs_own_manifest_is_taken_whoever_else_lies() -> None:
    for manifests in ([RUN], [OTHER, RUN], [RUN, OTHER]):
        run, finding = handed_over(*manifests)
        assert run is not None
        assert run.manifest == RUN
        assert finding.verdict == "good"


def test_the_manifest_of_another_run_is_not() -> None:
    run, finding = handed_over(OTHER)
    assert run is None
    assert finding.verdict == "fatal"
    assert "another run" in finding.why


def test_a_manifest_with_an_unknown_setting_is_of_a_newer_version() -> None:
    class Newer(Manifest):
        quantum: int = 7

    newer = Newer(founder=FOUNDER.peer_id)
    ticket = Ticket(newer.run_id, FOUNDER.peer_id, TICKET.addresses)
    data, signature = newer.to_bytes(), sign_manifest(newer, FOUNDER)
    run, finding = door.the_run(ticket, [(data, signature)])
    assert run is None
    assert "quantum" in finding.found
    assert finding.fix == UPGRADE


# ---- the folder


def test_a_folder_is_for_one_run(tmp_path: Path) -> None:
    assert not list(door.the_folder(Machine(), TICKET))
    (new,) = door.the_folder(Machine(folder=tmp_path), TICKET)
    assert new.verdict == "good"
    write_run(tmp_path, Run(OTHER, sign_manifest(OTHER, FOUNDER)))
    (other,) = door.the_folder(Machine(folder=tmp_path), TICKET)
    assert other.verdict == "fatal"
    assert "--dir" in other.fix


def test_a_folder_in_which_a_peer_runs_is_not_for_another(tmp_path: Path) -> None:
    (finding,) = door.the_folder(Machine(folder=tmp_path, is_folder_used=True), TICKET)
    assert finding.verdict == "fatal"
