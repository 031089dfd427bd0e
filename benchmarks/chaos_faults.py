"""Which fault is which, and whom it strikes."""

from benchmarks.chaos_link_faults import bridge, corrupt, halves, one_way, truncate
from benchmarks.chaos_peer_faults import (
    clock,
    disk_full,
    freeze,
    join_storm,
    kill,
    kill_bootstrap,
    kill_part,
    leave_storm,
)
from benchmarks.chaos_play import Fault
from benchmarks.chaos_schedule import KINDS, Planned
from benchmarks.chaos_seat import Seat
from benchmarks.chaos_swarm import Swarm
from peer.lives import MAX_DEATHS

AWAY = {"kill", "kill-trainer", "kill-daemon", "freeze", "leave-storm"}
"""These take a peer from its training; no more than half of all may be away at once."""
ALONE = AWAY | {"disk-full", "clock"}
"""A peer suffers one of these at a time."""
FAULTS: dict[str, Fault] = {
    "kill": kill,
    "kill-trainer": kill_part("trainer"),
    "kill-daemon": kill_part("daemon"),
    "freeze": freeze,
    "halves": halves,
    "bridge": bridge,
    "one-way": one_way,
    "corrupt": corrupt,
    "truncate": truncate,
    "disk-full": disk_full,
    "clock": clock,
    "leave-storm": leave_storm,
    "join-storm": join_storm,
    "kill-bootstrap": kill_bootstrap,
}


def whom(swarm: Swarm, fault: Planned) -> list[Seat] | None:
    """Returns the seats that a fault strikes now; None if it has to wait."""
    seats = [swarm.seats[number] for number in fault.order]
    kind, count = fault.kind, KINDS[fault.kind].count
    if kind == "kill-bootstrap":
        return [] if swarm.nodes else None
    if kind in ("halves", "bridge"):
        return seats if len(swarm.up) >= 3 else None
    if kind == "join-storm":
        chosen = [seat for seat in seats if seat.is_spare and seat.is_empty and not seat.strikes]
    else:
        chosen = [seat for seat in seats if seat.is_up and not seat.is_frozen]
    if kind in ALONE:
        chosen = [seat for seat in chosen if not seat.strikes]
    if kind == "kill-trainer":  # a peer that loses more of them gives up, and says so
        chosen = [seat for seat in chosen if seat.lost_trainers < MAX_DEATHS]
    if kind == "leave-storm":
        chosen = [seat for seat in chosen if not seat.is_spare]
    chosen = chosen[:count]
    if len(chosen) < count:
        return None
    if kind in AWAY:
        base = [seat for seat in swarm.seats if not seat.is_spare]
        away = sum(not seat.is_up or seat.is_frozen for seat in base)
        if away + count > len(base) // 2:
            return None
    return chosen
