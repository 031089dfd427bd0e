"""What an observer remembers of a swarm: how it was, and what happened between two views."""

from collections import deque
from dataclasses import replace

from peer.watch.assemble import SAME_S, same_exchange
from peer.watch.sums import Sums
from peer.watch.view import EventView, ExchangeView, PeerView, Point, SwarmView

MAX_POINTS = 400
POINT_EVERY_S = 2.0
"""Until the history is thinned out for the first time; then each time twice as long."""
MAX_EVENTS = 100
LAGS_ROUNDS = 2
LAGS_S = 6.0
"""So long a peer is behind before that is worth a line: a landing is not everywhere at once."""
_PRESENT = ("peer", "holder", "coming")


class Diary:
    """See the module docstring. `compare` takes one view after the other."""

    def __init__(self) -> None:
        self._points: list[Point] = []
        self._sums = Sums()
        self._every_s = POINT_EVERY_S
        self._events: deque[EventView] = deque(maxlen=MAX_EVENTS)
        self._last: SwarmView | None = None
        self._behind_since_s: dict[str, float] = {}
        self._lagging: set[str] = set()
        self._failures: deque[tuple[tuple[object, ...], float]] = deque(maxlen=4 * MAX_EVENTS)
        """Which exchange, and when it began."""

    @property
    def points(self) -> tuple[Point, ...]:
        """The history, thinned out so that it stays short however long it is."""
        return tuple(self._points)

    @property
    def events(self) -> tuple[EventView, ...]:
        """The last ones."""
        return tuple(self._events)

    def compare(self, view: SwarmView) -> None:
        """Notes how the swarm is now, and what is different from the last time."""
        now_s, last = view.at_unix_s, self._last
        tokens, sent_bytes = self._sums.count(view)
        if view.num_training and (
            not self._points or abs(now_s - self._points[-1].unix_s) >= self._every_s
        ):
            self._add_point(replace(view, tokens=tokens, sent_bytes=sent_bytes))
        if last is not None:
            self._note_comings(last, view)
            self._note_notices(last, view)
        for peer in view.peers:
            self._note_lag(peer, now_s)
        for each in view.exchanges:
            if each.outcome == "failed":
                self._note_failure(each, is_news=last is not None)
        self._last = view

    def _add_point(self, view: SwarmView) -> None:
        while self._points and self._points[-1].unix_s >= view.at_unix_s:
            self._points.pop()  # our clock was put back
        if len(self._points) >= MAX_POINTS:
            self._points = self._points[::2]
            self._every_s *= 2
        self._points.append(
            Point(
                unix_s=view.at_unix_s,
                tokens=view.tokens,
                loss_bits_per_byte=view.loss_bits_per_byte,
                validation_bits_per_byte=view.validation_bits_per_byte,
                sent_bytes=view.sent_bytes,
                utilisation_frac=view.utilisation_frac,
            )
        )

    def _note_comings(self, last: SwarmView, view: SwarmView) -> None:
        before = {peer.peer_id: peer for peer in last.peers if peer.role in _PRESENT}
        now = {peer.peer_id: peer for peer in view.peers if peer.role in _PRESENT}
        said_goodbye = {peer.peer_id for peer in view.peers if peer.role == "left"}
        for peer_id in now.keys() - before.keys():
            self._write(view, "came", peer_id, "came")
        for peer_id in before.keys() - now.keys():
            words = "left" if peer_id in said_goodbye else "is out of sight"
            self._write(view, "left", peer_id, words)
            self._lagging.discard(peer_id)
            self._behind_since_s.pop(peer_id, None)

    def _note_notices(self, last: SwarmView, view: SwarmView) -> None:
        before = {peer.peer_id: peer.notices for peer in last.peers if peer.has_report}
        for peer in view.peers:
            for notice in peer.notices:
                if peer.peer_id in before and notice not in before[peer.peer_id]:
                    self._write(view, "note", peer.peer_id, notice)

    def _note_lag(self, peer: PeerView, now_s: float) -> None:
        peer_id = peer.peer_id
        if peer.behind_rounds < LAGS_ROUNDS:
            self._behind_since_s.pop(peer_id, None)
            if peer_id in self._lagging:
                self._lagging.discard(peer_id)
                self._add(now_s, "back", peer_id, f"is back with the others at round {peer.round}")
            return
        since_s = self._behind_since_s.setdefault(peer_id, now_s)
        if peer_id not in self._lagging and now_s - since_s >= LAGS_S:
            self._lagging.add(peer_id)
            self._add(now_s, "lags", peer_id, f"lags {peer.behind_rounds} rounds behind")

    def _note_failure(self, each: ExchangeView, *, is_news: bool) -> None:
        key = same_exchange(each)
        if any(
            key == known and abs(began_unix_s - each.began_unix_s) <= SAME_S
            for known, began_unix_s in self._failures
        ):
            return
        self._failures.append((key, each.began_unix_s))
        if is_news:
            ended_s = each.began_unix_s + each.took_s
            words = f"an exchange of round {each.round} failed: {each.reason or 'nobody says why'}"
            self._add(ended_s, "failed", each.peer_id, words)

    def _write(self, view: SwarmView, kind: str, peer_id: str, words: str) -> None:
        self._add(view.at_unix_s, kind, peer_id, words)

    def _add(self, unix_s: float, kind: str, peer_id: str, words: str) -> None:
        self._events.append(EventView(unix_s=unix_s, kind=kind, peer_id=peer_id, words=words))
