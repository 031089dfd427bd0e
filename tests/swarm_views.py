"""Swarms as somebody might see them, made by hand; the same for the same arguments."""

import math
from dataclasses import replace
from typing import Any

from peer.watch.view import EventView, ExchangeView, PeerView, Point, SwarmView

AT_S = 1_790_000_000.0
BEGAN_S = AT_S - 2700.0
HISTORY_POINTS = 240
MODEL_BYTES = 12_600_000
HOSTILE = "<img src=x onerror=\"document.title='taken'\">"


def peer_id(number: int) -> str:
    """Returns what looks like a peer's id."""
    letters = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz123456789"
    state = number * 2654435761 % 2**32 + 1
    tail = ""
    for _ in range(44):
        state = (state * 1103515245 + 12345) % 2**31
        tail += letters[(state >> 8) % len(letters)]
    return f"12D3KooW{tail}"


def training_peer(number: int, **changes: Any) -> PeerView:
    """Returns a peer that trains and reports."""
    tokens_per_s = 9000.0 + 9000.0 * abs(math.sin(3.7 * number))
    tokens = int(tokens_per_s * 2600)
    late, used = number % 3, tokens - 40_000 * (1 + number % 4)
    peer = PeerView(
        peer_id=peer_id(number),
        role="peer",
        domain="",
        step=4210 + 3 * (number % 5),
        round=42,
        tokens=tokens,
        reach="direct" if number % 4 else "reverse",
        up_bps=int(20e6 * (1 + number % 3)),
        down_bps=int(100e6),
        software="thinwire 0.1.0",
        behind_rounds=0,
        has_report=True,
        phase="training",
        tokens_per_s=tokens_per_s,
        loss_bits_per_byte=1.62 + 0.05 * math.sin(number),
        validation_bits_per_byte=1.671 + 0.01 * math.sin(2.0 * number),
        utilisation_frac=0.985 - 0.006 * (number % 7),
        sent_bytes=42 * MODEL_BYTES + 1_000_000 * number,
        received_bytes=41 * MODEL_BYTES,
        waits=({"name": "an average (part 1)", "whom": peer_id(number + 1)[-6:], "for_s": 2.4},)
        if number % 5 == 1
        else (),
        ties=({"peer_id": peer_id(number + 1), "way": "direct", "round_trip_s": 0.0213},),
        contribution={
            "trained_tokens": tokens,
            "used_tokens": used,
            "used_rounds": 42 - late,
            "late_rounds": late,
            "refused": [("the others waited no longer", late), ("no answer", 1)] if late else [],
        },
        attested_tokens=int(0.97 * used),
        attested_by=4,
    )
    return replace(peer, **changes)


def node(number: int) -> PeerView:
    """Returns a bootstrap node."""
    return training_peer(
        number,
        role="bootstrap",
        has_report=False,
        step=0,
        round=0,
        tokens=0,
        phase="",
        tokens_per_s=0.0,
        loss_bits_per_byte=None,
        validation_bits_per_byte=None,
        utilisation_frac=None,
        sent_bytes=0,
        received_bytes=0,
        waits=(),
        ties=(),
        contribution=None,
        attested_tokens=0,
        attested_by=0,
        up_bps=0,
        down_bps=0,
        reach="direct",
    )


def silent(number: int, **changes: Any) -> PeerView:
    """Returns a peer of which there is only the card."""
    card = training_peer(number)
    kept = {"role": "peer", "step": card.step, "round": card.round, "tokens": card.tokens}
    return replace(node(number), **kept, reach="reverse", **changes)


def history(peers: int, *, at_s: float = AT_S) -> tuple[Point, ...]:
    """Returns how a swarm came along: its peers came one after the other."""
    points, tokens, sent_bytes = [], 0.0, 0.0
    every_s = (at_s - BEGAN_S) / HISTORY_POINTS
    for i in range(HISTORY_POINTS):
        part = (i + 1) / HISTORY_POINTS
        noise = 0.03 * math.sin(1.7 * i) * math.cos(0.31 * i)
        here = math.ceil(peers * min(1.0, 0.2 + 1.6 * part)) * (1 + 0.04 * math.sin(0.23 * i))
        tokens += 13_800 * here * every_s
        sent_bytes += 42 / 2600 * MODEL_BYTES * here * every_s
        loss = 1.605 + 2.1 * math.exp(-5 * part) + noise
        points.append(
            Point(
                unix_s=BEGAN_S + part * (at_s - BEGAN_S),
                tokens=int(tokens),
                loss_bits_per_byte=loss,
                validation_bits_per_byte=loss + 0.045 - noise if i > 12 else None,
                sent_bytes=int(sent_bytes),
                utilisation_frac=0.965 + 0.01 * math.sin(0.2 * i) - 0.1 * math.exp(-i / 6),
            )
        )
    return tuple(points)


