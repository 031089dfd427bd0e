"""The contract between a state machine and whoever drives it.

A machine (`protocol.exchange.Exchange`) is fed events and the time, and answers with effects; it
opens nothing, waits for nothing and reads no clock. A driver does exactly this: feed one event,
`drain()`, perform the effects, set one timer for `next_deadline_s()`. There are two drivers,
`peer.driver`, on the wire and under a virtual clock, and `peer.sim.crowd_peer` for thousands.

Bulk data goes beside the machines: they name it (`BlobRef`) and learn how its journey ended.
"""

from dataclasses import dataclass, field

from protocol.identity import PeerId
from protocol.messages import Member, Note
from protocol.terms import Terms


@dataclass(frozen=True, slots=True)
class BlobRef:
    """The name of something too large for a message.

    Kinds: `part` (one member's contribution to one part of a fragment), `average` (a part's
    average), `index` (what a fragment's state is made of, see `protocol.state_index`), `state`
    (anchor and outer state of a fragment, by the name that its index gives it), `file` (one of the
    run's files, `part` its place in the manifest).

    In a run with domains, `domain` says whose; empty is that in which both peers train.
    """

    kind: str
    fragment: int = 0
    exchange_id: bytes = b""
    part: int = 0
    domain: str = ""


@dataclass(frozen=True, slots=True)
class Send:
    """Tell `dst`; it may be lost."""

    dst: PeerId
    note: Note


@dataclass(frozen=True, slots=True)
class Offer:
    """Encode our contribution, in the parts of `terms`, and serve them to `members` alone."""

    fragment: int
    round: int
    exchange_id: bytes
    terms: Terms
    members: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True)
class Fetch:
    """Get a blob from `src`, and use it; report with `on_fetched` or `on_fetch_failed`.

    A `part` is decoded and added, with weight `tokens`, to what was collected for the exchange; an
    `average` is decoded and kept for the landing.
    """

    src: PeerId
    ref: BlobRef
    terms: Terms
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Reduce:
    """Average what was collected with our own contribution to the part that `ref` names.

    The result is encoded, served as blob `average`, and decoded again for our own landing, so that
    all apply the same bytes; unless `is_shared` is false, and it is for us alone.
    """

    ref: BlobRef
    own_tokens: int
    is_shared: bool = True


@dataclass(frozen=True, slots=True)
class Land:
    """Take the outer step with the collected average; report with `on_landed`.

    `rebase_on_anchor` is true when our own contribution is not in it: local work since the last
    landing then stays on top of the new anchor. `tokens` are those of all whose average it is, and
    `members` the others among them whom we saw bring theirs, each with its tokens.
    """

    fragment: int
    round: int
    exchange_id: bytes
    terms: Terms
    rebase_on_anchor: bool = False
    tokens: int = 0
    members: tuple[Member, ...] = ()


@dataclass(frozen=True, slots=True)
class Discard:
    """Free what was collected for this exchange; nothing of it may be applied any more."""

    fragment: int
    exchange_id: bytes


@dataclass(frozen=True, slots=True)
class CatchUp:
    """Compare our anchor with theirs, and take it over, or average both; see `protocol.branches`.

    Report with `on_caught_up`, or with `on_kept` when ours is to stay as it is. `our_camp` and
    `their_camp` are how many peers are known to be at either anchor.
    """

    donors: tuple[PeerId, ...]
    fragment: int
    our_camp: int = 1
    their_camp: int = 1


@dataclass(frozen=True, slots=True)
class Tell:
    """Something for people: a stable event word, and why. The driver logs it."""

    event: str
    fields: dict[str, object] = field(default_factory=dict)


Effect = Send | Offer | Fetch | Reduce | Land | Discard | CatchUp | Tell
