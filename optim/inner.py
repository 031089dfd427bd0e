"""The inner optimizer: what each replica does between two departures.

**Paper:** Douillard et al. 2023, DiLoCo, arXiv:2311.08105v3, Sec. 3.1 and Table 5. The optimizer's
state stays with its replica: it is never averaged and never reset by a landing, and the schedule
runs over the inner steps of the whole run.
"""

import math

import torch
from torch import nn


def learning_rate(
    step: int, *, peak: float, warmup_steps: int, total_steps: int, final_frac: float = 0.1
) -> float:
    """Return the rate of one inner step: linear warmup, cosine decay, constant after.

    Args:
        step: Inner steps done before this one, 0 or more.
        peak: The rate at the end of the warmup.
        warmup_steps: The rate is `peak * (step + 1) / warmup_steps` for that many steps.
        total_steps: From this step on the rate is `final_frac * peak`.
        final_frac: In [0, 1].

    Raises:
        ValueError: The numbers make no schedule.
    """
    if step < 0:
        raise ValueError(f"step must be at least 0, not {step}")
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(
            f"warmup_steps must be between 0 and total_steps ({total_steps}), not {warmup_steps}"
        )
    if not 0.0 <= final_frac <= 1.0:
        raise ValueError(f"final_frac must be between 0 and 1, not {final_frac}")
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if step >= total_steps:
        return peak * final_frac
    done_frac = (step - warmup_steps) / (total_steps - warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * done_frac))
    return peak * (final_frac + (1.0 - final_frac) * cosine)


def adamw(
    module: nn.Module, *, lr: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters, decaying only tensors of two or more dimensions.

    Gains and biases are left out of the decay: pulling them to zero changes the function, it does
    not regularize it.

    Args:
        module: The live model.
        lr: The rate until the caller sets another one.
        betas: Decay of the first and second moment.
        weight_decay: Decoupled decay of matrices, embeddings and kernels.
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas)
