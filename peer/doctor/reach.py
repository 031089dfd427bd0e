"""How others would reach this machine: dialled, called back, or through somebody else."""

import ipaddress
import socket
from collections.abc import Iterator, Mapping, Sequence

from peer.doctor.finding import Finding
from peer.net.dial_back import parse_address
from peer.net.reach import verdict as verdict
from protocol.card import Card
from protocol.identity import PeerId
from protocol.pb import thinwire_pb2 as pb

USUAL_PORT = 4000
RELAYED = "2 Mbit/s"
JOIN = "thinwire join TICKET"


def dialled(
    answers: Sequence[pb.DialBackReply], listen: tuple[str, int], *, num_asked: int
) -> Iterator[Finding]:
    """Whether those who were asked to dial us could.

    Args:
        answers: Theirs.
        listen: Host and port that `join` would be told.
        num_asked: How many were asked.
    """
    subject = "dialling back"
    if not answers:
        why = "nobody who can be dialled" if not num_asked else f"none of {num_asked} asked"
        yield Finding(subject, "unknown", f"{why} could try")
        return
    reached = list(dict.fromkeys(address for reply in answers for address in reply.reached))
    if verdict(answers) == "direct":
        yield Finding(subject, "good", f"others reach us at {', '.join(reached[:3])}")
        return
    host, port = listen
    if is_loopback(host):
        yield Finding(
            subject,
            "poor",
            f"nothing would listen beyond this machine ({host})",
            "others cannot dial this machine, so they come through tunnels, which are slower",
            f"{JOIN} --listen 0.0.0.0:{port or USUAL_PORT}",
        )
        return
    failed = list(dict.fromkeys(address for reply in answers for address in reply.failed))
    port = port or _port_of(failed) or USUAL_PORT
    yield Finding(
        subject,
        "poor",
        f"others dialled in vain: {', '.join(failed[:3]) or 'no address of ours is theirs to try'}",
        "a firewall or router keeps others out, so they come through tunnels, which are slower",
        f"sudo ufw allow {port}:{port + 1}/tcp; in the router, forward TCP ports {port} and "
        f"{port + 1} to this machine; then {JOIN} --listen 0.0.0.0:{port}",
    )


def translation(seen: Sequence[str], local: str) -> Finding:
    """What kind of NAT there is, from the addresses that others see us come from.

    Args:
        seen: Hosts, by those who could tell.
        local: The address from which this machine talks to them; empty if nobody knows.
    """
    hosts = sorted(set(filter(None, seen)))
    if not hosts or not local:
        return Finding("NAT", "unknown", "nobody could say where we come from")
    if len(hosts) > 1:
        return Finding("NAT", "unknown", f"we are seen at several addresses: {', '.join(hosts)}")
    (host,) = hosts
    if is_loopback(host):
        return Finding("NAT", "good", "none: those asked are on this very machine")
    if host != local:
        return Finding("NAT", "good", f"behind one: others see {host}, this machine is {local}")
    kind = "public" if ipaddress.ip_address(host).is_global else "in the same network"
    return Finding("NAT", "good", f"none: {host} is {kind}")


def ways(cards: Mapping[PeerId, Card], *, is_dialable: bool) -> Iterator[Finding]:
    """By which ways exchanges would go.

    Args:
        cards: Of the others.
        is_dialable: Whether others could dial us.
    """
    subject = "ways to peers"
    living = [card for card in cards.values() if card.role != "left"]
    peers = [card for card in living if card.role in ("peer", "holder", "coming")]
    hosts = [card for card in living if card.reach == "direct" and card.wire_addresses]
    dialled = sum(card.reach == "direct" for card in peers)
    others = len(peers) - dialled
    if not peers:
        yield Finding(subject, "unknown", "no peer trains now: whoever comes first trains alone")
    elif is_dialable:
        reverse = f", {others} reverse" if others else ""
        yield Finding(subject, "good", f"{dialled} direct{reverse}")
    elif not hosts:
        yield Finding(
            subject,
            "fatal",
            "nobody in the run can be dialled, and neither can we",
            "somebody must be dialled, or nobody can be reached",
            f"forward ports {USUAL_PORT} and {USUAL_PORT + 1} in the router; then {JOIN} "
            f"--listen 0.0.0.0:{USUAL_PORT}",
        )
    elif others:
        yield Finding(
            subject,
            "poor",
            f"{dialled} direct and called back, {others} relayed",
            f"between two who cannot be dialled somebody passes on at most {RELAYED}",
            f"forward ports {USUAL_PORT} and {USUAL_PORT + 1} in the router; then {JOIN} "
            f"--listen 0.0.0.0:{USUAL_PORT}",
        )
    else:
        yield Finding(subject, "good", f"{dialled} direct, and they call us back")


def seen_by(replies: Sequence[pb.DialBackReply]) -> list[str]:
    """Returns the hosts at which others tried to dial us: ours, as they see us come."""
    tried = [address for reply in replies for address in (*reply.reached, *reply.failed)]
    return [str(parsed[0]) for parsed in map(parse_address, tried) if parsed is not None]


def local_host(address: str) -> str:
    """Returns from which address this machine talks to a host:port; empty if there is no way."""
    parsed = parse_address(address)
    if parsed is None:
        return ""
    host, port = parsed
    family = socket.AF_INET6 if host.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as unused:
            unused.connect((str(host), port))  # sends nothing
            return str(unused.getsockname()[0])
    except OSError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether a host is this very machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _port_of(addresses: Sequence[str]) -> int:
    parsed = filter(None, map(parse_address, addresses))
    return next((port for _, port in parsed), 0)
