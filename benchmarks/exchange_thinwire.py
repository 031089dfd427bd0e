"""thinwire's side of the comparison: the mixing and the wire of a peer, without the machines.

    all     int4 and Nesterov: each averages one half of the pseudo-gradients, and sends the other
            what came out (preset streaming, in one fragment)
    pair    mod4 and NoLoCo: each sends the whole of its parameters, and averages for itself (preset
            gossip-stream, in one fragment)
    whole   the journey of `pair` with the numbers of `all`, to tell the cost of the way from that
            of the numbers. No method does it: each end would round its average for itself, and
            anchors would drift apart by a last bit a round.

`gloo pair` is the like of `pair` and `whole`: one message each way. `gloo all_reduce` is the like
of `all`, where the second half of the bytes waits for the first. Each exchange begins with a note
from one end to the other, and includes encoding, TLS with both identities proven, decoding, the
average, the outer step and the anchor's digest.
"""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import uvloop
from torch import Tensor

from benchmarks.exchange_end import OURS, THEIRS, ExchangeEnd, Pair
from benchmarks.exchange_pair import PairEnd
from benchmarks.exchange_process import Place
from benchmarks.exchange_stages import Stages
from optim.presets import PRESETS
from peer.method import method_of_run, warm
from peer.train.model import layout_of_run
from protocol.identity import PeerId
from protocol.manifest import Manifest, manifest_from

MODES = ("all", "pair", "whole")
Result = TypeVar("Result")
_PRESETS = {"all": "streaming", "whole": "streaming", "pair": "gossip-stream"}


def manifest_of(mode: str, founder: PeerId) -> Manifest:
    """Returns a run of 25M parameters: a preset's mixing, codec and rule, in one fragment."""
    preset = PRESETS[_PRESETS[mode]]
    constants = dict(preset["outer"])
    return manifest_from(
        {
            "founder": founder,
            "model": {"dim": 512, "layers": 8, "heads": 8, "ffn_dim": 1344},
            "method": {
                "mixing": preset["mixing"],
                "codec": preset["codec"],
                "outer": {"rule": constants.pop("rule"), "constants": constants},
            },
            "round": {"progress_s": 30.0},  # a busy machine is no reason to give up
        }
    )


def num_elements() -> int:
    """Returns the size of that model."""
    return layout_of_run(manifest_of("all", PeerId("nobody"))).num_elements


class End:
    """See `benchmarks.exchange_process.End`."""

    def __init__(self, mode: str) -> None:
        self._mode = mode
        method = method_of_run(manifest_of(mode, PeerId("nobody")))
        warm(method.codec)
        self._stages = Stages(method)

    def start(self, place: Place, theta: Tensor) -> None:
        """Listens, and learns where the other end listens; the first exchange dials."""
        if place.rank == 0:
            pair = Pair.create(place.folder, lambda founder: manifest_of(self._mode, founder))
        else:
            place.await_word("port0")
            pair = Pair.read(place.folder)
        self._theta = theta
        self._is_first = place.rank == 0
        self._proposals: asyncio.Queue[bytes] = asyncio.Queue()
        # A thread of its own, for it serves the other end when we are done.
        self._loop = uvloop.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        kind = ExchangeEnd if self._mode == "all" else PairEnd
        start = kind.start(pair, OURS if self._is_first else THEIRS)
        self._end = self._run(start)
        self._end.on_proposal = self._proposals.put_nowait
        place.publish(f"port{place.rank}", str(self._end.wire.listen_port))
        self._end.their_port = int(place.await_word(f"port{1 - place.rank}"))

    def prepare(self) -> None:
        """There is nothing to do."""

    def exchange(self) -> None:
        """Exchanges once."""
        self._run(self._exchange())

    async def _exchange(self) -> None:
        end = self._end
        self._stages.begin()
        exchange_id = await (end.propose() if self._is_first else self._proposals.get())
        await end.exchange(exchange_id, self._theta)
        self._stages.end()
        end.mixing.landed = list(end.mixing.outer)  # as when the trainer has taken it over

    def report(self) -> dict[str, Any]:
        """Returns the anchor's digest, and CPU milliseconds by stage."""
        told: dict[str, Any] = {"cpu_ms": self._stages.medians_ms()}
        if self._mode == "all":
            told["digest"] = self._end.mixing.outer[0].digest.hex()
        return told

    def close(self) -> None:
        """Stops listening."""
        self._run(self._end.close())
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
