"""The way to a run's door: the ticket, its addresses, and who says what behind them."""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from peer.doctor.finding import Finding
from peer.doctor.machine import Machine
from peer.net.knock import KNOCK_S, Knock
from peer.remedies import UPGRADE, remedy
from peer.run_folder import Run, read_run
from peer.units import format_duration
from protocol.card import Card
from protocol.errors import ConfigError, MalformedMessage, RemoteError
from protocol.identity import PeerId
from protocol.manifest import verify_manifest
from protocol.ticket import Ticket

MAX_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What those who are listed in the run's directory said to us."""

    manifests: Sequence[tuple[bytes, bytes]] = ()
    """Of those who let us in, each with the founder's signature."""
    refused: Mapping[PeerId, str]
    unreached: Mapping[PeerId, str]


def the_ticket(ticket: Ticket) -> Finding:
    """What a ticket that can be read promises."""
    count = len(ticket.addresses)
    kind = "by invitation" if ticket.secret else "open"
    places = f"{count} address{'es' if count > 1 else ''}"
    return Finding("ticket", "good", f"run {ticket.run_id[:12]}, {kind}, {places}")


def the_folder(machine: Machine, ticket: Ticket) -> Iterator[Finding]:
    """Whether a peer's folder is of the ticket's run, and nobody else's now."""
    folder = machine.folder
    if folder is None:
        return
    why, fix = "a folder is for one peer of one run", "choose another folder: --dir DIR"
    try:
        run = read_run(folder, ticket)
    except ConfigError as error:
        yield Finding("folder", "fatal", str(error), why, fix)
        return
    if machine.is_folder_used:
        found = f"a peer runs in {folder} now"
        yield Finding("folder", "fatal", found, "two peers cannot be one", f"end it, or {fix}")
    elif run is None:
        yield Finding("folder", "good", f"{folder}, new")
    else:
        yield Finding("folder", "good", f"{folder}, of this run: join goes on from there")


def knocked(knocks: Sequence[Knock]) -> Iterator[Finding]:
    """What knocking at all addresses of a ticket showed: one that answers is enough."""
    is_any_open = any(knock.outcome == "open" for knock in knocks)
    for each in knocks:
        place = f"{each.address.host}:{each.address.port}"
        if each.outcome == "open":
            yield Finding(place, "good", f"answers in {format_duration(each.trip_s)}")
            continue
        found, why, fix = _closed(each)
        # Of a ticket's addresses some may have died: it lists several for that very reason.
        if is_any_open:
            yield Finding(place, "unknown", found)
        else:
            yield Finding(place, "fatal", found, why, fix)


def _closed(knock: Knock) -> tuple[str, str, str]:
    address = knock.address
    node = f"thinwire bootstrap RUN-FOLDER --listen 0.0.0.0:{max(1, address.port - 1)}"
    if _is_loopback(address.host):
        return (
            "nobody listens there" if knock.outcome == "refused" else "no answer",
            f"{address.host} is this very machine: either its node does not run, or the ticket was "
            "made on another machine by a node that listens to that one alone",
            f"on the node's machine: {node}   (then pass on the ticket that it prints)",
        )
    match knock.outcome:
        case "refused":
            return (
                "connection refused",
                "the machine is there, but nobody listens on that port: the node has ended, or "
                "listens on another port",
                f"on the node's machine: {node}   (or ask for a newer ticket)",
            )
        case "silent":
            wrong = "of another home network" if _is_private(address.host) else "wrong"
            return (
                f"no answer for {KNOCK_S:g} s",
                "what is sent gets lost: a firewall is in between, that machine is off, or the "
                f"address is {wrong}",
                f"on the node's machine: sudo ufw allow {max(1, address.port - 1)}:{address.port}"
                "/tcp   (and forward both ports in its router)",
            )
        case "nameless":
            return (
                "there is no such name",
                "the name cannot be resolved: this machine is offline, or the name is gone",
                f"getent hosts {address.host}   (or ask for a newer ticket)",
            )
        case _:
            return (
                "network unreachable",
                "this machine has no route there: it is offline, or has no IPv6",
                f"ip route get {address.host}",
            )


def not_entered(knocks: Sequence[Knock]) -> Finding:
    """Somebody listens at the ticket's addresses, but is not whom the ticket names."""
    places = ", ".join(f"{k.address.host}:{k.address.port}" for k in knocks if k.outcome == "open")
    return Finding(
        "directory",
        "fatal",
        f"who listens at {places} does not answer as the run's node",
        "another program has that port now, or the node was founded anew with another key",
        "ask for a newer ticket: thinwire bootstrap prints it, and keeps it in ticket.txt",
    )


def nobody_listed(run_id: str) -> Finding:
    """The directory answers, but has nobody of this run."""
    return Finding(
        "run",
        "fatal",
        f"the directory answers, but nobody in it is in run {run_id[:12]}",
        "the run is over, or that node serves another run now",
        "ask for a newer ticket, or bring the run back: thinwire bootstrap RUN-FOLDER",
    )


def answered(answers: Answers, cards: Mapping[PeerId, Card]) -> Iterator[Finding]:
    """What those who are in the run said to us: one who lets us in is enough."""
    num_peers = sum(card.role in ("peer", "holder") for card in cards.values())
    num_nodes = sum(card.role == "bootstrap" for card in cards.values())
    listed = f"{_counted(num_peers, 'peer')}, {_counted(num_nodes, 'bootstrap node')}"
    if answers.manifests:
        yield Finding("run", "good", f"alive: {listed}; {len(answers.manifests)} asked let us in")
        return
    if answers.refused:
        reason = next(iter(answers.refused.values()))
        why, fix = remedy(reason) or ("those who are in the run do not let us in", UPGRADE)
        yield Finding("run", "fatal", reason, why, fix)
        return
    reasons = [f"{peer[-6:]}: {reason}" for peer, reason in answers.unreached.items()]
    yield Finding(
        "run",
        "fatal",
        f"{listed} listed, none can be reached ({'; '.join(reasons[:MAX_SHOWN])})",
        "the directory's port is open, but not the wire's, which is the one below it",
        "on the node's machine: open and forward both ports that --listen uses, N and N + 1",
    )


def the_run(ticket: Ticket, manifests: Sequence[tuple[bytes, bytes]]) -> tuple[Run | None, Finding]:
    """Returns the first run among those handed over that is the ticket's and can be read here.

    Args:
        ticket: The ticket.
        manifests: At least one, each with its signature; some peers may lie.
    """
    judged = [_judged(ticket, *each) for each in manifests]
    return next((each for each in judged if each[0] is not None), judged[0])


def _judged(ticket: Ticket, data: bytes, signature: bytes) -> tuple[Run | None, Finding]:
    try:
        manifest = verify_manifest(data, signature, run_id=ticket.run_id, founder=ticket.founder)
    except MalformedMessage as error:  # but its hash and its signature fit
        why = "it is the run's, but was founded by a newer version of thinwire"
        return None, Finding("manifest", "fatal", str(error), why, UPGRADE)
    except RemoteError as error:
        why = "whoever answered has another run's manifest, or one that the founder did not sign"
        return None, Finding("manifest", "fatal", str(error), why, "ask for a newer ticket")
    found = f"{manifest.name}, as its founder signed it"
    return Run(manifest, signature), Finding("manifest", "good", found)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _is_loopback(host: str) -> bool:
    parsed = _number(host)
    return host == "localhost" if parsed is None else parsed.is_loopback


def _is_private(host: str) -> bool:
    parsed = _number(host)
    return parsed is not None and parsed.is_private


def _number(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
