"""Bare Gloo, fp32, without encryption: what PyTorch has on CPUs, and what others build upon.

pair         each sends the whole vector and receives the other's; nothing is made of it
all_reduce   the sum, in place; nothing is made of it
diloco       a pseudo-gradient, all_reduce, torch.optim.SGD with Nesterov momentum: the ten
             lines that a DiLoCo without faults takes, and what the others' exchanges end with
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.exchange_process import Place, digest

MODES = ("pair", "all_reduce", "diloco")


class End:
    """See `benchmarks.exchange_process.End`."""

    def __init__(self, mode: str) -> None:
        self._mode = mode

    def start(self, place: Place, theta: Tensor) -> None:
        """Connects."""
        store = f"file://{place.folder}/gloo"
        dist.init_process_group("gloo", init_method=store, rank=place.rank, world_size=2)
        self._other = 1 - place.rank
        self._theta = theta
        if self._mode == "pair":
            self._received = torch.zeros_like(theta)
        elif self._mode == "diloco":
            self._anchor = torch.zeros_like(theta).requires_grad_()
            self._outer = torch.optim.SGD([self._anchor], lr=0.7, momentum=0.9, nesterov=True)

    def prepare(self) -> None:
        """Keeps sums from growing for ever."""
        if self._mode == "all_reduce":
            self._theta.mul_(0.5)

    def exchange(self) -> None:
        """Exchanges once."""
        if self._mode == "pair":
            sending = dist.isend(self._theta, self._other)
            receiving = dist.irecv(self._received, self._other)
            assert sending is not None
            assert receiving is not None
            sending.wait()
            receiving.wait()
        elif self._mode == "all_reduce":
            dist.all_reduce(self._theta)
        else:
            gradient = self._anchor.detach() - self._theta
            dist.all_reduce(gradient)
            self._anchor.grad = gradient.div_(2)
            self._outer.step()
            self._anchor.grad = None

    def report(self) -> dict[str, Any]:
        """Returns the digest of what both ends should agree on, if they should."""
        if self._mode == "pair":
            return {}
        agreed = self._theta if self._mode == "all_reduce" else self._anchor.detach()
        return {"digest": digest(agreed)}

    def close(self) -> None:
        """Leaves."""
        dist.destroy_process_group()
