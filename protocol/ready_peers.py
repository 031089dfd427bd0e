"""Who is READY: the newest word of each peer, which is believed for a while."""

from collections.abc import Iterable
from dataclasses import dataclass

from protocol.identity import PeerId
from protocol.messages import Ready


@dataclass(frozen=True, slots=True)
class _Word:
    note: Ready
    heard_at_s: float


class ReadyPeers:
    """For our round or a later one, as a faster peer may be ahead. See the module docstring."""

    def __init__(self) -> None:
        self._words: dict[PeerId, _Word] = {}

    def hear(self, src: PeerId, note: Ready, *, now_s: float) -> None:
        """This peer is READY."""
        self._words[src] = _Word(note, now_s)

    def forget(self, peer: PeerId) -> None:
        """This peer will say it anew, if it is READY again."""
        self._words.pop(peer, None)

    def forget_silent(self, oldest_s: float) -> None:
        """Who is READY says so again and again; who is silent is gone, or in another exchange."""
        self._words = {
            peer: word for peer, word in self._words.items() if word.heard_at_s >= oldest_s
        }

    def forget_before(self, round: int) -> None:
        """Nobody can be in an exchange of an earlier round any more."""
        self._words = {peer: word for peer, word in self._words.items() if word.note.round >= round}

    def like_us(self, ours: Ready, among: Iterable[PeerId]) -> dict[PeerId, Ready]:
        """Returns who of these could be in a roster with us, and what each said."""
        words = self._words
        return {
            peer: words[peer].note
            for peer in among
            if peer in words and words[peer].note.tokens and _is_at(words[peer].note, ours)
        }

    def at(self, round: int, anchor_digest: bytes) -> list[PeerId]:
        """Returns who is at this anchor."""
        where = round, anchor_digest
        return [peer for peer, word in self._words.items() if _place(word.note) == where]

    def not_at(self, round: int, anchor_digest: bytes) -> list[PeerId]:
        """Returns who is known to be at another one."""
        where = round, anchor_digest
        return [peer for peer, word in self._words.items() if _place(word.note) != where]

    def ahead_of(self, round: int) -> PeerId | None:
        """Returns somebody who is in a later round."""
        return next((peer for peer, word in self._words.items() if word.note.round > round), None)


def _place(note: Ready) -> tuple[int, bytes]:
    return note.round, note.anchor_digest


def _is_at(note: Ready, other: Ready) -> bool:
    return _place(note) == _place(other)
