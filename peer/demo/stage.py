"""Plays the timeline: starts the actors, watches them, and does to the swarm what the cues say."""

import sys
import time
from pathlib import Path

from peer.demo import script
from peer.demo.cast import Cast
from peer.demo.play import Play, Played
from peer.demo.production import FOUNDER, Production
from peer.demo.rows import row_of
from peer.demo.screen import Screen
from peer.demo.script import Cue
from peer.demo.view import View
from peer.demo.watch import LoneView, PeerView


class Stage(Production):
    """See the module docstring.

    Args:
        cast, screen, directory, thinwire: As `Production` has them.
        steps: Inner steps that a peer makes.
        interval_steps: Inner steps between two rounds.
        lone: How the program of the lone replica is started.
    """

    first_act = "three peers start, and a replica that trains alone"

    def __init__(
        self,
        cast: Cast,
        screen: Screen,
        directory: Path,
        *,
        steps: int,
        interval_steps: int,
        thinwire: tuple[str, ...] = (sys.executable, "-m", "thinwire"),
        lone: tuple[str, ...] = (sys.executable, "-m", "peer.train.worker"),
    ) -> None:
        super().__init__(cast, screen, directory, thinwire=thinwire)
        self.play_so_far = Play(steps, interval_steps)
        self._lone = lone
        self._cues = list(script.CUES)
        """What is still to be played."""
        self._is_moving = False
        """Whether a round began or ended at the last look."""

    def train(self, lone_config: Path) -> None:
        """Trains until the survivors are at the last step, and plays the cues on the way.

        Raises:
            ActorDied: somebody died whom nobody had killed.
        """
        begin_s = time.monotonic()
        self._now = "peers start, and join with the ticket"
        self._coming = ""
        for name in script.FOUNDERS:
            self._start_peer(name)
        self._start_lone(lone_config)
        cues, play = self._cues, self.play_so_far
        while self.elapsed_s < script.DEADLINE_S and not self._are_all_done():
            self._look()
            if self._step and self._now.startswith("peers start"):
                self._now = "the swarm trains; the lone replica trains beside it"
            if cues and self._is_due(cues[0]):
                self._play(cues.pop(0))
            time.sleep(script.LOOK_S)
        play.is_complete = self._are_all_done()
        if play.is_complete:
            self._last_round()
        play.training_s = time.monotonic() - begin_s

    def close(self) -> None:
        """Asks all who are left to leave, as Ctrl+C does."""
        self._now = "the end: everyone leaves with a last checkpoint"
        self._coming = "the models are measured on the same validation text"
        self._cues = []
        self._look()
        play = self.play_so_far
        play.curtain_unix_s = time.time()
        actors = self._cast.actors.items()
        names = [name for name, actor in actors if actor.is_alive and name != script.LONE]
        play.exit_codes = self._see_out(names)
        for view in play.peers.values():
            view.look()

    # ---- actors

    def _start_peer(self, name: str) -> None:
        events = self._join(
            name,
            *("--max-steps", str(self.play_so_far.steps)),
            *("--evaluate-every", str(script.EVALUATE_EVERY_ROUNDS)),
            *("--evaluation-bytes", str(script.EVALUATION_BYTES)),
        )
        self.play_so_far.peers[name] = PeerView(name, events)

    def _start_lone(self, config: Path) -> None:
        steps = self.play_so_far.steps
        every = script.EVALUATE_EVERY_ROUNDS * self.play_so_far.interval_steps
        command = [*self._lone, "--config", str(config), "--alone", str(steps)]
        command += ["--evaluate-every", str(every)]
        command += ["--out", str(self._directory / "alone.safetensors")]
        actor = self._cast.start(script.LONE, command)
        actor.may_finish = True
        self.play_so_far.lone = LoneView(actor.output_path)

    # ---- cues

    def _is_due(self, cue: Cue) -> bool:
        if self._step < cue.at_frac * self.play_so_far.steps:
            return False
        newcomer = self.play_so_far.peers.get(script.NEWCOMER)
        if cue is script.KILL_BOOTSTRAP:  # after that nobody could tell who brought it in
            return newcomer is not None and newcomer.has_contributed
        return True

    def _play(self, cue: Cue) -> None:
        step = self._step
        if cue is script.NEW_PEER:
            self._start_peer(script.NEWCOMER)
        else:
            name = script.VICTIM if cue is script.KILL_PEER else script.BOOTSTRAP
            self._kill(name)
            step = self.play_so_far.peers[name].step if name == script.VICTIM else step
        self.play_so_far.played.append(Played(cue.name, step, time.time(), self.elapsed_s))
        self._now = f"{cue.done}; the swarm goes on"
        self.say(f"{cue.done}, at step {step}", style="bold")

    # ---- watching

    @property
    def _step(self) -> int:
        """The step of the peer that is farthest, of those that should live."""
        views = self.play_so_far.peers.values()
        return max((view.step for view in views), default=0)

    def _are_all_done(self) -> bool:
        play = self.play_so_far
        survivors = [name for name in play.peers if not self._cast.actors[name].fate]
        is_lone_done = play.lone is not None and self._cast.actors[script.LONE].exit_code == 0
        return is_lone_done and all(play.peers[name].is_done for name in survivors)

    def _last_round(self) -> None:
        """Waits until nothing lands any more: the last steps of all are in the anchor then."""
        self._now = "the last round"
        self._coming = "everyone leaves, and the models are measured"
        self._cues = []
        begin_s = quiet_since_s = time.monotonic()
        while time.monotonic() - begin_s < script.CURTAIN_S:
            self._look()
            if self._is_moving:
                quiet_since_s = time.monotonic()
            if time.monotonic() - quiet_since_s > script.QUIET_S:
                return
            time.sleep(script.LOOK_S)

    def _look(self) -> None:
        lone = self.play_so_far.lone
        if lone is not None:
            lone.look()
        is_moving = [view.look() for view in self.play_so_far.peers.values()]
        self._cast.check()
        self._is_moving = any(is_moving)
        self._screen.show(self._view())

    def _view(self) -> View:
        cues, steps = self._cues, self.play_so_far.steps
        coming = self._coming or "the survivors reach the last step, and everyone leaves"
        if cues and not self._coming:
            coming = f"{cues[0].coming}, at step {round(cues[0].at_frac * steps)}"
        actors = [actor for actor in self._cast.actors.values() if actor.name != FOUNDER]
        rows = [row_of(actor, self.play_so_far) for actor in actors]
        return View(self.elapsed_s, self._now, coming, self._step, steps, tuple(rows))
