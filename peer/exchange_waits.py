"""What the exchange machines and their effects wait for, as entries of `peer.waits`."""

from contextlib import AbstractContextManager

from peer.waits import Progress, Wait, Waits
from protocol.exchange import Exchange, Phase
from protocol.machine import CatchUp, Fetch, Send, Tell

_BLOBS = {"part": "a contribution", "average": "an average"}
_BEGINNINGS = {"exchange_begins", "replay_begins"}


class ExchangeWaits:
    """Lists what the machines of one peer wait for.

    A machine is READY for as long as nobody else is, so that wait has no deadline; an exchange has
    `exchange_s`, and so has each fetch in it, for the machine ends them together. The landing is
    not listed: it waits for the trainer, and that is listed in `peer.trainer_port`.

    Args:
        waits: Where to list it.
    """

    def __init__(self, waits: Waits) -> None:
        self._waits = waits
        self._exchange: dict[int, str] = {}
        """Of each fragment, the exchange that it is in, or was last; nothing before the first."""

    def follow(self, machine: Exchange) -> None:
        """Lists what a machine waits for now; to be called after each of its events."""
        fragment = machine.config.fragment
        self._exchange.setdefault(fragment, "")
        match machine.phase:
            case Phase.READY:
                self._waits.begin(
                    self._key(fragment),
                    "partners",
                    whom=machine.waiting_for,
                    fragment=fragment,
                    until="enough peers are ready",
                )
            case Phase.EXCHANGING:
                self._waits.begin(
                    self._key(fragment),
                    "an exchange",
                    self._exchange[fragment],
                    whom=machine.waiting_for,
                    fragment=fragment,
                    within_s=machine.config.exchange_s,
                )
            case Phase.IDLE | Phase.LANDING | Phase.CATCHING_UP:
                self._waits.end(self._key(fragment))

    def hear(self, effect: Tell) -> None:
        """Notes that an exchange has begun: if it follows another one, it is a wait of its own."""
        fragment, exchange_id = effect.fields.get("fragment"), effect.fields.get("exchange_id")
        if effect.event in _BEGINNINGS and isinstance(fragment, int):
            self._exchange[fragment] = str(exchange_id)[:8]

    def fetch(
        self, effect: Fetch, exchange_s: float, progress: Progress | None = None
    ) -> AbstractContextManager[Wait]:
        """Lists a fetch while the block runs; `progress` in any unit."""
        ref = effect.ref
        return self._waits.on(
            _BLOBS[ref.kind],
            f"part {ref.part}",
            whom=(effect.src,),
            fragment=ref.fragment,
            within_s=exchange_s,
            progress=progress,
        )

    def catch_up(
        self, effect: CatchUp, progress: Progress | None = None
    ) -> AbstractContextManager[Wait]:
        """Lists the catching up while the block runs."""
        return self._waits.on(
            "an anchor",
            f"fragment {effect.fragment}",
            whom=effect.donors,
            fragment=effect.fragment,
            until="it is here, or all who have it fail",
            progress=progress,
        )

    def send(self, effect: Send) -> AbstractContextManager[Wait]:
        """Lists a note on its way while the block runs."""
        return self._waits.on(
            "an answer to a note",
            whom=(effect.dst,),
            fragment=effect.note.fragment,
            until="it is heard, or cannot be",
        )

    def close(self) -> None:
        """The machines wait no more."""
        for fragment in self._exchange:
            self._waits.end(self._key(fragment))

    @staticmethod
    def _key(fragment: int) -> tuple[str, int]:
        return "exchange", fragment
