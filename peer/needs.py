"""What training a run takes, in bytes: of memory and of disk. Nothing is allocated to know it."""

import torch

from peer.domains.capability import free_memory_bytes
from peer.experts.memory import MOMENTS, activation_bytes
from peer.method import method_of_run
from peer.plan.memory import memory_of
from peer.train.model import layout_of_run
from peer.units import format_bytes
from protocol.errors import ConfigError
from protocol.manifest import Manifest
from protocol.models import ModelSpec, OwnSpec


class Needs:
    """What a peer of a run without domains takes, or of one domain.

    Args:
        manifest: The run's, or the domain's own.
        members: How many take part in an exchange.

    Attributes:
        num_params: Of the model.
        states_bytes: Of the trainer: parameters, gradients, and the inner optimizer's moments.
        trainer_bytes: With the activations of a batch, as far as they are known.
        wire_bytes: Of the wire process, at the worst moment.
        checkpoint_bytes: Of one checkpoint.
        file_bytes: Of the run's files.

    Raises:
        ConfigError: this version does not know the method, or it does not fit the model.
    """

    def __init__(self, manifest: Manifest, *, members: int = 2) -> None:
        sizes = [len(fragment) for fragment in layout_of_run(manifest).fragments]
        outer = memory_of(method_of_run(manifest), sizes, max(2, members))
        moments = MOMENTS[manifest.inner.optimizer]
        self.num_params = sum(sizes)
        self.states_bytes = 4.0 * self.num_params * (2 + moments)
        self.trainer_bytes = self.states_bytes
        if isinstance(manifest.model, ModelSpec):
            self.trainer_bytes += activation_bytes(manifest.model, manifest.inner.batch_sequences)
        self.wire_bytes = outer.total
        self.checkpoint_bytes = 4.0 * self.num_params * (1 + moments) + outer.outer
        self.file_bytes = sum(file.size_bytes for file in manifest.files)


def require_memory(manifest: Manifest, device: torch.device) -> None:
    """Refuses a model that cannot be had here, before anything of its size is allocated.

    Args:
        manifest: Of what is to be trained.
        device: Where; a GPU's own memory is not looked at.

    Raises:
        ConfigError: says how much is missing.
    """
    needs, free = Needs(manifest), free_memory_bytes()
    is_here = device.type != "cuda" and not isinstance(manifest.model, OwnSpec)
    least = needs.wire_bytes + (needs.states_bytes if is_here else 0.0)
    if free and least > free:
        raise ConfigError(
            f"this run's model needs {format_bytes(least)} of memory at the least, and "
            f"{format_bytes(free)} are free: end other programs, or join from another machine"
        )
