"""Refusals: in our log once for each peer and reason, and in words that others chose.

Identities cost nothing, so whoever wants to fill our log has as many as it likes: only so many
lines are written in a minute, and the others are counted.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable

_CAPACITY = 1024
_MINUTE_S = 60.0
MAX_LINES_PER_MINUTE = 30
"""Of one log; a peer has two, for notes and for calls."""


def readable(words: str) -> str:
    """Returns a stranger's words, if they can be shown: short, and without control characters."""
    return words[:300] if words.isprintable() else "no readable reason"


class RefusalLog:
    """Logs what we refuse, once per (peer, kind); forgets the oldest when it is full.

    Args:
        logger: where the lines go, at WARNING.
        clock: monotonic, in seconds.
    """

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._minute_ends_s = clock() + _MINUTE_S
        self._num_lines = 0
        """Of this minute,"""
        self._num_more = 0
        """and those that were one too many."""
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()

    def refuse(self, peer: str, kind: str, detail: str) -> None:
        """Logs a refusal, unless this peer was already refused for the same kind of reason.

        Args:
            peer: a peer id, or the address of somebody who proved none.
            kind: the reason without its numbers, which a peer could vary to fill our log.
            detail: the reason in words.
        """
        key = (peer, kind)
        if key in self._seen:
            self._seen.move_to_end(key)
            return
        self._seen[key] = None
        if len(self._seen) > _CAPACITY:
            self._seen.popitem(last=False)
        self._begin_minute()
        if self._num_lines >= MAX_LINES_PER_MINUTE:
            self._num_more += 1
            return
        self._num_lines += 1
        self._logger.warning("refused peer %.64s: %s (said once)", peer, readable(detail))

    def _begin_minute(self) -> None:
        now_s = self._clock()
        if now_s < self._minute_ends_s:
            return
        if self._num_more:
            self._logger.warning("refused peers: and %d more refusals", self._num_more)
        self._minute_ends_s, self._num_lines, self._num_more = now_s + _MINUTE_S, 0, 0
