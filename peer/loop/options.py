"""What a loop may say of its peer: the options of `thinwire join`, as far as a loop has a use."""

from pathlib import Path

from peer.config import PeerConfig, cap_of, parse_listen
from peer.run_folder import folder_here, read_ticket, with_kept_addresses
from peer.train.lines import Join
from protocol.errors import ConfigError
from protocol.ticket import Ticket, parse_ticket

LONGEST_PATH = 250
"""A longer word is a ticket; file systems refuse to look for it."""


def ticket_and_folder(ticket: str | Path | None, folder: Path | None) -> tuple[Ticket, Path]:
    """Returns the ticket that somebody means, and the peer's folder.

    Args:
        ticket: A ticket, or a file or folder that holds one; None for the folder's own.
        folder: None for `thinwire-RUN` here.

    Raises:
        ConfigError: there is no such ticket.
    """
    if ticket is None:
        folder = folder or folder_here(Path())
        return read_ticket(folder), folder.resolve()
    word = str(ticket)
    is_path = isinstance(ticket, Path) or (len(word) < LONGEST_PATH and Path(word).exists())
    parsed = read_ticket(Path(word)) if is_path else parse_ticket(word)
    folder = folder or Path(f"thinwire-{parsed.run_id[:12]}")
    return with_kept_addresses(parsed, folder), folder.resolve()


def config_of(join: Join) -> PeerConfig:
    """Returns the settings of a peer whose trainer is a loop.

    Raises:
        ConfigError: names the option that is wrong.
    """
    host, port = parse_listen(join.listen)
    if join.checkpoint_every_s < 1 or join.keep_checkpoints < 1 or join.wait_s <= 0:
        raise ConfigError("checkpoint_every, keep and wait must be at least 1")
    return PeerConfig(
        ticket=parse_ticket(join.ticket),
        directory=Path(join.directory),
        resume=join.resume,
        listen_host=host,
        listen_port=port,
        announce_host=join.announce,
        up=cap_of("up", join.up),
        down=cap_of("down", join.down),
        evaluate_every_rounds=join.evaluate_every_rounds,
        checkpoint_every_s=join.checkpoint_every_s,
        keep_checkpoints=join.keep_checkpoints,
        wait_s=join.wait_s,
        has_own_loop=True,
    )
