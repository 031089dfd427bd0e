"""Fetching the run's files from other peers, before anything is built that depends on them."""

import asyncio
from collections.abc import Container
from pathlib import Path

from peer.file_arrival import FileArrival, OnProgress
from peer.net.config import WireConfig
from peer.net.pace import NO_CAP, Cap
from peer.net.wire import GrpcWire
from peer.ports import Source, Wire
from peer.presence import Presence
from peer.run_files import files_folder, missing_files
from peer.run_folder import Run
from peer.vigil import Vigil
from protocol.errors import NotAvailable
from protocol.identity import Identity, PeerId
from protocol.machine import BlobRef
from protocol.manifest import Manifest
from protocol.messages import Note


def ignore(name: str, here_bytes: int, size_bytes: int) -> None:
    """Tells nobody."""


def spelled(name: str, here_bytes: int, size_bytes: int) -> str:
    """Returns how far a file is, for people."""
    return f"fetching the run's file {name} from another peer: {here_bytes / size_bytes:.0%}"


async def fetch_files(
    manifest: Manifest,
    folder: Path,
    wire: Wire,
    presence: Presence,
    *,
    wait_s: float,
    names: Container[str] | None = None,
    on_progress: OnProgress = ignore,
) -> None:
    """Fetches what is missing of the run's files; each is there in full or not at all.

    Args:
        manifest: Of the run.
        folder: Ours; they go to `files/` in it.
        wire: The way to others.
        presence: Who they are.
        wait_s: So long we wait when nobody gives us anything.
        names: Which of them; None for all.
        on_progress: Told how far a file is.

    Raises:
        ConfigError: nobody gives us one, or all who do give something else; or it cannot be
            written. What has come is kept.
    """
    missing = await asyncio.to_thread(missing_files, manifest, folder)
    place = files_folder(folder)
    vigil = Vigil(wire, progress_s=manifest.round.progress_s)
    for number in missing:
        spec = manifest.files[number]
        if names is not None and spec.name not in names:
            continue
        arrival = FileArrival(number, spec, place, vigil, presence)
        await arrival.run(wait_s=wait_s, on_progress=on_progress)


async def fetch_before_joining(
    run: Run,
    folder: Path,
    identity: Identity,
    presence: Presence,
    *,
    secret: bytes | None,
    wait_s: float,
    down: Cap = NO_CAP,
    on_progress: OnProgress = ignore,
) -> None:
    """Does what `fetch_files` does, over a wire of its own, if anything is missing at all.

    What a peer is made of depends on the files, so they come first; nobody can call us meanwhile.

    Args:
        run: Whose files.
        folder: Ours.
        identity: With which we ask.
        presence: Who is there.
        secret: The ticket's.
        wait_s: So long we wait when nobody gives us anything.
        down: Of what we fetch.
        on_progress: Told how far a file is.

    Raises:
        ConfigError: as `fetch_files`.
    """
    manifest = run.manifest
    if not await asyncio.to_thread(missing_files, manifest, folder):
        return
    config = WireConfig(
        run_id=manifest.run_id,
        manifest_bytes=manifest.to_bytes(),
        manifest_signature=run.signature,
        secret=secret,
        chunk_bytes=manifest.limits.chunk_bytes,
        progress_s=manifest.round.progress_s,
        max_streams_per_peer=manifest.limits.max_streams_per_peer,
        down=down,
        relay_bps=0.0,
    )
    wire = await GrpcWire.start(identity, config, inbox=_Nothing(), addresses=presence.addresses)
    try:
        wire.reach.relays_of = presence.relays
        await fetch_files(manifest, folder, wire, presence, wait_s=wait_s, on_progress=on_progress)
    finally:
        await wire.close()


class _Nothing:
    """The inbox of somebody who is not there yet."""

    def on_note(self, src: PeerId, note: Note) -> None:
        """Ignored."""

    async def blob(self, src: PeerId, ref: BlobRef) -> Source:
        """Returns nothing, ever."""
        raise NotAvailable("this peer has only just started")
