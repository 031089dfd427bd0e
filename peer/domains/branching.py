"""The first anchors of a domain that branches from another one: branch-train-merge."""

import torch
from torch import Tensor

from optim.layout import Layout
from peer.domains.kept import DomainState


def branched_anchors(state: DomainState, theirs: Layout, ours: Layout) -> list[Tensor]:
    """Returns the seed's last anchor as our domain cuts it, one `[m]` for each fragment.

    Both models have one shape, but their methods may cut it into other fragments.

    Args:
        state: Of the seed.
        theirs: The seed's layout.
        ours: That of the domain that branches from it.
    """
    flat = torch.cat([fragment.vectors[0] for fragment in state.fragments])
    places = {entry.name: slice(entry.start, entry.stop) for entry in theirs.entries}
    return [
        torch.cat([flat[places[entry.name]] for entry in ours.entries_of(fragment)])
        for fragment in range(len(ours.fragments))
    ]
