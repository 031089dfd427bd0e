"""Plays the demo with domains: starts the actors, kills one when it can be spared, and waits."""

import sys
import time
from pathlib import Path

from peer.demo import script as common
from peer.demo.cast import Cast
from peer.demo.experts import script, story
from peer.demo.experts.play import Kill, Play
from peer.demo.experts.view import View
from peer.demo.experts.watch import MemberView
from peer.demo.production import Production
from peer.demo.screen import Screen
from protocol.manifest import Manifest


class Stage(Production):
    """See the module docstring.

    Args:
        cast, screen, directory, thinwire: As `Production` has them.
        width: Columns of the screen.
    """

    founding = "founding the run: a short probe measures how difficult each domain is"
    first_act = "four peers start, with nothing but the ticket"

    def __init__(
        self,
        cast: Cast,
        screen: Screen,
        directory: Path,
        *,
        width: int,
        thinwire: tuple[str, ...] = (sys.executable, "-m", "thinwire"),
    ) -> None:
        super().__init__(cast, screen, directory, thinwire=thinwire)
        self.play_so_far = Play(time.time())
        self._width = width

    def perform(self, manifest: Manifest) -> None:
        """Trains until every survivor has every expert, and kills a peer on the way.

        Raises:
            ActorDied: somebody died whom nobody had killed.
        """
        play = self.play_so_far
        play.manifest = manifest
        self._now = ""
        self.say(f"steps and sizes by difficulty: {story.division_of(manifest)}")
        for name in script.PEERS:
            events = self._join(name, "--evaluate-every", str(script.NEVER_EVALUATE))
            play.peers[name] = MemberView(name, events)
        while self.elapsed_s < script.DEADLINE_S:
            self._look()
            if len(play.complete()) == len(play.survivors):
                play.complete_s = self.elapsed_s
                return
            if play.kill is None:
                self._kill_if_it_can_be_spared()
            time.sleep(common.LOOK_S)

    def close(self) -> None:
        """Asks all who are left to leave, as Ctrl+C does."""
        self._now = "the end: everyone leaves"
        self._coming = "the experts are measured on held-out text"
        self._look()
        actors = self._cast.actors.items()
        self.play_so_far.exit_codes = self._see_out([n for n, actor in actors if actor.is_alive])
        for view in self.play_so_far.peers.values():
            view.look()

    def _kill_if_it_can_be_spared(self) -> None:
        play = self.play_so_far
        victim = play.victim()
        if victim is None:
            return
        (name,) = victim.peers
        self._kill(name)
        play.kill = Kill(name, victim.domain, victim.step, victim.copy_step, self.elapsed_s)
        self.say(
            f"{name} was killed with SIGKILL, alone in {victim.domain} at step {victim.step}; "
            f"others have a copy of step {victim.copy_step}",
            style="bold",
        )

    def _look(self) -> None:
        play = self.play_so_far
        for view in play.peers.values():
            view.look()
        self._tell()
        for standing in play.standings:
            if standing.is_done:
                play.done_s.setdefault(standing.domain, self.elapsed_s)
        self._cast.check()
        self._screen.show(self._view())

    def _tell(self) -> None:
        for name, view in self.play_so_far.peers.items():
            for event in view.news:
                sentence, style = story.news_of(self.play_so_far, name, event)
                if sentence:
                    self.say(sentence, style=style)
            view.news.clear()

    def _view(self) -> View:
        play, now, coming = self.play_so_far, self._now, self._coming
        if not now:
            now, coming = story.now_and_coming(play, self.elapsed_s)
        dead = play.kill.peer if play.kill else ""
        return View(self.elapsed_s, now, coming, play.standings, play.peers, dead, self._width)
