"""What becomes of our anchor when others are at another one: taken over, averaged, or kept.

`protocol.branches` judges, by the lineages of both; here its verdict is carried out, and the state
is fetched only if it is needed.
"""

from collections.abc import Sequence

from peer.catch_up import CatchingUp, agreed
from peer.mixing import Mixing, OuterState
from peer.moves import Moves
from peer.telemetry import EventLog
from protocol.branches import Branch, Verdict, judge, lineage_after
from protocol.identity import PeerId
from protocol.lineage import EMPTY, Lineage
from protocol.machine import CatchUp
from protocol.state_index import StateIndex


class Recovery:
    """See the module docstring.

    Args:
        mixing, moves: Where our anchors are, and how they are moved.
        catching_up: Where theirs come from.
        events: Where to report.
    """

    def __init__(
        self, mixing: Mixing, moves: Moves, catching_up: CatchingUp, events: EventLog
    ) -> None:
        self._mixing = mixing
        self._moves = moves
        self._catching_up = catching_up
        self._events = events

    def progress(self) -> tuple[int, int]:
        """Returns how many bytes of states have come, of how many."""
        return self._catching_up.progress()

    async def recover(self, effect: CatchUp, others: Sequence[PeerId]) -> bool:
        """Does what the verdict says; returns whether our anchor, or its round, is another one now.

        Args:
            effect: Which fragment, and who is at the other anchor.
            others: Who may have it, too.

        Raises:
            RemoteError, TransportError: theirs could not be had; ours is as it was.
        """
        fragment, old = effect.fragment, self._mixing.outer[effect.fragment]
        survey = await self._catching_up.survey(fragment, effect.donors, others)
        index = agreed(survey)
        verdict, lineage = self._judge(effect, index, len(survey), len(others))
        if verdict.keeps and verdict.round == old.round:
            return False
        is_here = self._mixing.is_common and index.anchor_digest == old.digest
        if verdict.keeps or is_here:
            new = await self._moves.take_over(
                fragment, lambda: self._mixing.raise_round(fragment, verdict.round, lineage)
            )
        else:
            state = await self._catching_up.fetch(fragment, survey)

            def make() -> OuterState:
                return self._mixing.load_state_blob(
                    *(fragment, state.whole(), verdict.round),
                    weights=verdict.weights,
                    lineage=lineage,
                )

            new = await self._moves.take_over(fragment, make)
        self._events.write(
            "merged" if all(verdict.weights) else "caught_up",
            fragment=fragment,
            round=new.round,
            digest=new.digest.hex(),
            src=survey[0][0],
            donors=[donor for donor, _ in survey],
            weights=verdict.weights,
            our_round=old.round,
            their_round=index.round,
        )
        return True

    def _judge(
        self, effect: CatchUp, index: StateIndex, num_donors: int, num_others: int
    ) -> tuple[Verdict, Lineage]:
        """Returns the verdict, and what is behind the anchor that it leads to."""
        if not self._mixing.is_common:
            return Verdict((0.0, 1.0), index.round), EMPTY
        here = self._mixing.outer[effect.fragment]
        ours = Branch(
            round=here.round,
            digest=here.digest,
            lineage=here.lineage,
            camp=min(effect.our_camp, max(1, 1 + num_others - num_donors)),
        )
        theirs = Branch(
            round=index.round,
            digest=index.anchor_digest,
            lineage=index.lineage,
            camp=max(effect.their_camp, num_donors),
        )
        verdict = judge(ours, theirs)
        return verdict, lineage_after(ours, theirs, verdict)
