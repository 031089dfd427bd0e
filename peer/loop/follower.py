"""What the ranks of a group do that are not the first: what rank 0 orders, between inner steps.

The other side is `peer.loop.sharded`; why no rank waits for ever is in `peer.loop.orders`.
"""

import torch.distributed as dist
from torch import nn

from optim.inner import InnerOptimizer
from peer.loop.evaluation import Evaluation
from peer.loop.interrupt import Interrupt
from peer.loop.orders import Order, Orders
from peer.loop.outline import unpacked
from peer.loop.shards import Shards
from peer.train.model import layout_of_run
from protocol.errors import LocalProtocolError
from protocol.manifest import Manifest, parse_manifest


class Follower:
    """A rank that is not the first; made when rank 0 makes its learner.

    Making one waits until rank 0 has found its run.

    Args:
        model: This rank's, after `fully_shard`, or in DistributedDataParallel.
        optimizer: Its inner optimizer.
        group: Who takes part; everybody if None.
        orders: The line to rank 0, if it is there already.
        evaluation: As on rank 0.

    Attributes:
        manifest: The run.
        steps: Inner steps done, on the run's count.
        has_left: There are no further steps.

    Raises:
        ConfigError: on all ranks, if on one of them the model is not that of the run.
        ThinwireError: rank 0 has stopped.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: InnerOptimizer,
        group: dist.ProcessGroup | None = None,
        *,
        orders: Orders | None = None,
        evaluation: Evaluation | None = None,
    ) -> None:
        self.steps = 0
        self.has_left = False
        self._interrupt = Interrupt()
        self._orders = orders or Orders(group)
        self._evaluation = evaluation
        order, _, payload = self._orders.take()
        if order != Order.BEGIN:
            raise LocalProtocolError(f"rank 0 began with {order.name}")
        self.manifest: Manifest = parse_manifest(payload)
        layout = layout_of_run(self.manifest)
        self._shards = Shards(model, optimizer, layout, self._orders)

    def step(self, tokens: int) -> None:
        """Say that an inner step is made, and do what is ordered until the next may follow.

        Args:
            tokens: In this rank's part of the step.

        Raises:
            ThinwireError: rank 0 has stopped.
        """
        self._orders.totals(tokens, self._interrupt.has_come)
        self.follow()

    def follow(self) -> None:
        """Do what is ordered until the next inner step may follow, or until rank 0 leaves.

        Raises:
            ThinwireError: rank 0 has stopped.
        """
        while True:
            order, argument, payload = self._orders.take()
            fragment = None if argument < 0 else argument
            match order:
                case Order.GO_ON | Order.LEAVE:
                    self.steps = argument
                    self.has_left = order == Order.LEAVE
                    if self.has_left:
                        self._interrupt.release()
                    else:
                        self._interrupt.hold()
                    return
                case Order.GIVE:
                    self._shards.gather(fragment, None)
                case Order.TAKE:
                    self._shards.scatter(fragment, None)
                case Order.GIVE_STATE:
                    self._shards.gather_state(unpacked(payload))
                case Order.TAKE_STATE:
                    self._shards.scatter_state(unpacked(payload), None)
                case Order.EVALUATE:
                    self._evaluate()
                case _:
                    raise LocalProtocolError(f"{order.name} in the middle of training")

    def stop(self) -> None:
        """Fail; what becomes of the others is torchrun's affair."""
        self._interrupt.release()

    def _evaluate(self) -> None:
        can = self._evaluation is not None
        self._orders.agree(None if can else "give join(evaluate=...) on all ranks, not on some")
        assert self._evaluation is not None
        self._shards.evaluate(self._evaluation)
