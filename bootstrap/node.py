"""A bootstrap node: an entrance to the swarm that has the manifest and the run's files.

It trains nothing.

It may die at any time: peers that know each other need it no more, and any peer's own ticket lets
others in. A run may have several nodes, started anywhere (`bootstrap.adoption`): they find each
other like peers do.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from bootstrap.found import SECRET, read_secret
from peer.identity_file import load_identity
from peer.net.address_book import PEERS, AddressBook
from peer.net.config import WireConfig
from peer.net.directory_hivemind import HivemindDirectory
from peer.net.pace import NO_CAP, Cap
from peer.net.wire import GrpcWire
from peer.ports import Source
from peer.presence import Presence, wire_addresses
from peer.run_files import FilesInbox, files_folder, missing_files
from peer.run_folder import MANIFEST, SIGNATURE, TicketFile, read_ticket
from peer.watch.observer import Observer
from protocol.card import Card
from protocol.errors import ConfigError, NotAvailable, RemoteError, TransportError
from protocol.identity import PeerId
from protocol.machine import BlobRef
from protocol.manifest import Manifest, parse_manifest, verify_manifest
from protocol.messages import Note
from protocol.ticket import Address, Ticket

NODE_KEY = "node.key"
RELAY_BPS = 10e6
"""A node that trains nothing has most of its link to give; --up bounds that too."""


class NoInbox:
    """A bootstrap node takes part in nothing."""

    def on_note(self, src: PeerId, note: Note) -> None:
        """Ignored: a peer that still takes us for one of its kind will learn better."""

    async def blob(self, src: PeerId, ref: BlobRef) -> Source:
        """Returns nothing, ever.

        Raises:
            NotAvailable: always.
        """
        raise NotAvailable("this is a bootstrap node: it holds no model")


async def _require_files(manifest: Manifest, folder: Path) -> None:
    """Refuses to serve a run whose files are not here: nobody could begin."""
    missing = await asyncio.to_thread(missing_files, manifest, folder)
    if missing:
        name = manifest.files[missing[0]].name
        raise ConfigError(
            f"{files_folder(folder) / name} is missing, or is not the file that the manifest "
            f"names; put it back, or start this node with a ticket of the run and --dir {folder}"
        )


async def serve(
    folder: Path,
    *,
    listen_host: str,
    listen_port: int,
    announce_host: str | None,
    on_ready: Callable[[Ticket], None],
    on_refresh: Callable[[Presence], None],
    on_notice: Callable[[str], None],
    entrances: Sequence[Address] = (),
    up: Cap = NO_CAP,
    down: Cap = NO_CAP,
    on_observer: Callable[[Observer], None] | None = None,
) -> None:
    """Serves the run in `folder` until cancelled. The ticket there is kept up to date.

    Args:
        folder: Written by `found` or `adopt`.
        listen_host: Where wire and directory listen.
        listen_port: Of the wire; the directory listens on the next port. 0 for the
            ports of the last time, if they are free.
        announce_host: The address that others reach us at, if it is another one.
        on_ready: Called with the ticket once others can use it.
        on_refresh: Called every few seconds.
        on_notice: Told what the user should know, in a line.
        entrances: Where else the swarm may be entered; none of them needs to answer.
        up: Of what we send to peers.
        down: Of what we take from them.
        on_observer: Told who watches the swarm; without it nobody does.

    Raises:
        ConfigError: the folder holds no run, or we cannot listen there.
    """
    manifest, signature = _read(folder)
    await _require_files(manifest, folder)
    identity = load_identity(folder / NODE_KEY)
    secret = _secret(folder, manifest)
    former = _last_addresses(folder)
    last_ports = [address.port for address in former if address.peer_id == identity.peer_id]
    known = (*entrances, *(a for a in former if a.peer_id != identity.peer_id))
    directory = await HivemindDirectory.start(
        identity,
        manifest.run_id,
        listen_host=listen_host,
        listen_port=listen_port + 1 if listen_port else 0,
        last_port=next(iter(last_ports), 0),
        announce_host=announce_host,
        bootstrap=known,
        is_entrance=True,
        book=AddressBook.read(folder / PEERS),
        on_notice=on_notice,
    )
    presence = Presence(directory, identity.peer_id)
    config = WireConfig(
        run_id=manifest.run_id,
        manifest_bytes=manifest.to_bytes(),
        manifest_signature=signature,
        secret=secret,
        listen_host=listen_host,
        listen_port=listen_port,
        up=up,
        down=down,
        relay_bps=RELAY_BPS,
    )
    try:
        inbox = FilesInbox(NoInbox(), manifest, folder)
        wire = await GrpcWire.start(identity, config, inbox=inbox, addresses=presence.addresses)

        def card() -> Card:
            return Card(
                wire_addresses=wire_addresses(
                    directory,
                    listen_host=listen_host,
                    announce_host=announce_host,
                    port=wire.listen_port,
                ),
                multiaddrs=tuple(directory.multiaddrs()),
                role="bootstrap",
            )

        ticket = Ticket(manifest.run_id, PeerId(manifest.founder), known, secret)
        ticket_file = TicketFile(folder)

        def renew_ticket() -> None:
            nonlocal ticket
            ticket = presence.ticket(ticket)
            ticket_file.keep(ticket)

        def on_refreshed() -> None:
            renew_ticket()
            on_refresh(presence)

        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(wire.close)
            with contextlib.suppress(TransportError):
                await presence.announce(card())
            await presence.refresh_quietly()
            renew_ticket()
            if on_observer is not None:
                observer = await stack.enter_async_context(
                    _watching(manifest, presence, wire, card)
                )
                on_observer(observer)
            on_ready(ticket)
            await presence.run(card, on_refreshed)
    finally:
        await directory.close()


@contextlib.asynccontextmanager
async def _watching(
    manifest: Manifest, presence: Presence, wire: GrpcWire, card: Callable[[], Card]
) -> AsyncIterator[Observer]:
    """Asks the peers how they are while the block runs."""
    wire.reach.relays_of = presence.relays
    met: set[PeerId] = set()

    async def forget_gone() -> None:
        for peer in met - presence.reachable:
            await wire.forget(peer)
        met.clear()
        met.update(presence.reachable)

    observer = Observer(manifest, presence, wire, own=lambda: (card(), None), refresh=forget_gone)
    watching = asyncio.create_task(observer.run())
    try:
        yield observer
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def _read(folder: Path) -> tuple[Manifest, bytes]:
    try:
        data, signature = (folder / MANIFEST).read_bytes(), (folder / SIGNATURE).read_bytes()
    except OSError:
        raise ConfigError(
            f"{folder} holds no run; found one with: thinwire new run.toml --dir {folder}"
        ) from None
    try:
        manifest = parse_manifest(data)
        founder = PeerId(manifest.founder)
        verify_manifest(data, signature, run_id=manifest.run_id, founder=founder)
    except RemoteError as error:
        raise ConfigError(f"the run in {folder} is damaged: {error}") from None
    return manifest, signature


def _secret(folder: Path, manifest: Manifest) -> bytes | None:
    if manifest.membership.policy == "open":
        return None
    secret = read_secret(folder / SECRET)
    if hashlib.sha256(secret).hexdigest() != manifest.membership.invite_digest:
        raise ConfigError(f"this run is by invitation, but {folder / SECRET} is another run's")
    return secret


def _last_addresses(folder: Path) -> Sequence[Address]:
    """Returns what the ticket lists that we gave out last: old ones shall keep working."""
    try:
        return read_ticket(folder).addresses
    except ConfigError:
        return ()
