"""How much of what a peer says it contributed others have seen land.

In mixing `all` everybody sees every average, so the others' words are about the same tokens: the
best witness counts. Pairs are seen by whoever was in them, so there the words add up. In a group of
n, n - 1 others saw the same, so the words add up to n - 1 times as much. Either way nobody is
attested more than it claims itself. Witnesses may be in league: what is attested is as good as
those who say it.

Witnesses count the tokens that a peer announced, by which its work was weighted. What it trained
while it waited for the others is in the average, too, so a little less is attested than was used.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from protocol.identity import PeerId
from protocol.manifest import Manifest
from protocol.report import Report


@dataclass(frozen=True, slots=True)
class Attested:
    """Of one peer's used tokens, what others' reports carry, and how many others say so."""

    tokens: int = 0
    witnesses: int = 0


class Testimony:
    """What reports say of others' work. Nobody is its own witness.

    Args:
        reports: One of each peer.
    """

    __test__ = False  # it is no test, whatever its name begins with

    def __init__(self, reports: Iterable[Report]) -> None:
        self._tokens: dict[PeerId, dict[PeerId, int]] = defaultdict(dict)
        for report in reports:
            for seen in report.witnesses:
                if seen.peer_id != report.peer_id and seen.tokens > 0:
                    said = self._tokens[seen.peer_id]
                    said[report.peer_id] = max(seen.tokens, said.get(report.peer_id, 0))

    def of(self, peer: PeerId, *, claimed_tokens: int, most_seers: float) -> Attested:
        """Returns what is attested of a peer's work.

        Args:
            peer: Whose.
            claimed_tokens: The used ones, as it says itself.
            most_seers: How many others may have seen the same average; see `most_seers`.
        """
        said = self._tokens.get(peer, {}).values()
        tokens = max(int(sum(said) // most_seers), *said, 0)
        return Attested(min(tokens, claimed_tokens), len(said))


def most_seers(manifest: Manifest, domain: str) -> float:
    """Returns how many others see an average with a peer's work in it: at most, or infinity.

    Args:
        manifest: The run's.
        domain: Where the peer trains; of a run without domains, or if nobody knows, empty.
    """
    methods = {each.name: each.method for each in manifest.domains}
    method = methods.get(domain, manifest.method)
    return {"all": math.inf, "pairs": 1, "groups": method.group_size - 1}[method.mixing]
