"""torchft's DiLoCo: quorum, all_reduce over Gloo in fp32, commit, outer SGD; `pip install torchft`.

It is set up to its advantage: both replicas are required, so that a quorum waits for nobody else,
the model is a single tensor, and an inner step does nothing, so that each `step` of the inner
optimizer is an outer synchronisation and nothing else. Its quantization needs a GPU.
"""

import os
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # not said to be public
from torchft.coordination import LighthouseServer
from torchft.local_sgd import DiLoCo
from torchft.manager import Manager
from torchft.process_group import ProcessGroupGloo

from benchmarks.exchange_process import Place, digest

MODES = ("diloco",)
_TIMEOUT = timedelta(seconds=60)


class Model(torch.nn.Module):
    """All parameters as one tensor `[n]`."""

    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.theta = torch.nn.Parameter(theta)


class End:
    """See `benchmarks.exchange_process.End`."""

    def __init__(self, mode: str) -> None:
        assert mode == "diloco"

    def start(self, place: Place, theta: Tensor) -> None:
        """Connects; the lighthouse is a part of the first end's process."""
        if place.rank == 0:
            self._lighthouse = LighthouseServer(
                bind="127.0.0.1:0", min_replicas=2, join_timeout_ms=100
            )
            place.publish("lighthouse", self._lighthouse.address())
        address = place.await_word("lighthouse")
        # Of this replica's group, in which it is alone.
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._model = Model(theta)
        self._drift = 1e-3 if place.rank else -5e-4
        inner = torch.optim.SGD(self._model.parameters(), lr=1e-3)
        outer = torch.optim.SGD(self._model.parameters(), lr=0.7, momentum=0.9, nesterov=True)
        self._manager = Manager(
            pg=ProcessGroupGloo(timeout=_TIMEOUT),
            load_state_dict=self._model.load_state_dict,
            state_dict=self._model.state_dict,
            min_replica_size=2,
            use_async_quorum=False,
            timeout=_TIMEOUT,
            rank=0,
            world_size=1,
            store_addr="127.0.0.1",
            store_port=self._store.port,
            lighthouse_addr=address,
            replica_id=f"replica_{place.rank}",
            hostname="127.0.0.1",
        )
        self._inner = inner
        self._diloco = DiLoCo(self._manager, [self._model], inner, outer, sync_every=1)
        self._diloco.__enter__()
        self.prepare()
        self.exchange()  # the first one connects, and takes over the first end's state

    def prepare(self) -> None:
        """Makes a pseudo-gradient."""
        with torch.no_grad():
            self._model.theta.add_(self._drift)

    def exchange(self) -> None:
        """Makes an inner step that does nothing, and then synchronises."""
        step = self._manager.current_step()
        self._inner.step()
        if self._manager.current_step() != step + 1:
            raise RuntimeError("torchft did not commit this synchronisation")

    def report(self) -> dict[str, Any]:
        """Returns the digest of the model after all exchanges."""
        return {"digest": digest(self._model.theta.detach())}

    def close(self) -> None:
        """Leaves; the threads of its servers would keep the process."""
        os._exit(0)
