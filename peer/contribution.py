"""What became of this peer's work, over all its lives: a tally, and the file that keeps it.

Everybody's work is counted in tokens. Where a model leaves in fragments, each token's gradient is
averaged once in each of them, so a landing counts for its fragment's part of the tokens.

What others brought to the averages that landed here is counted, too: that is what we can witness.
"""

import asyncio
import json
import logging
import random
import re
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from peer.run_folder import write_whole
from protocol.card import MAX_COUNT
from protocol.errors import MalformedMessage
from protocol.identity import PeerId, parse_peer_id
from protocol.manifest import RunId
from protocol.messages import Member
from protocol.report import Contribution, Witness
from protocol.report_limits import MAX_REFUSALS, MAX_WITNESSES

logger = logging.getLogger(__name__)

CONTRIBUTION = "contribution.json"
MAX_PEERS = 1024
"""Of others' work so much is kept; who has not been met for the longest time is forgotten."""
MAX_REASONS = 64
OTHER_REASONS = "other reasons"
_MAX_REASON_CHARS = 96
_MAX_FILE_BYTES = 1 << 20

_Count = Annotated[int, Field(ge=0, lt=MAX_COUNT)]
_Tokens = Annotated[float, Field(ge=0, lt=MAX_COUNT)]
ADDRESS = re.compile(r"(\d{1,3}(\.\d{1,3}){3}|(\[|%5B)[0-9a-fA-F:.]+(\]|%5D))(:\d+)?")
"""As errors spell it, with or without a port."""
_VARIABLE = (
    (re.compile(r"12D3Koo\w+"), "a peer"),
    (re.compile(r"\b[0-9a-f]{8,}\b"), "an id"),
    (ADDRESS, "an address"),
    (re.compile(r"(?<![A-Za-z])\d+(\.\d+)?"), "N"),
)


class _Kept(BaseModel):
    """The file."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    run_id: str
    peer_id: str
    trained_tokens: _Count = 0
    used_tokens: _Tokens = 0
    used_rounds: _Count = 0
    late_rounds: _Count = 0
    refused: Annotated[dict[str, _Count], Field(max_length=MAX_REASONS + 1)] = Field(
        default_factory=dict
    )
    witnessed: Annotated[dict[str, tuple[_Count, _Tokens]], Field(max_length=MAX_PEERS)] = Field(
        default_factory=dict
    )


class Tally:
    """See the module docstring. Nothing here waits, or touches a disk."""

    def __init__(self) -> None:
        self._trained_tokens = 0
        self._used_tokens = 0.0
        self._used_rounds = 0
        self._late_rounds = 0
        self._refused: Counter[str] = Counter()
        self._witnessed: OrderedDict[PeerId, tuple[int, float]] = OrderedDict()
        self._last_tokens = 0
        self._random = random.Random()

    def begin_life(self, tokens: int) -> None:
        """Training begins, or goes on, where a trainer has `tokens` behind it already."""
        self._last_tokens = tokens
        self._trained_tokens = max(self._trained_tokens, tokens)

    def trained(self, tokens: int) -> None:
        """The trainer has so many tokens behind it now."""
        self._trained_tokens += max(0, tokens - self._last_tokens)
        self._last_tokens = max(tokens, self._last_tokens)

    def landed(self, own_tokens: int, others: Iterable[Member], *, num_fragments: int) -> None:
        """An average landed here.

        Args:
            own_tokens: Of ours in it; 0 if none are.
            others: Whose work is in it besides, as far as we saw.
            num_fragments: Of the model: it was one of these.
        """
        if own_tokens > 0:
            self._used_tokens += own_tokens / num_fragments
            self._used_rounds += 1
        met = list(others)
        # Where more meet than a report has room for, not all of them may name the same ones.
        self._random.shuffle(met)
        for member in met:
            rounds, tokens = self._witnessed.pop(member.peer_id, (0, 0.0))
            now = rounds + 1, min(tokens + member.tokens / num_fragments, MAX_COUNT - 1)
            self._witnessed[member.peer_id] = now
        while len(self._witnessed) > MAX_PEERS:
            self._witnessed.popitem(last=False)

    def late(self, rounds: int = 1) -> None:
        """So many averages were taken over without the work that we had to give."""
        self._late_rounds = min(self._late_rounds + rounds, MAX_COUNT - 1)  # others count them

    def refused(self, reason: str) -> None:
        """An exchange or a transfer of ours came to nothing."""
        alike = reason_alike(reason)
        is_full = len(self._refused) >= MAX_REASONS and alike not in self._refused
        self._refused[OTHER_REASONS if is_full else alike] += 1

    @property
    def contribution(self) -> Contribution:
        """Ours, for a report."""
        return Contribution(
            trained_tokens=self._trained_tokens,
            used_tokens=round(self._used_tokens),
            used_rounds=self._used_rounds,
            late_rounds=self._late_rounds,
            refused=tuple(self._refused.most_common(MAX_REFUSALS)),
        )

    @property
    def witnesses(self) -> tuple[Witness, ...]:
        """What we saw of others', of those whom we met last."""
        newest = list(reversed(self._witnessed.items()))[:MAX_WITNESSES]
        return tuple(
            Witness(peer_id=peer, rounds=rounds, tokens=round(tokens))
            for peer, (rounds, tokens) in newest
        )

    def to_bytes(self, *, run_id: RunId, peer_id: PeerId) -> bytes:
        """Returns the content of the file."""
        data = {
            "run_id": run_id,
            "peer_id": peer_id,
            "trained_tokens": self._trained_tokens,
            "used_tokens": self._used_tokens,
            "used_rounds": self._used_rounds,
            "late_rounds": self._late_rounds,
            "refused": self._refused,
            "witnessed": self._witnessed,
        }
        return json.dumps(data).encode()

    @classmethod
    def from_bytes(cls, data: bytes, *, run_id: RunId, peer_id: PeerId) -> "Tally":
        """Returns the tally in a file.

        Raises:
            ValueError: it is damaged, or another peer's or run's.
        """
        try:
            kept = _Kept.model_validate_json(data)
        except ValidationError as error:
            raise ValueError(f"{error.error_count()} values make no sense") from None
        if (kept.run_id, kept.peer_id) != (run_id, peer_id):
            raise ValueError("it is another peer's")
        tally = cls()
        tally._trained_tokens, tally._used_tokens = kept.trained_tokens, kept.used_tokens
        tally._used_rounds, tally._late_rounds = kept.used_rounds, kept.late_rounds
        tally._refused = Counter(kept.refused)
        try:
            tally._witnessed = _witnessed(kept.witnessed)
        except MalformedMessage as error:
            raise ValueError(str(error)) from None
        return tally


