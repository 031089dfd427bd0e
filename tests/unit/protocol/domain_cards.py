"""Runs with domains and cards of their peers, for tests."""

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from protocol.card import Card, Kept
from protocol.identity import Identity, PeerId
from protocol.manifest import Manifest, manifest_from

FOUNDER = Identity(b"f" * 32)
TOTAL_STEPS = 300
GIB = 1 << 30


def manifest_of(
    names: Sequence[str], *, seeds: Sequence[str] = (), total_steps: int = TOTAL_STEPS
) -> Manifest:
    """A run of these domains; `seeds` names what each branches from, "" if nothing."""
    seeds = seeds or [""] * len(names)
    domains: list[dict[str, Any]] = [
        {"name": name, "branch_from": seed, "inner": {"total_steps": total_steps}}
        for name, seed in zip(names, seeds, strict=True)
    ]
    return manifest_from({"founder": FOUNDER.peer_id, "domains": domains})


def card(domain: str = "", step: int = 0, **fields: Any) -> Card:
    return Card(wire_addresses=(), domain=domain, step=step, **fields)


def final(domain: str, step: int = TOTAL_STEPS) -> Kept:
    return Kept(domain, 3, step, is_final=True)


def copy(domain: str, step: int) -> Kept:
    return Kept(domain, 1, step, is_final=False)


NAMES = ("seed", "law", "math", "wiki")
RUN = manifest_of(NAMES, seeds=("", "", "seed", "seed"))
FLOPS = {"seed": 4.0, "law": 2.0, "math": 3.0, "wiki": 1.0}
NEEDED_BYTES = {"seed": 1 * GIB, "law": 2 * GIB, "math": 4 * GIB, "wiki": 8 * GIB}
PEERS = [PeerId(f"peer{number}") for number in range(9)]

kept_states = st.builds(
    Kept,
    domain=st.sampled_from([*NAMES, "cooking"]),
    round=st.just(1),
    step=st.integers(0, 2 * TOTAL_STEPS),
    is_final=st.integers(0, 3).map(lambda drawn: drawn == 0),
)
any_cards = st.builds(
    card,
    domain=st.sampled_from(["", "", *NAMES, "cooking"]),
    step=st.integers(0, 2 * TOTAL_STEPS),
    role=st.sampled_from(["peer"] * 6 + ["holder", "left", "bootstrap"]),
    memory_bytes=st.sampled_from([0, 0, *NEEDED_BYTES.values()]),
    flops_per_s=st.sampled_from([0, 1, 1, 2]),
    kept=st.lists(kept_states, max_size=1).map(tuple),
)
swarms = st.dictionaries(st.sampled_from(PEERS), any_cards, min_size=1)
"""Cards of a swarm in `RUN`, strangers among them."""
