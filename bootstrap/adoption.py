"""A bootstrap node for a run that others founded: all it takes is a ticket and somebody who lives.

The manifest comes from any peer or node, and is believed because the ticket has its hash and its
founder's key. The founder's own key is not needed: nothing is signed with it any more.
"""

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path

from bootstrap.found import SECRET, write_secret
from peer.config import PeerConfig
from peer.entry import find_run
from peer.fetch_files import fetch_before_joining, spelled
from peer.net.address_book import AddressBook
from peer.net.directory_hivemind import HivemindDirectory
from peer.presence import Presence
from peer.run_files import missing_files
from peer.run_folder import read_run, write_run
from protocol.identity import Identity
from protocol.ticket import Ticket


async def adopt(
    ticket: Ticket,
    folder: Path,
    *,
    wait_s: float,
    on_progress: Callable[[str], None] = lambda words: None,
) -> None:
    """Writes what `serve` needs of the run that a ticket is for, unless it is there already.

    Args:
        ticket: With the secret, if the run is by invitation.
        folder: Of the new node.
        wait_s: So long somebody who knows the run is looked for, or has its files.
        on_progress: Told how far its files are.

    Raises:
        ConfigError: nobody could tell us, or the folder is another run's.
    """
    run = read_run(folder, ticket)
    if run is not None and not await asyncio.to_thread(missing_files, run.manifest, folder):
        _keep_secret(ticket, folder)
        return
    stranger = Identity(secrets.token_bytes(32))  # the node itself comes when it can serve
    directory = await HivemindDirectory.start(
        stranger, ticket.run_id, bootstrap=ticket.addresses, book=AddressBook()
    )
    try:
        config = PeerConfig(ticket=ticket, directory=folder, wait_s=wait_s)
        presence = Presence(directory, stranger.peer_id)
        if run is None:
            run = await find_run(stranger, config, presence)
            write_run(folder, run)
            _keep_secret(ticket, folder)
        await fetch_before_joining(
            *(run, folder, stranger, presence),
            secret=ticket.secret,
            wait_s=wait_s,
            on_progress=lambda *far: on_progress(spelled(*far)),
        )
    finally:
        await directory.close()


def _keep_secret(ticket: Ticket, folder: Path) -> None:
    path = folder / SECRET
    if ticket.secret is not None and not path.exists():
        write_secret(path, ticket.secret)
