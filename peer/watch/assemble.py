"""From cards and reports to the view of a swarm: pure, so that all who watch see it alike."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from statistics import fmean, median, median_high
from typing import Any

from peer.watch.attest import Testimony, most_seers
from peer.watch.heard import Heard
from peer.watch.view import ExchangeView, PeerView, SwarmView
from protocol.card import ROLES, Card
from protocol.identity import PeerId
from protocol.manifest import Manifest
from protocol.standings import standings

SHOWN_EXCHANGES_S = 60.0
"""So long an exchange is shown."""
MAX_EXCHANGES = 256
SAME_S = 5.0
"""What two peers tell of one exchange began within so much of each other, by their clocks."""
IN_THE_RUN = ("peer", "holder")


def view_of(
    manifest: Manifest,
    cards: Mapping[PeerId, Card],
    heard: Mapping[PeerId, Heard],
    *,
    now_unix_s: float,
    parameters: int = 0,
) -> SwarmView:
    """Returns a swarm as it is now, without its past.

    Args:
        manifest: The run's.
        cards: Of all peers, ourselves included if we are one.
        heard: The reports of those that gave one.
        now_unix_s: By our clock.
        parameters: Of the run's models together; 0 if that is not known.
    """
    heard = {
        peer: each
        for peer, each in heard.items()
        if peer in cards and cards[peer].role != "left" and each.is_of_use(now_unix_s)
    }
    testimony = Testimony(each.report for each in heard.values())
    behind = rounds_behind(cards, heard, now_unix_s=now_unix_s)
    peers = tuple(
        _peer_view(manifest, peer, cards[peer], heard.get(peer), behind[peer], testimony)
        for peer in sorted(cards, key=lambda peer: _rank(peer, cards[peer]))
    )
    reported = [peer for peer in peers if peer.has_report and peer.role in IN_THE_RUN]
    return SwarmView(
        name=manifest.name,
        run_id=manifest.run_id,
        at_unix_s=now_unix_s,
        method=_method_words(manifest),
        parameters=parameters,
        num_training=sum(peer.role == "peer" for peer in peers),
        round=max((peer.round for peer in peers), default=0),
        tokens=sum(peer.tokens for peer in peers),
        tokens_per_s=sum(peer.tokens_per_s for peer in reported),
        loss_bits_per_byte=_weighted_loss(reported),
        validation_bits_per_byte=_known(
            median, (peer.validation_bits_per_byte for peer in reported)
        ),
        utilisation_frac=_known(fmean, (peer.utilisation_frac for peer in reported)),
        sent_bytes=sum(peer.sent_bytes for peer in peers),
        domains=tuple(asdict(each) | {"state": each.words} for each in standings(manifest, cards)),
        peers=peers,
        exchanges=exchanges_in(heard, now_unix_s=now_unix_s),
    )


def rounds_behind(
    cards: Mapping[PeerId, Card], heard: Mapping[PeerId, Heard], *, now_unix_s: float
) -> dict[PeerId, int]:
    """Returns how far each peer is behind the middle of its domain, of two the one ahead.

    Behind the farthest one all would be as soon as one lies. A card is some seconds older than a
    report, and rounds may be short: each is compared with its like only.
    """
    places = {
        peer: (card.domain, True, heard[peer].report.round)
        if peer in heard and heard[peer].is_fresh(now_unix_s)
        else (card.domain, False, card.round)
        for peer, card in cards.items()
        if card.role in IN_THE_RUN
    }
    rounds: dict[tuple[str, bool], list[int]] = defaultdict(list)
    for domain, is_fresh, round in places.values():
        rounds[domain, is_fresh].append(round)
    middle = {like: median_high(each) for like, each in rounds.items()}
    behind = dict.fromkeys(cards, 0)
    for peer, (domain, is_fresh, round) in places.items():
        behind[peer] = max(0, middle[domain, is_fresh] - round)
    return behind


def exchanges_in(heard: Mapping[PeerId, Heard], *, now_unix_s: float) -> tuple[ExchangeView, ...]:
    """Returns the exchanges of the last minute, each once, though all who were in it tell of it."""
    told = sorted(
        (
            ExchangeView(peer_id=peer, **asdict(each))
            for peer, from_peer in sorted(heard.items())
            for each in from_peer.exchanges
            if each.began_unix_s + each.took_s > now_unix_s - SHOWN_EXCHANGES_S
        ),
        key=lambda each: (each.began_unix_s, each.outcome != "landed"),
    )
    found: dict[tuple[object, ...], tuple[ExchangeView, set[str]]] = {}
    shown = []
    for each in told:
        key = same_exchange(each)
        known, tellers = found.get(key, (each, {each.peer_id}))
        is_late = each.began_unix_s - known.began_unix_s > SAME_S
        if known is each or is_late or each.peer_id in tellers:  # nobody tells of one twice
            found[key] = each, {each.peer_id}
            shown.append(each)
        else:
            tellers.add(each.peer_id)
    return tuple(shown[-MAX_EXCHANGES:])


def same_exchange(each: ExchangeView) -> tuple[object, ...]:
    """Returns what all tellers of one exchange agree on, if they began it at the same time."""
    return each.fragment, frozenset((each.peer_id, *each.partners)), each.outcome


def _peer_view(
    manifest: Manifest,
    peer: PeerId,
    card: Card,
    heard: Heard | None,
    behind_rounds: int,
    testimony: Testimony,
) -> PeerView:
    view = PeerView(
        peer_id=peer,
        role=card.role,
        domain=card.domain,
        step=card.step,
        round=card.round,
        tokens=card.tokens,
        reach=card.reach,
        up_bps=card.up_bps,
        down_bps=card.down_bps,
        software=card.software,
        behind_rounds=behind_rounds,
        has_report=heard is not None,
    )
    if heard is None:
        return view
    report = heard.report
    attested = testimony.of(
        peer,
        claimed_tokens=report.contribution.used_tokens,
        most_seers=most_seers(manifest, card.domain),
    )
    return replace(
        view,
        step=max(card.step, report.step),
        round=max(card.round, report.round),
        tokens=max(card.tokens, report.tokens),
        phase=report.phase,
        tokens_per_s=report.tokens_per_s,
        loss_bits_per_byte=report.loss_bits_per_byte,
        validation_bits_per_byte=report.validation_bits_per_byte,
        utilisation_frac=report.utilisation_frac,
        sent_bytes=report.sent_bytes,
        received_bytes=report.received_bytes,
        waits=tuple(map(asdict, report.waits)),
        ties=tuple(map(asdict, report.ties)),
        contribution=asdict(report.contribution),
        attested_tokens=attested.tokens,
        attested_by=attested.witnesses,
        notices=report.notices,
    )


def _rank(peer: PeerId, card: Card) -> tuple[int, str, PeerId]:
    return ROLES.index(card.role), card.domain, peer


def _method_words(manifest: Manifest) -> str:
    methods = [domain.method for domain in manifest.domains] or [manifest.method]
    return ", ".join(dict.fromkeys(m.preset or f"{m.outer.rule}, {m.mixing}" for m in methods))


def _weighted_loss(peers: Iterable[PeerView]) -> float | None:
    weighted = [
        (peer.loss_bits_per_byte, peer.tokens_per_s)
        for peer in peers
        if peer.loss_bits_per_byte is not None
    ]
    total = sum(weight for _, weight in weighted)
    if total <= 0:
        return _known(fmean, (loss for loss, _ in weighted))
    return sum(loss * weight for loss, weight in weighted) / total


def _known(combine: Any, values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(combine(known)) if known else None
