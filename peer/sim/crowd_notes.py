"""The notes of a peer of a crowd: real ones, of which only the size travels with them."""

from functools import partial
from typing import TYPE_CHECKING

from peer.sim.crowd_sizes import note_bytes
from protocol.identity import PeerId
from protocol.machine import Send
from protocol.messages import Propose

if TYPE_CHECKING:
    from peer.sim.crowd_peer import CrowdPeer


class CrowdNotes:
    """What a peer says to others.

    Args:
        peer: Who says it.
    """

    __slots__ = ("_crowd", "_peer")

    def __init__(self, peer: "CrowdPeer") -> None:
        self._peer = peer
        self._crowd = peer.crowd

    def send(self, effect: Send) -> None:
        """Sends a note; our peer learns if it was in vain."""
        peer, crowd, note = self._peer, self._crowd, effect.note
        num_bytes = note_bytes(note)
        peer.tally.notes += 1
        peer.tally.note_bytes += num_bytes
        if crowd.journal is not None and isinstance(note, Propose):
            crowd.write(peer.peer_id, "asks", note.exchange_id)
        crowd.network.note(peer.peer_id, effect.dst, num_bytes, partial(self._arrive, effect))

    def silence_s(self, dst: PeerId) -> float:
        """Returns how long it takes to notice that somebody is dead, from when it was asked."""
        network = self._crowd.network
        if network.hosts[dst].is_silent:
            return self._crowd.spec.progress_s
        return network.round_trip_s(self._peer.peer_id, dst) / 2

    def _arrive(self, effect: Send) -> None:
        other = self._crowd.peers.get(effect.dst)
        if other is not None:
            other.on_note(self._peer.peer_id, effect.note)
            return
        self._peer.tally.notes_to_dead += 1
        notice = partial(self._peer.on_unreachable, effect.dst)
        self._crowd.clock.after(self.silence_s(effect.dst), notice)
