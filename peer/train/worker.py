"""The trainer process: `python -m peer.train.worker`, started by `peer.train.launch`.

It opens no connection: it is given one end of a socketpair, the shared memory, and the path of a
configuration file. It exits when its parent does.

With `--alone STEPS` there is no parent to talk to: it trains by itself, writes the reports of
`peer.train.lines` to standard output, and the final parameters, `theta` `[n]`, to `--out`.

Exit codes: 0 left or orphaned, 1 failed, 2 the operator has to change something.
"""

import argparse
import ctypes
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from peer.train.channel import LineChannel
from peer.train.lines import Failed, Message, to_line
from protocol.errors import ConfigError

# Whatever imports torch is imported in functions: that takes seconds, in which Ctrl-C is ours too.

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1


def main(argv: list[str] | None = None) -> int:
    """Run a trainer process; return its exit code."""
    arguments = _parse(argv)
    logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stderr)
    if arguments.alone is not None:
        return _guard(lambda: _run_alone(arguments), _say)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the parent says when
    _die_with_parent()
    channel = LineChannel(socket.socket(fileno=arguments.socket_fd))
    try:
        return _guard(lambda: _run(arguments, channel), channel.send)
    finally:
        channel.close()


def _run(arguments: argparse.Namespace, channel: LineChannel) -> None:
    from peer.run_files import files_folder
    from peer.train.config import read_config
    from peer.train.data import check_validation
    from peer.train.interchange import Interchange
    from peer.train.model import layout_of_run
    from peer.train.replica import Replica, choose_device
    from peer.train.run_text import text_of_run
    from peer.train.trainer import Trainer

    config, manifest = read_config(arguments.config)
    _use_threads(config.threads)
    # Sizes first: a disagreement should not have to wait for the text.
    num_elements = layout_of_run(manifest).num_elements
    interchange = Interchange.open(arguments.buffers_fd, num_elements)
    device = choose_device(config.device)
    corpus = text_of_run(manifest, files_folder(Path(config.manifest).parent))
    trainer = Trainer(
        Replica(manifest, corpus, peer_id=config.peer_id, device=device),
        interchange,
        channel,
        data=corpus.description,
        validation_problem=check_validation(corpus, manifest.data),
        max_steps=config.max_steps,
        evaluation_bytes=config.evaluation_bytes,
    )
    # The socket alone may be held open by another child of a dead parent.
    trainer.run(is_wanted=lambda: os.getppid() == arguments.parent_pid)


def _run_alone(arguments: argparse.Namespace) -> None:
    import torch

    from peer.run_files import files_folder
    from peer.train.alone import train_alone
    from peer.train.config import read_config
    from peer.train.replica import choose_device
    from peer.train.tensor_file import write_tensors

    config, manifest = read_config(arguments.config)
    _use_threads(config.threads)
    alone = train_alone(
        manifest,
        arguments.alone,
        peer_id=config.peer_id,
        device=choose_device(config.device),
        files=files_folder(Path(config.manifest).parent),
        evaluate_every_steps=arguments.evaluate_every,
        evaluation_bytes=config.evaluation_bytes,
        on_report=_say,
    )
    if arguments.out is not None:
        theta = torch.empty(alone.replica.layout.num_elements)
        alone.replica.snapshot(theta)
        write_tensors(arguments.out, {"theta": theta})


def _guard(work: Callable[[], None], send: Callable[[Message], None]) -> int:
    try:
        work()
    except ConfigError as error:
        log.error("%s", error)
        send(Failed(reason=str(error), is_config=True))
        return 2
    except Exception as error:  # the boundary: whatever it was, the parent must learn
        log.exception("the trainer failed")
        send(Failed(reason=f"{type(error).__name__}: {error}"[:2000]))
        return 1
    return 0


def _say(message: Message) -> None:
    sys.stdout.buffer.write(to_line(message))
    sys.stdout.buffer.flush()


def _use_threads(threads: int) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)


def _die_with_parent() -> None:
    # In the middle of a long step, too. Elsewhere the check between two steps has to do.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m peer.train.worker")
    parser.add_argument("--config", type=Path, required=True, help="a TrainerConfig as JSON")
    parser.add_argument("--socket-fd", type=int, help="our end of the socketpair")
    parser.add_argument("--buffers-fd", type=int, help="the shared memory")
    parser.add_argument("--parent-pid", type=int, help="exit when our parent is another")
    parser.add_argument("--alone", type=int, metavar="STEPS", help="train without a swarm")
    parser.add_argument("--evaluate-every", type=int, default=0, metavar="STEPS")
    parser.add_argument("--out", type=Path, help="where --alone writes the final parameters")
    arguments = parser.parse_args(argv)
    given = (arguments.socket_fd, arguments.buffers_fd, arguments.parent_pid)
    if arguments.alone is None and None in given:
        parser.error("give --socket-fd, --buffers-fd and --parent-pid, or --alone")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
