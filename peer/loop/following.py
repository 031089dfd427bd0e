"""The other ranks' view of the swarm: rank 0 speaks for the group, and they do as it orders."""

from torch import Tensor

from peer.loop.follower import Follower
from peer.loop.swarm import Swarm, SwarmStatus, token_count


class Following(Swarm):
    """What `join` returns on a rank that is not the first.

    Args:
        follower: It holds the swarm's state.
        max_steps: As on rank 0.
    """

    def __init__(self, follower: Follower, *, max_steps: int | None) -> None:
        self._follower = follower
        self._max_steps = max_steps
        self._tokens = 0

    @property
    def step_count(self) -> int:
        """Inner steps done, on the run's count."""
        return self._follower.steps

    @property
    def is_done(self) -> bool:
        """Whether `max_steps` are made."""
        return self._max_steps is not None and self.step_count >= self._max_steps

    @property
    def status(self) -> SwarmStatus:
        """Where this rank is; of others only rank 0 knows."""
        return SwarmStatus(
            phase="following rank 0", step=self.step_count, tokens=self._tokens, is_alone=False
        )

    def step(self, tokens: int | None = None, loss: Tensor | float | None = None) -> None:
        """Count one inner step; what is reported as its loss is rank 0's."""
        num_tokens = token_count(tokens)
        self._tokens += num_tokens
        self._follower.step(num_tokens)
        if self._follower.has_left:
            raise KeyboardInterrupt

    def leave(self) -> None:
        """Help rank 0 with its last checkpoint, until it has left."""
        if not self._follower.has_left:
            self._follower.follow()

    def fail(self, error: BaseException) -> None:
        """Stop following; torchrun ends the others, too."""
        self._follower.stop()
