"""A run with domains whose states are real ones, but small, for tests."""

from typing import Any

import torch

from peer.domains.kept import DomainState, FragmentState
from peer.domains.sizes import DomainSizes
from peer.mixing import digest_of
from peer.ports import Source
from protocol.domains import domain_manifest
from protocol.identity import Identity
from protocol.lineage import EMPTY
from protocol.manifest import Manifest, manifest_from

FOUNDER = Identity(b"f" * 32)
TOTAL_STEPS = 300
INTERVAL_STEPS = 20
COPY_EVERY_S = 30.0
DILOCO: dict[str, Any] = {"schedule": {"interval_steps": INTERVAL_STEPS}}
IN_PIECES: dict[str, Any] = {
    "schedule": {"interval_steps": INTERVAL_STEPS, "fragments": 3, "pattern": "strided"}
}
PAIRS: dict[str, Any] = {
    "mixing": "pairs",
    "outer": {"rule": "noloco"},
    "schedule": {"interval_steps": INTERVAL_STEPS},
}
METHODS = {"seed": DILOCO, "law": DILOCO, "math": IN_PIECES, "wiki": PAIRS}


def run_of(methods: dict[str, dict[str, Any]] = METHODS, **fields: Any) -> Manifest:
    """A run with a domain for each method; `seed` is one that `math` branches from."""
    domains = [
        {
            "name": name,
            "data": {"recipe": "stdlib:this.py"},
            "model": {"dim": 16, "layers": 3, "heads": 1, "ffn_dim": 16, "context": 16},
            "inner": {"total_steps": TOTAL_STEPS, "batch_sequences": 2},
            "method": method,
            "is_expert": name != "seed",
            "branch_from": "seed" if name == "math" and "seed" in methods else "",
        }
        for name, method in methods.items()
    ]
    return manifest_from(
        {
            "founder": FOUNDER.peer_id,
            "domains": domains,
            "experts": {"copy_every_s": COPY_EVERY_S},
            **fields,
        }
    )


RUN = run_of()


def state_at(
    domain: str, step: int, *, is_final: bool = False, run: Manifest = RUN, draw: int = 0
) -> DomainState:
    """A domain's state at a step, drawn; equal draws are equal states."""
    child = domain_manifest(run, domain)
    sizes, round = DomainSizes(child), max(1, step // INTERVAL_STEPS)
    generator = torch.Generator().manual_seed(1000 * step + draw)
    fragments = []
    for fragment in range(child.method.schedule.fragments):
        lengths = sizes.state_lengths(fragment)
        vectors = [torch.randn(length, generator=generator) for length in lengths]
        digest = digest_of(vectors[0]) if sizes.is_common else bytes(32)
        lineage = EMPTY.landed(round, digest, 1 + step) if sizes.is_common else EMPTY
        fragments.append(FragmentState(round, digest, lineage, vectors))
    return DomainState(step, is_final, fragments)


def final_state(domain: str, *, run: Manifest = RUN, draw: int = 0) -> DomainState:
    return state_at(domain, TOTAL_STEPS, is_final=True, run=run, draw=draw)


def bits_of(state: DomainState) -> list[Any]:
    """All that a state says, to the bit."""
    return [
        state.step,
        state.is_final,
        [
            (f.round, f.anchor_digest, f.lineage, [v.numpy().tobytes() for v in f.vectors])
            for f in state.fragments
        ],
    ]


async def data_of(source: Source) -> bytes:
    return await source.read(0, source.size_bytes)
