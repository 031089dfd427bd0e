"""Peers that let us down: for how long to do without them."""

from dataclasses import dataclass

from protocol.identity import PeerId

SHUN_S = 5.0, 120.0
"""The first and the longest pause."""


@dataclass(slots=True)
class _Pause:
    until_s: float
    length_s: float
    ends_with_a_word: bool
    is_over: bool = False


class Shunning:
    """Peers that do not give what they should; one may dial, and not be dialled.

    The pause doubles each time, or else their every note would draw us into an exchange in vain.
    Who was merely silent may have been busy, or frozen, and is welcome as soon as it speaks; but
    not if that was no better the last time.
    """

    def __init__(self) -> None:
        self._pauses: dict[PeerId, _Pause] = {}

    def __bool__(self) -> bool:
        """Whether there is, or was, anybody."""
        return bool(self._pauses)

    def __len__(self) -> int:
        """Returns how many are remembered."""
        return len(self._pauses)

    def add(self, peer: PeerId, *, now_s: float, is_silent: bool = False) -> None:
        """This peer let us down, once more; others that have long ceased to are forgiven.

        Args:
            peer: Who.
            now_s: The time.
            is_silent: Nothing came from it at all.
        """
        self._pauses = {
            other: pause
            for other, pause in self._pauses.items()
            if pause.until_s + pause.length_s > now_s
        }
        last = self._pauses.get(peer)
        length_s = min(2 * last.length_s, SHUN_S[1]) if last else SHUN_S[0]
        self._pauses[peer] = _Pause(now_s + length_s, length_s, is_silent and last is None)

    def hear(self, peer: PeerId) -> None:
        """This peer speaks."""
        pause = self._pauses.get(peer)
        if pause and pause.ends_with_a_word:
            pause.is_over = True

    def forgive(self, peer: PeerId) -> None:
        """This peer did what it should."""
        self._pauses.pop(peer, None)

    def holds(self, peer: PeerId, *, now_s: float) -> bool:
        """Whether we do without this peer now."""
        pause = self._pauses.get(peer)
        return pause is not None and not pause.is_over and now_s < pause.until_s
