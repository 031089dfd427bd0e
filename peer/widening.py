"""Which codec suits what a peer is far from: wider ones of the same size, behind those of the run.

Each fragment has an exchange of its own, and wants for itself; `optim.codec.distance` has the rule.
The wider codecs are derived from the run's cheapest one, so every peer of a run has the same ones,
none is named in the manifest, and none costs more than any link of an exchange asked for.
"""

from collections.abc import Sequence

from optim.codec.codec import Codec
from optim.codec.distance import Distance
from optim.codec.modulo import Modulo


def wider_than(codec: Codec) -> tuple[Codec, ...]:
    """Returns the wider codecs behind one; only modulo codecs have and need any."""
    return codec.wider if isinstance(codec, Modulo) else ()


class Widening:
    """See the module docstring.

    Args:
        codecs: The run's own, and the cheaper ones.
        num_fragments: How many wants there are.

    Attributes:
        codecs: The run's, and behind them the wider ones.
    """

    def __init__(self, codecs: Sequence[Codec], num_fragments: int) -> None:
        self.codecs = (*codecs, *wider_than(codecs[-1]))
        self._cheapest = len(codecs) - 1
        self._rungs = [0] * num_fragments
        self._heard = [Distance()] * num_fragments

    def wanted(self, fragment: int, of_link: int) -> int:
        """Returns the codec to ask for.

        Args:
            fragment: For which fragment.
            of_link: The one that suits our link.
        """
        rung = self._rungs[fragment]
        return self._cheapest + rung if rung else of_link

    def on_landed(self, fragment: int, codec: int, distance: Distance) -> None:
        """An exchange with this codec is over, and we were so far from the others."""
        used = max(codec - self._cheapest, 0)
        num_rungs = len(self.codecs) - self._cheapest
        self._rungs[fragment] = distance.next_rung(self._rungs[fragment], used, num_rungs)
        self._heard[fragment] = distance

    def heard(self, fragment: int) -> Distance:
        """Returns how far we were from the others in the last exchange that landed."""
        return self._heard[fragment]
