"""`peer.train.worker`, which rests after each step; `tests.net.unhurried` starts it."""

import sys
import time

from torch import Tensor

from peer.train import worker
from peer.train.replica import Replica

REST_S = 0.02
"""A step takes about a third of it, so a trainer has a quarter of a core."""


def main() -> int:
    """Runs a trainer process; returns its exit code."""
    train_step = Replica.train_step

    def step_and_rest(replica: Replica) -> Tensor:
        step_loss = train_step(replica)
        time.sleep(REST_S)
        return step_loss

    Replica.train_step = step_and_rest  # type: ignore[method-assign]
    return worker.main()


if __name__ == "__main__":
    sys.exit(main())
