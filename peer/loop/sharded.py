"""A peer that is a group of ranks: rank 0 speaks for all, the others do as it orders.

    rank 0    ShardedLearner   what the trainer needs of a replica; every call orders, then does
    others    Follower         does what is ordered, between its inner steps (peer.loop.follower)

The outer side (anchors, exchanges, the flat vectors) is that of any peer, on the host of rank 0.
Arithmetic of a landing is `Replica.land`'s, on rank 0: so a group lands what a peer with the whole
model would, to the bit. What is ordered, and why no rank waits for ever, is in `peer.loop.orders`.

**Ctrl+C.** Held on all ranks until the step is made; then rank 0 leaves, and they all raise.
**Tokens.** Each rank says how many tokens its own part of a step had; what counts is the sum.
**Loss.** What is reported is rank 0's. It stays on its device until then.
"""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from optim.inner import InnerOptimizer
from optim.landing import blend, rebase
from peer.loop.evaluation import Evaluation
from peer.loop.interrupt import Interrupt
from peer.loop.learner import counters
from peer.loop.orders import Order, Orders
from peer.loop.outline import outline_of, packed
from peer.loop.shards import Shards
from peer.train.model import layout_of_run
from protocol.errors import ConfigError
from protocol.manifest import Manifest


class ShardedLearner:
    """Rank 0's view of a group as a replica; a `peer.loop.learner.LoopLearner`.

    If anything raises on rank 0, here or outside, call `stop`: the others are waiting for orders.

    Args:
        model: This rank's, after `fully_shard`, or in DistributedDataParallel.
        optimizer: Its inner optimizer.
        manifest: The run.
        group: Who takes part; everybody if None.
        orders: The line to the other ranks, if it is there already.
        evaluation: How `evaluate` does it, if it can.

    Attributes:
        step: Inner steps done, on the run's count.
        tokens: Tokens that the group trained on.
        is_interrupted: Ctrl+C has reached some rank.

    Raises:
        ConfigError: on all ranks, if on one of them the model is not that of the run.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: InnerOptimizer,
        manifest: Manifest,
        group: dist.ProcessGroup | None = None,
        *,
        orders: Orders | None = None,
        evaluation: Evaluation | None = None,
    ) -> None:
        self.manifest = manifest
        self.layout = layout_of_run(manifest)
        self.step = 0
        self.tokens = 0
        self.step_tokens = 0
        self.is_interrupted = False
        self._loss: Tensor | None = None
        self._interrupt = Interrupt()
        self._orders = orders or Orders(group)
        self._evaluation = evaluation
        self._orders.give(Order.BEGIN, payload=manifest.to_bytes())
        self._shards = Shards(model, optimizer, self.layout, self._orders)
        self.device = self._shards.device

    def count(self, tokens: int, loss: Tensor | None) -> None:
        """Take note of the inner step that all ranks have just made; pairs with `Follower.step`.

        Args:
            tokens: In this rank's part of the step.
            loss: Mean loss in nats, `[]`, of this rank or, if it was reduced, of all; None if
                nobody says.
        """
        self.step_tokens, interrupts = self._orders.totals(tokens, self._interrupt.has_come)
        self.is_interrupted = interrupts > 0
        self._loss = None if loss is None else loss.detach()

    def train_step(self) -> Tensor | None:
        """Count the step that was made; return its loss in nats, on its device, if known."""
        self.step += 1
        self.tokens += self.step_tokens
        return self._loss

    def go_on(self) -> None:
        """Let the other ranks make their next inner step."""
        self._interrupt.hold()
        self._orders.give(Order.GO_ON, self.step)

    def wait(self) -> None:
        """Tell the other ranks that we are still there; call it at times while nothing happens."""
        self._orders.wait()

    def leave(self) -> None:
        """Tell the other ranks that there are no further steps."""
        self._interrupt.release()
        self._orders.give(Order.LEAVE, self.step)

    def stop(self, error: BaseException) -> None:
        """Tell the other ranks that we fail; they raise, too."""
        self._interrupt.release()
        self._orders.stop(error)

    def load(self, flat: Tensor) -> None:
        """Take all parameters from `[n]` fp32; the optimizer's state stays."""
        self._scatter(None, flat)

    def snapshot(self, out: Tensor, fragment: int | None = None) -> None:
        """Copy parameters into `[n]` fp32, one fragment's range or all. Mutates `out`."""
        self._check(out)
        self._orders.give(Order.GIVE, -1 if fragment is None else fragment)
        self._shards.gather(fragment, out)

    def land(
        self,
        fragment: int,
        anchor: Tensor,
        base: Tensor,
        *,
        alpha: float | None = None,
        planned_frac: float = 1.0,
    ) -> None:
        """Let one fragment follow a new anchor; the optimizer's state stays.

        Args:
            fragment: Which one.
            anchor: `[n]` fp32, read in the fragment's range only.
            base: `[n]` fp32, theta at departure, read in the fragment's range only.
            alpha: See `optim.landing.blend`; None is `optim.landing.rebase`.
            planned_frac: See `optim.landing.blend`.
        """
        theta = torch.empty_like(base)  # only the fragment's pages are ever touched
        self.snapshot(theta, fragment)
        span = self.layout.fragments[fragment]
        part = slice(span.start, span.stop)
        if alpha is None:
            rebase(theta[part], anchor[part], base[part])
        else:
            blend(theta[part], anchor[part], base[part], alpha, planned_frac=planned_frac)
        self._scatter(fragment, theta)

    def evaluate(self, flat: Tensor | None, *, max_bytes: int) -> float:
        """Return what the loop's own evaluation does; the parameters are unchanged afterwards.

        Args:
            flat: `[n]` fp32 parameters to evaluate; None for the group's own.
            max_bytes: Not used: the loop's evaluation knows how much it reads.

        Raises:
            ConfigError: the loop brought no evaluation.
        """
        if self._evaluation is None:
            raise ConfigError("this training loop has no evaluation: give join(evaluate=...)")
        own = None
        if flat is not None:
            own = torch.empty(self.layout.num_elements, dtype=torch.float32, device="cpu")
            self.snapshot(own)
            self.load(flat)
        self._orders.give(Order.EVALUATE)
        self._orders.agree(None)
        bits = self._shards.evaluate(self._evaluation)
        if own is not None:
            self.load(own)
        return bits

    def state(self) -> dict[str, Tensor]:
        """Return everything that `restore` needs, whole and on the CPU of rank 0.

        Raises:
            ConfigError: the optimizer keeps something other than tensors.
        """
        outlines = self._shards.outlines()
        self._orders.give(Order.GIVE_STATE, payload=packed(outlines))
        tensors = counters(step=self.step, tokens=self.tokens)
        return tensors | self._shards.gather_state(outlines)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `state` returned; training goes on as if it had not stopped.

        Raises:
            ConfigError: it is another model's, or another optimizer's.
        """
        try:
            step, tokens = int(tensors["counter.step"]), int(tensors["counter.tokens"])
        except KeyError as error:
            raise ConfigError(f"the checkpoint does not fit the model: no {error}") from error
        own = {name: tensors[name] for name in tensors if not name.startswith("counter.")}
        outlines = [outline_of(name, tensor) for name, tensor in own.items()]
        self._orders.give(Order.TAKE_STATE, payload=packed(outlines))
        self._shards.scatter_state(outlines, own)
        self.step, self.tokens = step, tokens

    def _scatter(self, fragment: int | None, flat: Tensor) -> None:
        self._check(flat)
        self._orders.give(Order.TAKE, -1 if fragment is None else fragment)
        self._shards.scatter(fragment, flat)

    def _check(self, flat: Tensor) -> None:
        # Before an order, since after it the other ranks count on us.
        num_elements = self.layout.num_elements
        if flat.shape != (num_elements,) or flat.dtype != torch.float32:
            raise ValueError(
                f"the flat vector must be [{num_elements}] float32, "
                f"not {list(flat.shape)} {flat.dtype}"
            )
