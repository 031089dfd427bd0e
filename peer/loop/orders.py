"""What rank 0 tells the other ranks of its group to do next.

Only rank 0 talks to the swarm; only all ranks together can read or write a sharded parameter. So
each operation begins with an order, a broadcast of 24 bytes, and a step at which nothing is due
costs one. Orders go over a Gloo group of their own: never in the way of the training's
collectives, and never a reason to wait for a GPU.

**Safety.** Ranks that are in different collectives wait for each other until a timeout. Therefore
whoever can fail, fails in `agree`, after which all ranks go on or all raise; and rank 0, when it
raises anywhere else, says so with `stop`. A rank that dies breaks the connections, which raises on
the others; torchrun then ends them all, too.
"""

import contextlib
from datetime import timedelta
from enum import IntEnum

import torch
import torch.distributed as dist
from torch import Tensor

from protocol.errors import ConfigError, ThinwireError

TIMEOUT_S = 1800.0
"""How long a rank waits for another, by default."""
STOP_S = 10.0
"""How long rank 0, when it fails, waits until the others hear why: they may be in a collective of
the training's, which its end alone can end."""


class Order(IntEnum):
    """What comes next, and in which argument and payload."""

    WAIT = 0
    """Nothing yet; rank 0 is still there."""
    BEGIN = 1
    """Payload: the manifest."""
    GIVE = 2
    """Argument: the fragment whose parameters rank 0 gathers, -1 for all."""
    TAKE = 3
    """Argument: the fragment whose parameters rank 0 hands out, -1 for all."""
    GIVE_STATE = 4
    """Rank 0 gathers everything a checkpoint needs."""
    TAKE_STATE = 5
    """Payload: the outlines of the tensors that rank 0 hands out."""
    EVALUATE = 6
    """All ranks evaluate the parameters that they have."""
    GO_ON = 7
    """Argument: inner steps done, on the run's count; the next one follows."""
    LEAVE = 8
    """This was the last step."""
    STOP = 9
    """Rank 0 failed. Argument: 1 if the operator has to change something. Payload: why."""


class Orders:
    """One rank's end of the line; all ranks of the group make one at the same time.

    Args:
        group: Who takes part; everybody if None.
        timeout_s: How long a rank waits for another before it raises.

    Attributes:
        group: The Gloo group that orders go over.
        ranks: The group's members in order, as ranks of the whole world.
    """

    def __init__(
        self, group: dist.ProcessGroup | None = None, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.ranks = dist.get_process_group_ranks(group)
        made = dist.new_group(
            self.ranks,
            timeout=timedelta(seconds=timeout_s),
            backend="gloo",
            use_local_synchronization=True,  # ranks outside of the group know nothing of this
        )
        assert isinstance(made, dist.ProcessGroup)  # we are in it
        self.group = made

    @property
    def is_lead(self) -> bool:
        """Whether this is rank 0 of the group."""
        return dist.get_rank(self.group) == 0

    def give(
        self,
        order: Order,
        argument: int = 0,
        payload: bytes = b"",
        *,
        timeout_s: float | None = None,
    ) -> None:
        """Tell the other ranks; they are in `take`, or will be.

        Args:
            order: What comes next.
            argument: Of the order.
            payload: Of the order.
            timeout_s: How long to wait until they have heard it; None for the group's own.
        """
        options = dist.BroadcastOptions()
        if timeout_s is not None:
            options.timeout = timedelta(seconds=timeout_s)
        self.group.broadcast([_integers(order, argument, len(payload))], options).wait()
        if payload:
            data = _bytes(payload)
            self.group.broadcast([data], options).wait()

    def wait(self) -> None:
        """Tell the other ranks that we are still there."""
        self.give(Order.WAIT)

    def take(self) -> tuple[Order, int, bytes]:
        """Wait for the next order that is not `WAIT`.

        Raises:
            ThinwireError: rank 0 has stopped; a ConfigError if the operator has to do something.
        """
        while True:
            head = _integers(0, 0, 0)
            dist.broadcast(head, group=self.group, group_src=0)
            order, argument, num_bytes = head.tolist()
            data = b""
            if num_bytes:
                payload = _bytes(bytes(num_bytes))
                dist.broadcast(payload, group=self.group, group_src=0)
                data = payload.numpy().tobytes()
            if order == Order.STOP:
                raise (ConfigError if argument else ThinwireError)(data.decode())
            if order != Order.WAIT:
                return Order(order), argument, data

    def stop(self, error: BaseException) -> None:
        """Let the other ranks raise, too, since rank 0 does not go on."""
        reason = str(error) if isinstance(error, ThinwireError) else f"rank 0 failed: {error!r}"
        # They have raised, too, and may be gone; or the group is destroyed already.
        with contextlib.suppress(RuntimeError, ValueError):
            is_config = isinstance(error, ConfigError)
            self.give(Order.STOP, is_config, reason.encode(), timeout_s=STOP_S)

    def agree(self, problem: str | None) -> None:
        """Go on together, or raise together. A collective.

        Args:
            problem: What keeps this rank from going on.

        Raises:
            ConfigError: some rank has a problem; the message is that of the first that has.
        """
        own = (problem or "").encode()
        sizes = [_integers(0) for _ in self.ranks]
        dist.all_gather(sizes, _integers(len(own)), group=self.group)
        for rank, size in enumerate(sizes):
            if not size:
                continue
            is_ours = rank == dist.get_rank(self.group)
            text = _bytes(own if is_ours else bytes(int(size)))
            dist.broadcast(text, group=self.group, group_src=rank)
            raise ConfigError(text.numpy().tobytes().decode())

    def totals(self, *numbers: int) -> list[int]:
        """Return each sum over all ranks on rank 0, and anything on others. A collective."""
        sums = _integers(*numbers)
        dist.reduce(sums, group=self.group, group_dst=0)
        return [int(sum_) for sum_ in sums]


# Gloo's tensors are on the CPU, whatever the loop's default device is.


def _integers(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64, device="cpu")


def _bytes(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
