"""A peer's lives, one after the other: when its trainer dies, the peer comes back by itself.

In a run with domains a life also ends, in order, when its domain is done; the next one begins where
the peer is needed then.

A peer is three processes, and the trainer is the one that a full memory, a broken driver or a flaky
device ends. The rest is then torn down in order, and the next life begins in this process: with the
same identity, a new name for the life, and the state of the last checkpoint, or else of the swarm.
To the others it is a peer that was gone for some seconds. What it did after the checkpoint is lost
to itself only: what the others have averaged, they have.

What keeps the first life from beginning is the operator's to mend. A later life that cannot begin,
because the disk is full by then or nobody can be reached, has died as well.
"""

import asyncio
import contextlib
import gc
import logging
from dataclasses import replace

from peer.app import Peer
from peer.config import PeerConfig
from peer.life import AnotherLife
from peer.status import PeerStatus
from peer.trainer_port import TrainerGone
from peer.watch.view import SwarmView
from protocol.errors import ConfigError, ThinwireError, TransportError

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
        self._view: SwarmView | None = None
        self._leave = asyncio.Event()
        self._deaths_s: list[float] = []
        self._has_checkpoint = False
        """Whether any life has had one."""

    @property
    def view(self) -> SwarmView | None:
        """The swarm as this peer sees it, if it watches it; any thread may ask."""
        self._view = self._peer.view or self._view
        return self._view

    def leave(self) -> None:
        """Ends `live` in order, with a last checkpoint."""
        self._leave.set()
        self._peer.leave()

    async def live(self) -> None:
        """Joins, trains and leaves; comes back as often as that makes sense.

        Raises:
            ConfigError: something that the operator can change.
            TrainerGone, TransportError: one life after the other ends like this.
        """
        is_first = True
        while True:
            try:
                await self._peer.live()
                if not self._peer.goes_on or self._leave.is_set():
                    return
                is_first = False
                self._begin_again(in_another_domain=True)
                continue
            except AnotherLife:
                raise
            except (TrainerGone, ConfigError, TransportError, OSError) as error:
                if is_first and not isinstance(error, TrainerGone):
                    raise
                death = _death_by(error)
            is_first = False
            await self._mourn(death)
            if self._leave.is_set():
                return
            self._begin_again()

    def _begin_again(self, *, in_another_domain: bool = False) -> None:
        ticket = self._peer.ticket
        self._has_checkpoint |= self._peer.checkpoint_step is not None
        if in_another_domain:  # --resume and --fresh spoke of the first one
            self._config = replace(self._config, resume=None)
        # What was begun anew is not mixed with before.
        resume = None if self._has_checkpoint else self._config.resume
        # The former life goes first: two models may be more than there is memory for.
        del self._peer
        gc.collect()
        # Those whom it knew last let it in again.
        config = replace(self._config, ticket=ticket, resume=resume, insists_on_domain=False)
        self._peer = Peer(config, self.status)

    async def _mourn(self, death: ThinwireError) -> None:
        """Waits before the next life.

        Raises:
            TrainerGone, ConfigError, TransportError: there were too many deaths, this the last.
        """
        now_s = asyncio.get_running_loop().time()
        self._deaths_s = [*(at_s for at_s in self._deaths_s if at_s > now_s - WITHIN_S), now_s]
        num_deaths = len(self._deaths_s)
        if num_deaths > MAX_DEATHS:
            death.args = (
                f"{death}: for the {num_deaths}th time within {WITHIN_S / 60:.0f} minutes, so this "
                f"peer ends; {self._config.directory / 'peer.log'} may say more",
            )
            raise death
        logger.warning("%s; beginning again", death)
        pause_s = PAUSE_S * num_deaths
        with (
            self.status.waits.on("the next life", within_s=pause_s),
            contextlib.suppress(TimeoutError),
        ):
            async with asyncio.timeout(pause_s):
                await self._leave.wait()


def _death_by(error: Exception) -> ThinwireError:
    """Returns an error of the same kind that keeps no part of the life that it ended alive."""
    if isinstance(error, TrainerGone):
        return TrainerGone(str(error), error.exit_code)
    if isinstance(error, ConfigError):
        return ConfigError(str(error))
    return TransportError(str(error) or type(error).__name__)
