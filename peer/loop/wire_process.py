"""The wire process of a training loop: `python -m peer.loop.wire_process`, started by the loop.

It is a peer like any other, except that its trainer is its parent. SIGTERM lets it leave in order;
so does the end of its parent, as far as a peer can leave whose trainer is gone. It says nothing on
the screen: what people should know goes to the parent as lines, all else to peer.log.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from pathlib import Path

from peer.app import Peer
from peer.cli.join import run_loop
from peer.log_file import LogFile
from peer.loop.attached import Attached
from peer.loop.options import config_of
from peer.status import PeerStatus
from peer.train import lines
from peer.train.channel import AsyncLineChannel
from peer.trainer_port import TrainerGone
from protocol.errors import ConfigError, LocalProtocolError, ThinwireError

logger = logging.getLogger(__name__)

NEWS_S = 0.5
PARENT_S = 1.0
"""So often we look whether our parent is there: somebody else may hold its end of the socket."""
MAX_PARTNERS = 16


def main(argv: list[str] | None = None) -> int:
    """Run a wire process; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m peer.loop.wire_process")
    parser.add_argument("--socket-fd", type=int, required=True, help="our end of the socketpair")
    parser.add_argument("--buffers-fd", type=int, required=True, help="the shared memory")
    parser.add_argument("--parent-pid", type=int, required=True, help="end when it is another")
    arguments = parser.parse_args(argv)
    run_loop(_live(arguments.socket_fd, arguments.buffers_fd, arguments.parent_pid))
    return 0


async def _live(socket_fd: int, buffers_fd: int, parent_pid: int) -> None:
    channel = await AsyncLineChannel.open(socket.socket(fileno=socket_fd))
    try:
        await _live_as_told(channel, buffers_fd, parent_pid)
    except TrainerGone:
        pass  # nobody is there to be told
    except ThinwireError as error:
        channel.send(lines.Failed(reason=str(error), is_config=isinstance(error, ConfigError)))
    except Exception as error:  # the boundary: whatever it was, the loop must learn
        logger.exception("the wire process failed")
        channel.send(lines.Failed(reason=f"{type(error).__name__}: {error}"[:2000]))
    finally:
        await channel.close()


async def _live_as_told(channel: AsyncLineChannel, buffers_fd: int, parent_pid: int) -> None:
    told = await channel.receive()
    if told is None:
        return
    if not isinstance(told, lines.Join):
        raise LocalProtocolError(f"the first line was {told}")
    _log_to(Path(told.directory))
    status = PeerStatus()
    peer = Peer(config_of(told), status, trainers=Attached(channel, buffers_fd))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, peer.leave)
    beside = asyncio.gather(_tell(channel, status), _watch_parent(parent_pid, peer, channel))
    try:
        await peer.live()
    finally:
        beside.cancel()
        await asyncio.gather(beside, return_exceptions=True)


async def _watch_parent(parent_pid: int, peer: Peer, channel: AsyncLineChannel) -> None:
    while os.getppid() == parent_pid:  # noqa: ASYNC110 - nobody could set an event
        await asyncio.sleep(PARENT_S)
    logger.info("the training loop's process is gone")
    await channel.close()  # which ends the trainer, if there is one
    peer.leave()


async def _tell(channel: AsyncLineChannel, status: PeerStatus) -> None:
    """Tells the loop how it goes, unless it has not even read what it was told before."""
    num_told = 0
    while True:
        if channel.backlog_bytes == 0:
            notices = tuple(status.notices[num_told:])
            num_told += len(notices)
            channel.send(news_of(status, notices))
        await asyncio.sleep(NEWS_S)


def news_of(status: PeerStatus, notices: tuple[str, ...]) -> lines.News:
    """Returns what the loop is told of a peer's status."""
    validation = status.validation_bits_per_byte
    return lines.News(
        phase=status.phase,
        round=status.round,
        members=len(status.members),
        partners=tuple(status.partners[:MAX_PARTNERS]),
        exchanges_done=status.exchanges_done,
        exchanges_failed=status.exchanges_failed,
        contributions=status.contributions,
        contributed_tokens=status.contributed_tokens,
        sent_bytes=status.sent_bytes,
        received_bytes=status.received_bytes,
        validation=None if validation != validation else validation,
        notices=notices,
    )


def _log_to(folder: Path) -> None:
    handler: logging.Handler = logging.NullHandler()
    with contextlib.suppress(OSError):  # the peer says so when it wants to use the folder
        handler = LogFile(folder / "peer.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


if __name__ == "__main__":
    sys.exit(main())
