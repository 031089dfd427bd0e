"""How much memory does the outer side of a peer take, as a multiple of the model's fp32 size?

    python -m benchmarks.memory                      # every preset, 25M parameters, 2 members
    python -m benchmarks.memory --presets diloco streaming --members 8

Each preset runs in a process of its own: the outer copy of all fragments, and four exchanges
of each fragment, through the objects of a peer's wire process (`peer.mixing`), with the others'
contributions arriving as bytes. *Outer* is what stays between exchanges (anchor, momentum, residual
and the like), *peak* the most that was resident beyond the bare process at any moment. The two flat
vectors that trainer and wire process share come on top, in the column *shared*. Nothing of it is on
an accelerator: a trainer there keeps its parameters and inner state, and copies fragments.
The last line of stdout is one JSON object.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import facts
from optim.layout import Layout, layout_of
from optim.method import Method
from optim.presets import PRESETS
from peer.method import method_of_run
from peer.mixing import Mixing
from peer.settings import method_settings
from peer.train.model import layout_of_run
from protocol.identity import PeerId
from protocol.machine import BlobRef, Fetch, Land, Offer, Reduce
from protocol.manifest import manifest_from
from protocol.terms import Terms

ROUNDS = 4
"""What is kept of earlier exchanges counts, too."""
WE, OTHER = PeerId("we"), PeerId("other")


def main() -> int:
    """Measures the presets one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", choices=list(PRESETS), default=list(PRESETS))
    parser.add_argument("--members", type=int, default=2, help="of a round, where all average")
    parser.add_argument("--dim", type=int, default=512, help="of 8 layers; 512 is 25M parameters")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.members, arguments.dim)))
        return 0
    before = facts()
    rows = []
    for preset in arguments.presets:
        print(f"measuring {preset}", file=sys.stderr, flush=True)
        size = ["--members", str(arguments.members), "--dim", str(arguments.dim)]
        command = [sys.executable, "-m", "benchmarks.memory", "--one", preset, *size]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    print("| " + " | ".join(rows[0]) + " |\n" + "|---" * len(rows[0]) + "|")
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")
    print(json.dumps({"benchmark": "memory", "machine": before, "results": rows}))
    return 0


def measure(preset: str, members: int, dim: int) -> dict[str, Any]:
    """Returns one preset's figures, in multiples of the model's fp32 size, of this very process."""
    torch.set_num_threads(1)
    settings = {
        "founder": "nobody",
        "model": {"dim": dim, "layers": 8, "heads": 8, "ffn_dim": 1376},
        "method": method_settings(preset),
    }
    manifest = manifest_from(settings)
    layout, method = layout_of_run(manifest), method_of_run(manifest)
    num_parts = 1 if method.mixing == "pairs" else members
    _rounds(layout_of({"small": (4096,)}), method, members, num_parts)  # loads and compiles
    bare = _reset_peak()
    mixing = _rounds(layout, method, members, num_parts)
    peak = _status("VmHWM") - bare
    copies = [outer.copy for outer in mixing.outer]
    kept = [
        vector
        for copy in copies
        for vector in (copy.anchor, *copy.state.values(), *copy.own.values())
    ]
    return {
        "preset": preset,
        "parameters": layout.num_elements,
        "fragments": len(layout.fragments),
        "codec": method.codec.name,
        "outer": round(sum(x.numel() for x in kept) / layout.num_elements, 2),
        "peak": round(peak / (4 * layout.num_elements), 2),
        "shared": 2.0,
    }


def _rounds(layout: Layout, method: Method, members: int, num_parts: int) -> Mixing:
    anchor = torch.zeros(layout.num_elements)
    mixing = Mixing(layout, method.outer, (method.codec,), anchor, our_id=WE)
    del anchor
    for number in range(ROUNDS):
        for fragment, span in enumerate(layout.fragments):
            theta = torch.full((len(span),), 1e-3)  # in the peer it lies in the shared memory
            _exchange(mixing, fragment, theta, bytes([number, fragment]), members, num_parts)
    return mixing


def _exchange(
    mixing: Mixing, fragment: int, theta: Tensor, name: bytes, members: int, num_parts: int
) -> None:
    # What the driver does for one exchange; the others' bytes are ours, for only sizes matter.
    terms = Terms((1,) * num_parts)
    offer = Offer(fragment, 0, name, terms, (OTHER,))
    mixing.open(fragment, name, terms)
    mixing.open(offer.fragment, offer.exchange_id, offer.terms)
    mixing.offer(offer, theta)
    del theta
    mixing.encode(offer, _nothing)
    part, average = BlobRef("part", fragment, name), BlobRef("average", fragment, name)
    for number in range(members - 1 if num_parts > 1 else 1):
        _collect(mixing, Fetch(PeerId(f"other {number}"), part, terms, 1), part)
    mixing.reduce(Reduce(average, 1, is_shared=num_parts > 1), _nothing)
    for number in range(1, num_parts):
        fetch = Fetch(OTHER, BlobRef("average", fragment, name, number), terms)
        _collect(mixing, fetch, average)
    mixing.landed[fragment] = mixing.land(Land(fragment, 0, name, terms))


def _collect(mixing: Mixing, fetch: Fetch, ours: BlobRef) -> None:
    made = mixing.made(ours)
    assert made is not None
    for grain in mixing.missing(fetch):
        frame = made.frames[grain] or b""
        mixing.collect(fetch, grain, memoryview(frame))


def _nothing() -> None:
    """Nobody waits for a grain."""


def _reset_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    sys.exit(main())
