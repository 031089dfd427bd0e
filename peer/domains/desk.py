"""What others may have of a peer in a run with domains: its own domain's, and states it keeps."""

from dataclasses import replace

from peer.domains.kept import KeptStates
from peer.ports import Inbox, Source
from protocol.errors import NotAvailable
from protocol.identity import PeerId
from protocol.machine import BlobRef
from protocol.messages import Note


class Desk:
    """Implements `peer.ports.Inbox`.

    Args:
        domain: In which we train; empty while we train nowhere.
        trained: Who answers for it.
        kept: What we have of all others, and of it as long as there is nothing newer.
    """

    def __init__(self, domain: str, trained: Inbox | None, kept: KeptStates) -> None:
        self._domain = domain
        self._trained = trained
        self._kept = kept

    def on_note(self, src: PeerId, note: Note) -> None:
        """A note came in, of our own domain: the wire has seen to that."""
        if self._trained is not None:
            self._trained.on_note(src, note)

    async def blob(self, src: PeerId, ref: BlobRef) -> Source:
        """Returns what `src` asked for; see `peer.ports.Inbox`.

        Raises:
            NotAvailable: with the reason that `src` may read.
        """
        if self._trained is None or ref.domain != self._domain:
            return await self._kept.blob(ref)
        try:
            return await self._trained.blob(src, replace(ref, domain=""))
        except NotAvailable:
            if ref.kind == "state" and ref.exchange_id:
                return await self._kept.blob(ref)
            raise