def swarm_of(peers: tuple[PeerView, ...], **changes: Any) -> SwarmView:
    """Returns the view of these peers, with what follows from them."""
    training = [peer for peer in peers if peer.role == "peer"]
    told = [peer for peer in training if peer.has_report]
    speed = sum(peer.tokens_per_s for peer in told)
    losses = [p.loss_bits_per_byte * p.tokens_per_s for p in told if p.loss_bits_per_byte]
    used = [peer.utilisation_frac for peer in told if peer.utilisation_frac is not None]
    view = SwarmView(
        name="evening run",
        run_id="3f9c81d2" * 8,
        at_unix_s=AT_S,
        method="noloco, pairs, int8",
        parameters=25_300_000,
        num_training=len(training),
        round=max((peer.round for peer in peers), default=0),
        tokens=sum(peer.tokens for peer in peers),
        tokens_per_s=speed,
        loss_bits_per_byte=sum(losses) / speed if losses else None,
        validation_bits_per_byte=1.671 if told else None,
        utilisation_frac=sum(used) / len(used) if used else None,
        sent_bytes=sum(peer.sent_bytes for peer in peers),
        peers=peers,
        history=history(len(training)) if training else (),
    )
    return replace(view, **changes)


def exchange(
    first: PeerView, *partners: PeerView, outcome: str, ago_s: float = 1.0, round: int = 42
) -> ExchangeView:
    """Returns an exchange that ended, or began, so long ago."""
    took_s = 1.8
    return ExchangeView(
        peer_id=first.peer_id,
        partners=tuple(peer.peer_id for peer in partners),
        fragment=1,
        round=round,
        outcome=outcome,
        reason="the others waited no longer" if outcome == "failed" else "",
        began_unix_s=AT_S - ago_s - took_s,
        took_s=took_s,
    )


def dozen() -> SwarmView:
    """Returns twelve peers and a node, with one of everything that can be the matter."""
    peers = [training_peer(number) for number in range(8)]
    peers += [
        training_peer(8, behind_rounds=3, round=39, notices=(HOSTILE, "the clock is off by 40 s")),
        silent(9),
        training_peer(10, role="holder", tokens_per_s=0.0, phase="done"),
        training_peer(
            11,
            loss_bits_per_byte=None,
            validation_bits_per_byte=math.nan,
            utilisation_frac=None,
            software=HOSTILE,
        ),
    ]
    events = (
        EventView(unix_s=BEGAN_S + 9, kind="came", peer_id=peers[0].peer_id, words="came"),
        EventView(unix_s=AT_S - 70, kind="lags", peer_id=peers[8].peer_id, words="lags 3 rounds"),
        EventView(unix_s=AT_S - 40, kind="back", peer_id=peers[2].peer_id, words="is back"),
        EventView(unix_s=AT_S - 30, kind="left", peer_id=peer_id(77), words="left"),
        EventView(
            unix_s=AT_S - 8,
            kind="failed",
            peer_id=peers[6].peer_id,
            words="an exchange failed: the others waited no longer",
        ),
        EventView(unix_s=AT_S - 2, kind="note", peer_id=peers[8].peer_id, words=HOSTILE),
    )
    exchanges = (
        exchange(peers[6], peers[7], outcome="failed", ago_s=2.0),
        exchange(peers[0], peers[3], outcome="landed", ago_s=1.0),
        exchange(peers[3], peers[0], outcome="under way", ago_s=1.0),
        exchange(peers[1], peers[5], outcome="under way", ago_s=0.0),
        exchange(peers[2], peers[8], outcome="landed", ago_s=2.0),
        exchange(peers[4], peers[11], outcome="landed", ago_s=0.2),
    )
    return swarm_of((*peers, node(12)), events=events, exchanges=exchanges)
