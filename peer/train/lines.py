"""What the trainer and the wire process say to each other: one JSON object on one line each.

Both ends are this very code on one machine, so a line that does not parse is a bug of ours. Who
may send what when is in `peer.train.interchange`.
"""

import json
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter, ValidationError

from protocol.errors import LocalProtocolError

MAX_LINE_BYTES = 1 << 20


# From the trainer to the wire process.


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The trainer is ready for `Start` or `Resume`."""

    num_elements: int
    num_fragments: int
    device: str
    data: str
    """What it trains on, for people."""
    validation_problem: str | None
    """One sentence when the validation text is not the run's."""
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """`Start` or `Resume` is done: the buffers are the wire process's again."""

    step: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How training goes: sent at most about four times a second."""

    step: int
    """Inner steps done, on the run's count."""
    tokens: int
    """Tokens that this peer trained on in this run."""
    loss_bits_per_byte: float
    """Training loss, the mean since the last `Progress`."""
    tokens_per_s: float
    """Since the last `Progress`, with everything that took time."""
    step_s: float
    """One inner step, without work for exchanges and evaluations."""
    overhead_s: float
    """Total time between steps for snapshots, landings and the copies that are saved."""
    waited_s: float
    """Total time between steps in which the trainer was stuck in its socket to the wire process."""
    longest_gap_s: float
    """The longest time between the ends of two steps so far, evaluations left out."""
    is_done: bool
    """No further step will be made; everything else is still answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Departed:
    """A snapshot of the fragment is in `base`, which is now the wire process's."""

    fragment: int
    step: int
    tokens: int
    """Trained since the fragment's last landing that contained our contribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Landed:
    """The new anchor is in theta; `base` is the trainer's, `anchor` the wire process's again."""

    fragment: int
    round: int
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """The anchor as a whole model, on the validation text."""

    round: int
    step: int
    bits_per_byte: float
    took_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """The replica of this moment is copied, and will be written: landings may go on."""

    step: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What was `Staged` is on the disk in `path`, or `problem` says why not; then it is gone."""

    step: int
    tokens: int
    path: str
    num_bytes: int = 0
    digest: str = ""
    """BLAKE3 of the file, in hex."""
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """The last line after `Leave`."""

    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The last line of a trainer that cannot go on."""

    reason: str
    is_config: bool = False
    """The operator's mistake, so a restart would not help."""


# From the wire process to the trainer.


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Take theta from `anchor`, and train from here."""

    step: int
    """Inner steps done on the run's count: learning rate and departures follow it."""
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Take everything from the inner.safetensors of a verified checkpoint, and go on."""

    folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Land:
    """theta = `anchor` + (theta - `base`), for this fragment, unless the method blends."""

    fragment: int
    round: int
    tokens: int = 0
    """Of ours that are in somebody's average from now on; negative: that are not after all."""
    is_planned: bool = False
    """The landing of the snapshot that departed: it waits for the overlap, and may be blended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Free:
    """The snapshot is not needed: `base` is the trainer's again."""

    fragment: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Depart:
    """Depart after this step, whatever the schedule says; no effect while a snapshot is out."""

    fragment: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """Evaluate the whole `anchor`."""

    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Save:
    """Write inner.safetensors into this staged folder; `Staged` and `Saved` answer it."""

    folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """Make no further step, and go on answering: the machine is needed to leave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """Stop training and exit."""


# Where the trainer is somebody's own loop (`peer.loop`), which starts the wire process.


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """From the loop: what a peer is to do, as `thinwire join` would be told; the first line."""

    ticket: str
    directory: str
    resume: bool | None
    listen: str
    announce: str | None
    up: str | None
    down: str | None
    evaluate_every_rounds: int
    checkpoint_every_s: float
    keep_checkpoints: int
    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """From the wire process: the run is found, and this is the path of its manifest."""

    manifest: str
    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """From the wire process: how it goes with the others. A `Failed` from it is its last line."""

    phase: str = "starting"
    """In words, what the wire process does or waits for."""
    round: int = 0
    members: int = 0
    """Other live peers."""
    partners: tuple[str, ...] = ()
    """Peer ids of the last exchange; the first few."""
    exchanges_done: int = 0
    exchanges_failed: int = 0
    contributions: int = 0
    """Landings that contained our work."""
    contributed_tokens: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    validation: float | None = None
    """What the loop's own evaluation said of the anchor the last time."""
    notices: tuple[str, ...] = ()
    """Sentences for the user that are new, the newest last."""


ToWire = Hello | Started | Progress | Departed | Landed | Evaluated | Staged | Saved | Left | Failed
ToTrainer = Start | Resume | Land | Free | Depart | Evaluate | Save | Rest | Leave
OfLoop = Join | Found | News
Message = ToWire | ToTrainer | OfLoop

_KINDS: dict[str, type[Message]] = {
    kind.__name__.lower(): kind
    for kind in (*ToWire.__args__, *ToTrainer.__args__, *OfLoop.__args__)
}
_ADAPTERS: dict[str, TypeAdapter[Message]] = {
    name: TypeAdapter(kind) for name, kind in _KINDS.items()
}


def to_line(message: Message) -> bytes:
    """Return the message as one line of JSON, newline included."""
    kind = type(message).__name__.lower()
    line = json.dumps({"kind": kind} | asdict(message), separators=(",", ":")).encode() + b"\n"
    if len(line) > MAX_LINE_BYTES:
        raise LocalProtocolError(f"a line of {len(line)} bytes: {kind}")
    return line


def parse_line(line: bytes) -> Message:
    """Return the message on a line.

    Raises:
        LocalProtocolError: it is none.
    """
    try:
        fields = json.loads(line)
        return _ADAPTERS[fields.pop("kind")].validate_python(fields)
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise LocalProtocolError(f"not a line between our processes: {line[:80]!r}") from error
