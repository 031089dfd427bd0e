"""The sizes of a domain's states, known from its manifest alone."""

import torch

from peer.method import method_of_run
from peer.train.model import layout_of_run
from protocol.manifest import Manifest


class DomainSizes:
    """Implements `peer.catch_up.Sizes` for a domain in which we do not train.

    Args:
        manifest: Of the domain's sub-swarm.
    """

    def __init__(self, manifest: Manifest) -> None:
        method = method_of_run(manifest)
        self.is_common = method.mixing == "all"
        self._spans = layout_of_run(manifest).fragments
        self._num_vectors = 1 + len(method.outer.first(torch.empty(0)).state)

    def round_of(self, fragment: int) -> int:
        """Returns -1: no state of it is here that it could be compared with."""
        return -1

    def state_lengths(self, fragment: int) -> list[int]:
        """Returns the lengths of the vectors in a `state`, in elements."""
        return [len(self._spans[fragment])] * self._num_vectors

    def state_bytes(self, fragment: int) -> int:
        """Returns the size of a `state`."""
        return 4 * sum(self.state_lengths(fragment))
