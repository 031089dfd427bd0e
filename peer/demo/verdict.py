"""Whether the demo showed what it promises: one sentence for each promise that was not kept.

Whose fault is an exchange that fails after the bootstrap node's death? That node takes part in no
exchange, so it could only be to blame for what living peers no longer manage among each other.
Hence every failure after its death counts, unless the peer that we had killed was one of the
partners; and each survivor has to land a round that began after the death.
"""

import math

from peer.demo import script
from peer.demo.play import Play, Played
from peer.demo.report import Report


def problems_of(report: Report, play: Play) -> list[str]:
    """Returns the sentences; none when all is well."""
    return [*_in_the_play(play), *_after_the_bootstrap(report, play), *_in_the_figures(report)]


def _in_the_play(play: Play) -> list[str]:
    problems = []
    played = {cue.cue: cue for cue in play.played}
    for cue in script.CUES:
        if cue.name not in played:
            problems.append(f"it did not happen that {cue.done}")
        elif played[cue.name].step >= play.steps:
            problems.append(f"{cue.done} only after the last step")
    newcomer = play.peers.get(script.NEWCOMER)
    if newcomer is not None and not newcomer.has_contributed:
        problems.append(f"{script.NEWCOMER} joined, but nothing landed that contains its work")
    for name in script.SURVIVORS:
        if name in play.peers and not play.peers[name].is_done:
            step = play.peers[name].step
            problems.append(f"{name} was at step {step} of {play.steps} when time was up")
    problems += [
        f"{name} did not leave within {script.LEAVE_S:g} s of Ctrl+C"
        if code is None
        else f"{name} left with exit code {code}"
        for name, code in play.exit_codes.items()
        if code != 0
    ]
    return problems


def _after_the_bootstrap(report: Report, play: Play) -> list[str]:
    death = _played(play, script.KILL_BOOTSTRAP.name)
    if death is None:
        return []
    problems = []
    for failed in report.exchanges_failed:
        if failed["t_unix_s"] > death.t_unix_s and script.VICTIM not in failed["partners"]:
            reasons = "; ".join(f"{name}: {why}" for name, why in failed["reasons"].items())
            problems.append(f"after the bootstrap node's death an exchange failed ({reasons})")
    for name in script.SURVIVORS:
        if name in play.peers and not _has_landed_after(play, name, death.t_unix_s):
            problems.append(f"{name} landed no round that began after the bootstrap node's death")
    return problems


def _has_landed_after(play: Play, name: str, t_unix_s: float) -> bool:
    view = play.peers[name]
    begun = {
        event["exchange_id"]
        for event in view.all("exchange_begins")
        if event["t_unix_s"] > t_unix_s
    }
    return any(event["exchange_id"] in begun for event in view.all("landed"))


def _in_the_figures(report: Report) -> list[str]:
    problems = []
    end, start, alone = (
        report.end_bits_per_byte,
        report.start_bits_per_byte,
        report.alone_bits_per_byte,
    )
    if math.isnan(end):
        problems.append("a survivor left no checkpoint, so the swarm's model was not measured")
    elif end >= script.BETTER_THAN_START * start:
        problems.append(f"the swarm's model hardly learned: {start:.3f} -> {end:.3f} bits/byte")
    if math.isnan(alone):
        problems.append("the replica that trained alone did not get to its last step")
    elif end >= alone:
        problems.append(
            f"the swarm's model ({end:.3f} bits/byte) is not better than the replica "
            f"that trained alone ({alone:.3f})"
        )
    if report.times_fewer_bytes < script.FEWEST_TIMES_FEWER_BYTES:
        problems.append(
            f"a peer sent only {report.times_fewer_bytes:.0f} times fewer bytes than data "
            f"parallel, of at least {script.FEWEST_TIMES_FEWER_BYTES:.0f}"
        )
    return problems


def _played(play: Play, name: str) -> Played | None:
    return next((played for played in play.played if played.cue == name), None)
