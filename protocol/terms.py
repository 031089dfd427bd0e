"""What the members of one exchange agree on, besides who they are."""

from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Terms:
    """How a fragment is divided into parts, and with which of the run's codecs it is written.

    Attributes:
        shares: The parts' relative sizes; a part with share 0 is empty.
        codec: 0 is the run's own; then come the cheaper ones, in the manifest's order.
    """

    shares: tuple[int, ...] = (1,)
    codec: int = 0

    @property
    def num_parts(self) -> int:
        """How many parts there are, empty ones included."""
        return len(self.shares)

    @property
    def parts(self) -> tuple[int, ...]:
        """Which parts there is anything in: those that are averaged."""
        return tuple(part for part, share in enumerate(self.shares) if share)

    def bounds(self, num_elements: int) -> tuple[int, ...]:
        """Returns where each part begins, and after them `num_elements`: exact on every machine."""
        total = sum(self.shares)
        return (0, *(num_elements * upto // total for upto in accumulate(self.shares)))
