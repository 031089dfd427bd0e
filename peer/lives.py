"""A peer's lives, one after the other: when its trainer dies, the peer comes back by itself.

A peer is three processes, and the trainer is the one that a full memory, a broken driver or a flaky
device ends. The rest is then torn down in order, and the next life begins in this process: with the
same identity, a new name for the life, and the state of the last checkpoint, or else of the swarm.
To the others it is a peer that was gone for some seconds. What it did after the checkpoint is lost
to itself only: what the others have averaged, they have.
"""

import asyncio
import contextlib
import logging
from dataclasses import replace

from peer.app import Peer
from peer.config import PeerConfig
from peer.status import PeerStatus
from peer.trainer_port import TrainerGone

logger = logging.getLogger(__name__)

MAX_DEATHS = 3
WITHIN_S = 600.0
"""More than `MAX_DEATHS` deaths in so short a time have a cause that another life would meet."""
PAUSE_S = 2.0
"""After each death of late, so much longer before the next life: memory may be freed meanwhile."""


class Lives:
    """See the module docstring. `await lives.live()`; `lives.leave()` ends it in order.

    Args:
        config: What the operator wants.
    """

    def __init__(self, config: PeerConfig) -> None:
        self.status = PeerStatus()
        self._config = config
        self._peer = Peer(config, self.status)
        self._leave = asyncio.Event()
        self._deaths_s: list[float] = []

    def leave(self) -> None:
        """Ends `live` in order, with a last checkpoint."""
        self._leave.set()
        self._peer.leave()

    async def live(self) -> None:
        """Joins, trains and leaves; comes back as often as that makes sense.

        Raises:
            ConfigError: something that the operator can change.
            TrainerGone: the trainer process dies again and again.
        """
        while True:
            try:
                await self._peer.live()
                return
            except TrainerGone as error:
                await self._mourn(error)
            if self._leave.is_set():
                return
            # Those whom it knew last let it in again; what was begun anew is not mixed with before.
            resume = None if self._peer.checkpoint_step is not None else self._config.resume
            config = replace(self._config, ticket=self._peer.ticket, resume=resume)
            self._peer = Peer(config, self.status)

    async def _mourn(self, error: TrainerGone) -> None:
        """Waits before the next life.

        Raises:
            TrainerGone: there were too many.
        """
        now_s = asyncio.get_running_loop().time()
        self._deaths_s = [*(at_s for at_s in self._deaths_s if at_s > now_s - WITHIN_S), now_s]
        num_deaths = len(self._deaths_s)
        if num_deaths > MAX_DEATHS:
            raise TrainerGone(
                f"{error}: for the {num_deaths}th time within {WITHIN_S / 60:.0f} minutes, so this "
                f"peer ends; {self._config.directory / 'peer.log'} may say more",
                error.exit_code,
            )
        logger.warning("%s; beginning again", error)
        pause_s = PAUSE_S * num_deaths
        with (
            self.status.waits.on("the next life", within_s=pause_s),
            contextlib.suppress(TimeoutError),
        ):
            async with asyncio.timeout(pause_s):
                await self._leave.wait()
