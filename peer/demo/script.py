"""What the demo plays: every constant, the run's settings, and the timeline, as data."""

from dataclasses import dataclass

from protocol.errors import ConfigError

FOUNDERS = ("peer-1", "peer-2", "peer-3")
"""Peers from the first step on."""
VICTIM = "peer-2"
NEWCOMER = "peer-4"
BOOTSTRAP = "bootstrap"
LONE = "alone"
SURVIVORS = ("peer-1", "peer-3", NEWCOMER)
WHOLE_TIME = ("peer-1", "peer-3")
"""Peers that are there from the first step to the last: their bytes are the demo's bytes."""


@dataclass(frozen=True, slots=True)
class Method:
    """How the demo plays a preset."""

    codec: str
    interval_steps: int
    """Pairs mix more slowly than groups, so they meet more often."""
    outer: str
    """TOML. DiLoCo's momentum of 0.9 pays off after hundreds of rounds; the demo has 45."""
    overlap_frac: float = 0.0
    """tau as a part of the interval; rules that go ahead land when the average is there."""
    kept: int | None = None
    """Of topk; the preset's 64 of 4096 need more rounds than the demo has."""


METHODS = {
    "diloco": Method("int8", 20, "lr = 0.8\nmomentum = 0.3"),
    "streaming": Method("int4", 20, "lr = 0.8\nmomentum = 0.3", 0.05),
    "noloco": Method("bf16", 15, "lr = 0.7\nmomentum = 0.5\ngamma = 0.7"),
    "eager": Method("int8", 20, "lr = 0.7\nmomentum = 0.4", 1.0),
    "co2": Method("int8", 20, "lr = 0.8\nmomentum = 0.6", 1.0),
    "sparseloco": Method("topk", 20, "lr = 1.3", kept=512),
    "gossip-stream": Method("mod8", 15, "lr = 0.7\nmomentum = 0.5\ngamma = 0.7", 0.25),
}
"""What the demo can play: each preset, with constants for its few rounds."""

DEFAULT_STEPS = 900
FEWEST_STEPS = 24
BATCH_SEQUENCES = 8
LR = 3e-3
WARMUP_STEPS = 50

EVALUATE_EVERY_ROUNDS = 3
EVALUATION_BYTES = 16 * 1024
"""What a peer reads of the validation text while it trains."""
FINAL_EVALUATION_BYTES = 256 * 1024
"""What the final figures are measured on, the lone replica's too."""

LOOK_S = 0.25
"""How often the demo looks at its actors."""
FOUND_S = 60.0
"""How long founding the run may take."""
BOOTSTRAP_S = 90.0
"""How long the bootstrap node may take until it can be reached."""
QUIET_S = 4.0
"""When nothing has landed for so long after the last step, the last round is over."""
CURTAIN_S = 30.0
"""How long the last round may take in all."""
LEAVE_S = 15.0
"""How long a peer may take to leave; it should need 5 s."""
DEADLINE_S = 600.0
"""When training is given up on a machine that is too slow; what was reached is reported."""

BETTER_THAN_START = 0.9
"""The swarm's final loss must be under so much of its first one."""
FEWEST_TIMES_FEWER_BYTES = 30.0


@dataclass(frozen=True, slots=True)
class Cue:
    """Something that is done to the swarm on the way."""

    name: str
    at_frac: float
    """After this part of the steps."""
    coming: str
    """What will happen, for people."""
    done: str
    """What has happened, for people."""
    label: str
    """For the picture."""


KILL_PEER = Cue(
    "kill_peer",
    0.35,
    f"{VICTIM} will be killed (SIGKILL)",
    f"{VICTIM} was killed with SIGKILL",
    "one peer killed",
)
NEW_PEER = Cue(
    "new_peer",
    0.45,
    f"{NEWCOMER} will join, with nothing but the ticket",
    f"{NEWCOMER} was started, with nothing but the ticket",
    "new peer joins",
)
KILL_BOOTSTRAP = Cue(
    "kill_bootstrap",
    0.60,
    "the bootstrap node will be killed (SIGKILL), once the new peer has contributed",
    "the bootstrap node was killed with SIGKILL",
    "bootstrap killed",
)
CUES = (KILL_PEER, NEW_PEER, KILL_BOOTSTRAP)


def interval_of(method: str, steps: int) -> int:
    """Returns the steps between two departures; a short demo has at least six, too."""
    return min(_played(method).interval_steps, max(1, steps // 6))


def run_toml(method: str, *, seed: int, steps: int) -> str:
    """Returns the text of the demo's run.toml.

    Args:
        method: One of `METHODS`.
        seed: Of the run.
        steps: Inner steps that a peer makes.

    Raises:
        ConfigError: no such method, or too few steps to show anything.
    """
    if steps < FEWEST_STEPS:
        raise ConfigError(f"the demo needs at least {FEWEST_STEPS} steps, not {steps}")
    return f"""\
# What all peers of the demo agree on; `thinwire new` makes it a manifest.
name = "demo"
seed = {seed}

[model]
dim = 96
layers = 3
heads = 3
ffn_dim = 256
context = 128

[data]
recipe = "stdlib"

[inner]
lr = {LR}
warmup_steps = {min(WARMUP_STEPS, steps // 4)}
total_steps = {steps}
batch_sequences = {BATCH_SEQUENCES}

{method_toml(method, interval_of(method, steps))}
[round]
grace_s = 2.0
exchange_s = 20.0
progress_s = 2.0
"""


def method_toml(method: str, interval_steps: int) -> str:
    """Returns the tables of run.toml that say how peers train together.

    Raises:
        ConfigError: no such method.
    """
    played = _played(method)
    kept = "" if played.kept is None else f"kept = {played.kept}"
    return f"""\
[method]
preset = "{method}"

[method.schedule]
interval_steps = {interval_steps}
overlap_steps = {round(played.overlap_frac * interval_steps)}

[method.codec]
name = "{played.codec}"
{kept}

[method.outer]
{played.outer}
"""


def _played(method: str) -> Method:
    if method not in METHODS:
        raise ConfigError(f"the demo can play {', '.join(METHODS)}, not {method!r}")
    return METHODS[method]
