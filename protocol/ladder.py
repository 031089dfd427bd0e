"""Which of the run's codecs suits a link: what is exchanged must fit the time there is."""

from collections.abc import Sequence


def choose_codec(frame_bytes: Sequence[int], *, rate_bps: float, budget_s: float) -> int:
    """Returns the index of the first codec whose frame travels in time; if none does, the last.

    Args:
        frame_bytes: The frame's size with each codec, from the run's own to the cheapest.
        rate_bps: What the link was measured to carry; 0 if nobody knows, and then it is 0.
        budget_s: How long the frame may be under way.
    """
    if not rate_bps:
        return 0
    fits = (8 * size <= rate_bps * budget_s for size in frame_bytes)
    return next((codec for codec, fit in enumerate(fits) if fit), len(frame_bytes) - 1)
