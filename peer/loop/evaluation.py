"""A loop's own evaluation of its model."""

from collections.abc import Callable

import torch
from torch import nn

Evaluation = Callable[[], float]
"""Returns bits per byte, or any loss, of the model as it is now."""


@torch.no_grad()
def evaluated(model: nn.Module, evaluation: Evaluation) -> float:
    """Return what the evaluation says in eval mode; each module's own mode stays as it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        return float(evaluation())
    finally:
        for module, mode in modes.items():
            module.training = mode
