"""What the demo with domains plays: every constant, and the run's settings."""

from dataclasses import dataclass

from peer.demo import script as common
from peer.demo.script import BATCH_SEQUENCES, LR, WARMUP_STEPS, interval_of, method_toml
from protocol.errors import ConfigError

PEERS = ("peer-1", "peer-2", "peer-3", "peer-4")


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain of the demo's run; its text is on every machine that can run the demo."""

    name: str
    recipe: str
    text: str
    """What it is, for people."""


DOMAINS = (
    Domain("python", "stdlib:*.py", "Python's standard library"),
    Domain("manual", "stdlib:pydoc_data/topics.py", "Python's manual, in English"),
    Domain(
        "cpp",
        "package:torch/include/c10/**/*.h|include/ATen/native/**/*.h",
        "the C++ headers of torch",
    ),
)

METHODS = tuple(common.METHODS)
DEFAULT_STEPS = 800
"""On average over the domains: the division gives the harder ones more."""
FEWEST_STEPS = 200
"""In fewer, domains are done before anybody has copied one."""
PROBE_STEPS = 40
"""Of the small model that measures how difficult each domain is."""
COPY_EVERY_S = 5.0
KILL_AT_FRAC = 0.4
"""A peer that is alone in its domain is killed when that is so far."""

NEVER_EVALUATE = 1_000_000
"""Rounds: the validation text is for the end."""
EVALUATION_BYTES = 64 * 1024
"""Of each domain, what all experts and ensembles are judged by."""

DEADLINE_S = 900.0
"""When training is given up on a machine that is too slow; what was reached is reported."""


def run_toml(method: str, *, seed: int, steps: int) -> str:
    """Returns the text of the run.toml.

    Args:
        method: One of `METHODS`.
        seed: Of the run.
        steps: Inner steps of a domain, on average.

    Raises:
        ConfigError: no such method, or too few steps to show anything.
    """
    if method not in METHODS:
        raise ConfigError(f"the demo with experts can play {', '.join(METHODS)}, not {method!r}")
    if steps < FEWEST_STEPS:
        raise ConfigError(f"the demo with experts needs at least {FEWEST_STEPS} steps, not {steps}")
    domains = "\n".join(
        f'[[domains]]\nname = "{domain.name}"\nrecipe = "{domain.recipe}"\n' for domain in DOMAINS
    )
    return f"""\
# What all peers of the demo agree on; `thinwire new` makes it a manifest. Nobody says how difficult
# the domains are: that is measured, and the harder ones get larger models and more steps.
name = "demo"
seed = {seed}

[model]
dim = 96
layers = 3
heads = 3
ffn_dim = 256
context = 128

[inner]
lr = {LR}
warmup_steps = {min(WARMUP_STEPS, steps // 4)}
total_steps = {steps}
batch_sequences = {BATCH_SEQUENCES}

{method_toml(method, interval_of(method, steps))}
[experts]
division = "both"
probe_steps = {PROBE_STEPS}
copy_every_s = {COPY_EVERY_S}

{domains}
[round]
grace_s = 2.0
exchange_s = 20.0
progress_s = 2.0
"""
