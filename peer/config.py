"""A peer's own settings: what may differ from peer to peer."""

from dataclasses import dataclass
from pathlib import Path

from peer.net.pace import NO_CAP, Cap, parse_cap
from protocol.errors import ConfigError
from protocol.ticket import Ticket


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerConfig:
    """What `thinwire join` was told."""

    ticket: Ticket
    directory: Path
    """Identity, events and checkpoints of this peer."""
    resume: bool | None = None
    """Whether to go on from the last checkpoint: True demands one, None takes one that is there,
    False begins anew."""
    device: str = "auto"
    threads: int = 0
    """CPU threads of the trainer; 0 lets torch choose."""
    max_steps: int | None = None
    listen_host: str = "127.0.0.1"
    listen_port: int = 0
    """Of the wire (gRPC); the directory listens on the next one. 0 for any."""
    announce_host: str | None = None
    """The address that others reach us at, if it is not `listen_host`."""
    up: Cap = NO_CAP
    """Of everything that is sent to other peers."""
    down: Cap = NO_CAP
    """Of everything that is fetched from them."""
    evaluate_every_rounds: int = 5
    evaluation_bytes: int = 64 * 1024
    checkpoint_every_s: float = 300.0
    keep_checkpoints: int = 2
    wait_s: float = 60.0
    """How long to look for somebody who knows the run."""
    allow_text_recipe: bool = False
    """Whether a manifest may name files of this machine as training text."""
    has_own_loop: bool = False
    """Whether a training loop of the user's own makes the steps, on data of its own."""
    domain: str | None = None
    """In a run with domains, where to train until it is done; None leaves it to the need for it."""
    insists_on_domain: bool = True
    """Whether a named domain that is done already is a mistake of the operator's."""
    watches_swarm: bool = False
    """Whether it asks the others how they are, every few seconds, for whoever looks at `view`."""
    metrics: tuple[str, int] | None = None
    """Host and port at which Prometheus may ask for metrics."""
    web: tuple[str, int] | None = None
    """Host and port of the swarm's page; who has one watches the swarm."""
    tensorboard: Path | None = None
    """The folder of this peer's files for TensorBoard."""
    wandb_project: str | None = None
    """The project at Weights & Biases that is told how it goes."""


def cap_of(option: str, text: str | None) -> Cap:
    """Returns the cap that the words after `option` mean; None for no words.

    Raises:
        ConfigError: they are no cap; names the option.
    """
    try:
        return parse_cap(text)
    except ConfigError as error:
        raise ConfigError(f"{option} {error}") from None


def parse_listen(text: str) -> tuple[str, int]:
    """Returns host and port of `HOST`, `HOST:PORT` or `:PORT`.

    Raises:
        ConfigError: it is none of them.
    """
    host, _, port = text.partition(":")
    is_number = port.isascii() and port.isdecimal()
    if port and not (is_number and int(port) < 65535):
        raise ConfigError(f"--listen {text}: the port must be a number below 65535")
    return host or "127.0.0.1", int(port or 0)


def parse_metrics(text: str) -> tuple[str, int]:
    """Returns host and port of `--metrics`; see `parse_place`.

    Raises:
        ConfigError: there are none.
    """
    return parse_place("--metrics", text)


def parse_place(option: str, text: str) -> tuple[str, int]:
    """Returns host and port of `PORT`, `:PORT`, `HOST:PORT` or `[IPv6]:PORT`, by default of ours.

    Raises:
        ConfigError: it is none of them; names the option.
    """
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdecimal() and 0 < int(port) <= 65535):
        raise ConfigError(f"{option} {text}: it is [HOST:]PORT, with a port from 1 to 65535")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)
