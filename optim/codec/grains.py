"""Grains: a vector cut into pieces, each of which is a frame of its own.

So a contribution can be encoded, sent, decoded and averaged piece by piece, each step overlapping
the next, and nobody ever holds more of it than he needs. For blockwise codecs the values are the
same as those of one long frame, since a grain is a whole number of blocks.
"""

from dataclasses import dataclass

from optim.codec.codec import Codec

ALIGNMENT_ELEMENTS = 4096
"""A multiple of all codecs' usual blocks."""
MOST_ELEMENTS = 1 << 20
"""A sparse codec's frame of more would be small, but long in the making."""


@dataclass(frozen=True, slots=True)
class Grains:
    """How the frames of one vector follow each other.

    Attributes:
        codec: What each grain is written with.
        num_elements: Of the vector, n; there are no grains if it is 0.
        grain_elements: Of every grain but the last.
    """

    codec: Codec
    num_elements: int
    grain_elements: int

    def __len__(self) -> int:
        """Return the number of grains."""
        return -(-self.num_elements // self.grain_elements)

    @property
    def grain_bytes(self) -> int:
        """The length of every frame but the last, of one that is alone: its own length."""
        return self.codec.frame_bytes(min(self.grain_elements, self.num_elements))

    @property
    def size_bytes(self) -> int:
        """The length of all frames together."""
        if not self.num_elements:
            return 0
        return (len(self) - 1) * self.grain_bytes + self.frame_bytes(len(self) - 1)

    def bounds(self, grain: int) -> tuple[int, int]:
        """Return where in the vector a grain starts and stops."""
        start = grain * self.grain_elements
        return start, min(self.num_elements, start + self.grain_elements)

    def frame_bytes(self, grain: int) -> int:
        """Return the length of one grain's frame."""
        start, stop = self.bounds(grain)
        return self.codec.frame_bytes(stop - start)


def grain_elements(codec: Codec, most_bytes: int) -> int:
    """Return the elements of the largest grain whose frame has at most so many bytes.

    It is a multiple of `ALIGNMENT_ELEMENTS`, and at least one of them, however long that comes out.
    """
    units, step = 1, MOST_ELEMENTS // ALIGNMENT_ELEMENTS
    while step > 1:
        step //= 2
        if codec.frame_bytes((units + step) * ALIGNMENT_ELEMENTS) <= most_bytes:
            units += step
    return units * ALIGNMENT_ELEMENTS
