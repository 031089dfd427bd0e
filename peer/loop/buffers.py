"""A model's buffers as a checkpoint holds them."""

import torch
from torch import Tensor, nn

from peer.loop.fit import plain_name


def saved_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return by plain name the buffers that `state_dict` has, in their own memory.

    Complex ones, such as tables of rotary positions, are seen as pairs of real numbers.

    Args:
        model: Bare.
    """
    saved = {plain_name(name) for name in model.state_dict()}
    named = ((plain_name(name), buffer) for name, buffer in model.named_buffers())
    return {
        name: torch.view_as_real(buffer) if buffer.is_complex() else buffer
        for name, buffer in named
        if name in saved
    }
