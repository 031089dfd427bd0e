"""Refusals: in our log once for each peer and reason, and in words that others chose."""

import logging
from collections import OrderedDict

_CAPACITY = 1024


def readable(words: str) -> str:
    """Returns a stranger's words, if they can be shown: short, and without control characters."""
    return words[:300] if words.isprintable() else "no readable reason"


class RefusalLog:
    """Logs what we refuse, once per (peer, kind); forgets the oldest when it is full.

    Args:
        logger: where the lines go, at WARNING.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
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
        self._logger.warning("refused peer %.64s: %s (said once)", peer, readable(detail))
