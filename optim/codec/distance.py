"""How far a receiver of modulo frames was from the senders, and which codec would suit that.

A run of a modulo codec has wider ones of the same size behind it, rung by rung, see
`optim.codec.modulo.Modulo.wider`. All members of an exchange use the widest that one of them wants,
and what each wants next follows from what it heard:

    much did not decode               a wider one than what was used
    no narrower one would have done   what was used
    the next narrower would have      that one, but nothing wider than before

and is one rung at most from what it wanted last. So a replica that is far from all climbs round by
round until it hears them and they hear it, while whoever met it wants one rung more, once. No more
can a liar do, and what it makes others use is no longer than what they use anyway, only coarser.
"""

from dataclasses import dataclass

NOTICEABLE = 1 / 8
"""Of the weight of all tiles. Less is out of reach at any time, here and there."""


@dataclass(frozen=True, slots=True)
class Distance:
    """What a receiver was too far from, of frames of one codec.

    Tiles weigh as much as their steps, that is, as the sender moved in them: what nobody moves is
    out of everybody's reach, and harmless.

    Attributes:
        total: Of all tiles.
        missed: Of those that did not decode.
        far: Of the others, those that the next narrower codec would not have reached.
    """

    total: float = 0.0
    missed: float = 0.0
    far: float = 0.0

    def __add__(self, other: "Distance") -> "Distance":
        """Return that of both frames."""
        missed, far = self.missed + other.missed, self.far + other.far
        return Distance(self.total + other.total, missed, far)

    @property
    def missed_frac(self) -> float:
        """The part that did not decode."""
        return self.missed / self.total if self.total else 0.0

    @property
    def is_noticeable(self) -> bool:
        """Whether so much did not decode that a wider codec is wanted."""
        return self.missed_frac > NOTICEABLE

    def next_rung(self, wanted: int, used: int, num_rungs: int) -> int:
        """Return which codec to want next, 0 for the run's own.

        Args:
            wanted: What was wanted for this exchange.
            used: What was used, at least that.
            num_rungs: How many there are.
        """
        if not self.total:
            return wanted
        if self.is_noticeable:
            suits = used + 1
        elif self.missed + self.far > NOTICEABLE * self.total:
            suits = used
        else:
            suits = min(used - 1, wanted)
        return min(max(suits, wanted - 1, 0), wanted + 1, num_rungs - 1)
