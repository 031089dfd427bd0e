"""A directory in memory where peers of a run with domains meet, for tests."""

from peer.net.directory_memory import MemoryBoard, MemoryDirectory
from peer.net.record_rules import RecordRules
from peer.presence import CARD_LIFETIME_S, Presence
from peer.sim.clock import VirtualClock
from peer.sim.loop import VirtualLoop
from protocol.card import TOPIC, Card, parse_card
from protocol.errors import TransportError
from protocol.identity import Identity, PeerId
from protocol.manifest import Manifest
from protocol.record import Record

NOW_UNIX_S = 1_800_000_000.0
IDENTITIES = [Identity(bytes([n]) * 32) for n in range(1, 20)]
IDS = [identity.peer_id for identity in IDENTITIES]


class Hall:
    """See the module docstring. Cards stay until others take their place."""

    def __init__(self, run: Manifest) -> None:
        self.loop = VirtualLoop(VirtualClock())  # type: ignore[abstract]
        self.board = MemoryBoard(RecordRules(run.run_id), lambda: NOW_UNIX_S)
        self.is_out_of_reach = False
        self._directories = [MemoryDirectory(identity, self.board) for identity in IDENTITIES]

    def enter(self, number: int) -> Presence:
        return Presence(_Door(IDENTITIES[number], self), IDS[number])

    def show(self, number: int, card: Card) -> None:
        """Somebody publishes a card."""
        directory, payload = self._directories[number], card.to_bytes()
        work = directory.publish(TOPIC, payload, lifetime_s=CARD_LIFETIME_S)
        self.loop.run_until_complete(work)

    def card_of(self, number: int) -> Card | None:
        """The card of somebody, as all see it."""
        records = self.loop.run_until_complete(self._directories[0].read(TOPIC))
        cards: dict[PeerId, Card] = {r.owner: parse_card(r.payload) for r in records}
        return cards.get(IDS[number])


class _Door(MemoryDirectory):
    def __init__(self, identity: Identity, hall: Hall) -> None:
        super().__init__(identity, hall.board)
        self._hall = hall

    async def publish(self, topic: str, payload: bytes, *, lifetime_s: float) -> None:
        if self._hall.is_out_of_reach:
            raise TransportError("nobody could store it")
        await super().publish(topic, payload, lifetime_s=lifetime_s)

    async def read(self, topic: str) -> list[Record]:
        if self._hall.is_out_of_reach:
            raise TransportError("nobody could be asked")
        return await super().read(topic)
