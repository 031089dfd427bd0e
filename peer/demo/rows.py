"""An actor as it is now, as one row for the screen."""

import math

from peer.demo import script
from peer.demo.cast import Actor
from peer.demo.play import Play
from peer.demo.view import Row
from peer.demo.watch import Event


def row_of(actor: Actor, play: Play) -> Row:
    """Returns the row of one actor."""
    newest: Event = {}
    phase = "serves the ticket"
    if actor.name == script.LONE and play.lone:
        newest = play.lone.newest
        phase = "done" if play.lone.is_done else "trains alone" if newest else "starting"
    elif actor.name in play.peers:
        newest, phase = play.peers[actor.name].newest, play.peers[actor.name].phase
    is_dead = actor.fate == "killed"
    return Row(
        actor.name,
        "killed" if is_dead else phase,
        newest.get("step"),
        newest.get("loss_bits_per_byte") or math.nan,
        newest.get("round"),
        newest.get("sent_bytes", math.nan),
        is_dead,
    )