def _witnessed(kept: Mapping[str, tuple[int, float]]) -> OrderedDict[PeerId, tuple[int, float]]:
    return OrderedDict((parse_peer_id(peer), seen) for peer, seen in kept.items())


class ContributionFile:
    """The tally in a peer's folder.

    Args:
        folder: The peer's.
        run_id: Of which run.
        peer_id: Whose.
    """

    def __init__(self, folder: Path, *, run_id: RunId, peer_id: PeerId) -> None:
        self._path = folder / CONTRIBUTION
        self._run_id = run_id
        self._peer_id = peer_id

    def read(self) -> Tally:
        """Returns the tally of the lives so far; a damaged file is as good as none."""
        try:
            with self._path.open("rb") as file:
                data = file.read(_MAX_FILE_BYTES)
            return Tally.from_bytes(data, run_id=self._run_id, peer_id=self._peer_id)
        except FileNotFoundError:
            return Tally()
        except (OSError, ValueError) as error:
            logger.warning("%s cannot be used, so contributions count anew: %s", self._path, error)
            return Tally()

    def write(self, tally: Tally) -> None:
        """Keeps the tally; a full disk costs what is new in it, if the peer should die."""
        self._put(tally.to_bytes(run_id=self._run_id, peer_id=self._peer_id))

    async def write_beside(self, tally: Tally) -> None:
        """Does the same while everything else goes on."""
        data = tally.to_bytes(run_id=self._run_id, peer_id=self._peer_id)
        await asyncio.to_thread(self._put, data)

    def _put(self, data: bytes) -> None:
        try:
            write_whole(self._path, data)
        except OSError as error:
            logger.warning("cannot keep the tally of contributions: %s", error)


def reason_alike(reason: str) -> str:
    """Returns a reason without names and numbers, so that like ones count together."""
    for pattern, word in _VARIABLE:
        reason = pattern.sub(word, reason)
    shown = "".join(char if char.isprintable() else " " for char in reason)
    return shown[:_MAX_REASON_CHARS].strip() or "no reason given"
