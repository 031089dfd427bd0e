"""hivemind's DecentralizedAverager, fp32, over libp2p streams; a part of every installation.

    step    `averager.step()`: finds a group and averages. The wait for others that might join it is
            set to 1 s; hivemind's own setting is 5 s.
    ready   only the averaging: the group was found before, with `require_trigger`, which is how
            hivemind's optimizer hides the search

Its codecs of 8 bits fail with numpy 2.4, so values travel as they are. The averager shares `theta`
with a process of its own, and its traffic goes through libp2p's daemon, a third process.
"""

import os
import time
from typing import Any

import hivemind
from hivemind.averaging import DecentralizedAverager
from hivemind.averaging.control import AveragingStage, StepControl
from torch import Tensor

from benchmarks.exchange_process import POLL_S, Place, digest

MODES = ("step", "ready")
_MATCHMAKING_S = 1.0
_TIMEOUT_S = 60.0


class End:
    """See `benchmarks.exchange_process.End`."""

    def __init__(self, mode: str) -> None:
        self._mode = mode

    def start(self, place: Place, theta: Tensor) -> None:
        """Starts a DHT node and the averager, each a process of its own."""
        peers = [place.await_word("peer")] if place.rank else []
        self._dht = hivemind.DHT(
            initial_peers=peers, start=True, host_maddrs=["/ip4/127.0.0.1/tcp/0"]
        )
        if place.rank == 0:
            place.publish("peer", str(self._dht.get_visible_maddrs()[0]))
        self._averager = DecentralizedAverager(
            (theta,),
            self._dht,
            start=True,
            prefix="exchange",
            target_group_size=2 if self._mode == "ready" else None,
            min_group_size=2,
            min_matchmaking_time=_MATCHMAKING_S,
            request_timeout=_MATCHMAKING_S / 2,
        )
        self._control: StepControl | None = None
        place.publish(f"averager{place.rank}", "")
        place.await_word(f"averager{1 - place.rank}")

    def prepare(self) -> None:
        """Finds the group, in mode `ready`."""
        if self._mode == "step":
            return
        control = self._averager.step(wait=False, require_trigger=True, timeout=_TIMEOUT_S)
        assert isinstance(control, StepControl)
        while control.stage is not AveragingStage.AWAITING_TRIGGER:
            if control.done():
                control.result()
            time.sleep(POLL_S)
        self._control = control

    def exchange(self) -> None:
        """Averages once."""
        if self._mode == "step":
            group = self._averager.step(timeout=_TIMEOUT_S)
        else:
            assert self._control is not None
            self._control.allow_allreduce()
            group = self._control.result()
        if group is None or len(group) != 2:
            raise RuntimeError(f"hivemind found no group of two: {group}")

    def report(self) -> dict[str, Any]:
        """Returns the digest of what was averaged."""
        with self._averager.get_tensors() as (theta,):
            return {"digest": digest(theta)}

    def close(self) -> None:
        """Leaves."""
        self._averager.shutdown()
        self._dht.shutdown()
        os._exit(0)
