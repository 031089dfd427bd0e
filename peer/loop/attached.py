"""The loop that started this process, as a peer's trainer: it is there already, and stays the same.

The loop's process has the socket's other end, and has made the shared memory for its model.
"""

from collections.abc import AsyncIterator
from pathlib import Path

from optim.layout import Layout
from peer.train import lines
from peer.train.channel import AsyncLineChannel
from peer.train.config import TrainerConfig
from peer.train.interchange import Interchange
from peer.trainer_port import OnNews, TrainerPort
from peer.waits import Waits


class Attached:
    """The parent process as the only trainer; see `peer.trainer_port.Trainers`.

    Args:
        channel: The lines to it. They stay open when the peer is done with its trainer.
        buffers_fd: The shared memory, of the size of its model.
    """

    comes_back = False

    def __init__(self, channel: AsyncLineChannel, buffers_fd: int) -> None:
        self._channel = channel
        self._buffers_fd = buffers_fd

    def on_found(self, manifest: Path, run_id: str) -> None:
        """Let the loop see whether its model is the run's."""
        self._channel.send(lines.Found(manifest=str(manifest), run_id=run_id))

    async def open(
        self,
        config: TrainerConfig,
        folder: Path,
        layout: Layout,
        *,
        on_news: OnNews,
        waits: Waits,
    ) -> TrainerPort:
        """Returns the port to the loop, which says hello when it has seen the manifest.

        Raises:
            ConfigError: its model has another size than the run's.
        """
        interchange = Interchange.open(self._buffers_fd, layout.num_elements)
        return TrainerPort(
            _Parent(), _Shared(self._channel), interchange, layout, on_news=on_news, waits=waits
        )


class _Parent:
    """A process that we did not start, and do not end."""

    def wait(self, timeout: float | None = None) -> int:
        """Returns at once: whether it is gone, its socket says."""
        return 0

    def kill(self) -> None:
        """Does nothing."""


class _Shared:
    """Lines that the peer does not close: something is still to be said when it has ended."""

    def __init__(self, channel: AsyncLineChannel) -> None:
        self._channel = channel

    def send(self, message: lines.Message) -> None:
        """Queues a message."""
        self._channel.send(message)

    def __aiter__(self) -> AsyncIterator[lines.Message]:
        """Yields messages until the loop's process is gone."""
        return aiter(self._channel)

    async def close(self) -> None:
        """Does nothing."""
