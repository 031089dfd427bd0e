"""One file of the run on its way here, from one peer after another.

It comes in windows of about a second each, over as many connections as the link has use for; when
a peer fails, the next one goes on where it stopped. What has come is in `files/NAME.part`, always
from the beginning without gaps, so another life goes on there, too.

Only the whole file has a digest. If it is wrong and one peer gave all of it, that peer is asked no
more; if several did, the file is fetched again, from one peer alone.
"""

import asyncio
import contextlib
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from peer.file_window import FileWindow
from peer.presence import Presence
from peer.run_files import GRAIN_BYTES, digest_of
from peer.vigil import Vigil
from protocol.errors import ConfigError, RemoteError, TransportError
from protocol.identity import PeerId
from protocol.machine import BlobRef
from protocol.manifest import FileSpec

ASK_AGAIN_S = 0.3
FIRST_WINDOW_BYTES = 4 * GRAIN_BYTES
MAX_WINDOW_BYTES = 128 * GRAIN_BYTES
"""It is in memory until it is complete."""
WINDOW_S = 1.0
SLOW_S = 15.0
"""After a window that took so long it is the next peer's turn."""
LONGEST_S = 180.0
"""No window takes longer: a trickle is progress, but would hold us for hours."""

OnProgress = Callable[[str, int, int], None]
"""Told a file's name, how many bytes of it are here, and of how many."""


class FileArrival:
    """See the module docstring.

    Args:
        number: Of the file, in the manifest.
        spec: What the manifest says of it.
        place: The folder that it comes to.
        vigil: The way to others.
        presence: Who they are.
    """

    def __init__(
        self, number: int, spec: FileSpec, place: Path, vigil: Vigil, presence: Presence
    ) -> None:
        self._ref = BlobRef("file", part=number)
        self._spec = spec
        self._path = place / spec.name
        self._part = place / f"{spec.name}.part"
        self._vigil = vigil
        self._presence = presence
        self._here_bytes = 0
        self._turn: list[PeerId] = []
        """Whom to ask next."""
        self._givers: set[PeerId | None] = set()
        """Whose bytes are here; None stands for those of a former life."""
        self._liars: set[PeerId] = set()
        self._is_from_one = False
        """Whether it is to come from one peer alone."""
        self._problem = "nobody who has it is there"

    async def run(self, *, wait_s: float, on_progress: OnProgress) -> None:
        """Returns when it is here.

        Args:
            wait_s: So long we wait when nobody gives us anything.
            on_progress: Told how far it is.

        Raises:
            ConfigError: nobody gives it to us, or all who do give something else; or it cannot be
                written. What has come is kept.
        """
        try:
            self._begin()
            while not await self._fetch(wait_s, on_progress):
                self._doubt()
            self._part.replace(self._path)
        except OSError as error:
            raise ConfigError(
                f"cannot write {self._part}: {error.strerror}; free some disk space and come "
                "again: it goes on from what is there"
            ) from None

    def _begin(self) -> None:
        self._part.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self._here_bytes = self._part.stat().st_size
            self._givers = {None}
        if self._here_bytes > self._spec.size_bytes:
            self._begin_anew()
        if self._here_bytes < self._spec.size_bytes:
            self._here_bytes -= self._here_bytes % GRAIN_BYTES
        needed_bytes = self._spec.size_bytes - self._here_bytes
        free_bytes = shutil.disk_usage(self._part.parent).free
        if needed_bytes > free_bytes:
            raise ConfigError(
                f"no room for {self._path}: {needed_bytes / 1e6:.1f} MB of it are still to come, "
                f"{free_bytes / 1e6:.1f} MB are free"
            )

    def _begin_anew(self) -> None:
        self._part.unlink(missing_ok=True)
        self._here_bytes = 0
        self._givers.clear()

    async def _fetch(self, wait_s: float, on_progress: OnProgress) -> bool:
        """Fetches the rest, from whoever has it; returns whether it is what the manifest says."""
        loop = asyncio.get_running_loop()
        moved_s = loop.time()
        while self._here_bytes < self._spec.size_bytes:
            donor = await self._next_donor()
            if donor is not None:
                before_bytes = self._here_bytes
                await self._fetch_from(donor, on_progress)
                if self._here_bytes > before_bytes:
                    moved_s = loop.time()
            if not self._turn and loop.time() > moved_s + wait_s:
                raise ConfigError(
                    f"nobody gave us the run's file {self._spec.name} within {wait_s:g} s "
                    f"({self._problem}); is a peer or a bootstrap node of the run there? What has "
                    "come is kept"
                )
        return await asyncio.to_thread(self._is_right)

    async def _next_donor(self) -> PeerId | None:
        """Returns whom to ask; None if we know nobody just now, or had asked them all."""
        if not self._turn:
            cards = self._presence.cards.items()
            self._turn = [
                peer
                for peer, card in cards
                if peer not in self._liars
                and card.role != "left"
                and (card.wire_addresses or card.relays)
            ]
            random.shuffle(self._turn)  # not all newcomers shall ask the same peer
            if not self._turn:
                await self._rest()
                return None
        return self._turn.pop()

    async def _rest(self) -> None:
        await asyncio.sleep(ASK_AGAIN_S)
        await self._presence.refresh_quietly()

    async def _fetch_from(self, donor: PeerId, on_progress: OnProgress) -> None:
        """Fetches window after window, until all is here or the peer fails without any."""
        loop = asyncio.get_running_loop()
        size_bytes, window_bytes = self._spec.size_bytes, FIRST_WINDOW_BYTES
        if self._is_from_one and self._givers - {donor}:
            self._begin_anew()
        while self._here_bytes < size_bytes:
            stop = min(size_bytes, self._here_bytes + window_bytes)
            window = FileWindow(
                size_bytes,
                *(self._here_bytes, stop),
                on_bytes=lambda here_bytes: on_progress(self._spec.name, here_bytes, size_bytes),
            )
            began_s = loop.time()
            try:
                async with asyncio.timeout(LONGEST_S):
                    await self._vigil.fetch(donor, self._ref, window)
            except TimeoutError:
                self._problem = f"{donor} is too slow"
                return
            except (RemoteError, TransportError) as error:
                self._problem = f"{donor}: {error}"
                if not window.prefix:
                    if not self._turn:
                        await self._rest()
                    return
            finally:  # also when we are told to leave
                if window.prefix:
                    await asyncio.to_thread(self._append, window.prefix)
                    self._givers.add(donor)
            took_s = loop.time() - began_s
            if took_s > SLOW_S and not self._is_from_one:
                return  # the next one may be faster
            if took_s < WINDOW_S:
                window_bytes = min(MAX_WINDOW_BYTES, 2 * window_bytes)
            else:
                window_bytes = max(GRAIN_BYTES, window_bytes // 2)

    def _append(self, data: memoryview) -> None:
        with self._part.open("ab", buffering=0) as file:
            file.truncate(self._here_bytes)  # a full disk may have taken half of what we gave it
            while data:
                taken_bytes = file.write(data)
                self._here_bytes += taken_bytes
                data = data[taken_bytes:]

    def _is_right(self) -> bool:
        with self._part.open("rb") as file:
            os.fsync(file.fileno())
        return digest_of(self._part) == self._spec.digest

    def _doubt(self) -> None:
        """What is here is not the file."""
        if len(self._givers) == 1 and None not in self._givers:
            self._liars |= {giver for giver in self._givers if giver is not None}
        givers = ", ".join(giver or "a former life" for giver in self._givers)
        self._problem = f"what came from {givers} is not the file that the manifest names"
        self._is_from_one = True
        self._begin_anew()
