"""The inner optimizer: what each replica does between two departures.

**Paper:** Douillard et al. 2023, DiLoCo, arXiv:2311.08105v3, Sec. 3.1 and Table 5 (AdamW). The
optimizer's state stays with its replica: it is never averaged and never reset by a landing, and the
schedule runs over the inner steps of the whole run. Thérien et al. 2025, MuLoCo, arXiv:2505.23725
(Muon in its place). Liu et al. 2025, Muon is Scalable for LLM Training, arXiv:2502.16982, Sec. 2.2:
updates scaled by `0.2 sqrt(max(rows, columns))`, to the size of AdamW's, so that one rate and one
decay serve both (test_muon_moves_matrices_about_as_far_as_adamw).
**Deviations:** Muon takes a fused matrix (query, key and value in one, gate and value) as one.
Decay of `sgd` is torch's, added to the gradient (test_sgd_decays_through_the_gradient).

GaLore (arXiv:2403.03507) is not offered: its package, galore-torch, has had one release (1.0, March
2024) and requires transformers and bitsandbytes. Where memory is short, `muon` keeps one number for
each weight of a hidden matrix where `adamw` keeps two, and `sgd` keeps one for every weight.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

HEAD_NAMES = frozenset({"embed_out", "head", "lm_head", "output"})
"""A child of the model with such a name is its output head: `muon` leaves it to AdamW."""


class InnerOptimizer(Protocol):
    """The part of `torch.optim.Optimizer` that a replica uses.

    Attributes:
        param_groups: Dictionaries with `params` and the settable `lr`; every trainable parameter is
            in one of them.
        state: By parameter, tensors by name; empty before the parameter's first step.
    """

    param_groups: list[dict[str, Any]]
    state: defaultdict[Tensor, Any]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""

    def step(self) -> object:
        """Move the parameters by one step along their gradients. Mutates them."""


class Joint:
    """Several optimizers of disjoint parameters, as one; see `InnerOptimizer`.

    Args:
        parts: Fresh optimizers. They go on with one state and their own groups.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.param_groups: list[dict[str, Any]] = [g for part in parts for g in part.param_groups]
        self.state: defaultdict[Tensor, Any] = defaultdict(dict)
        self._parts = tuple(parts)
        for part in parts:
            part.state = self.state

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for part in self._parts:
            part.zero_grad(set_to_none)

    def step(self) -> None:
        """Move the parameters by one step along their gradients. Mutates them."""
        for part in self._parts:
            part.step()


def inner_optimizer(
    name: str,
    module: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.95),
    momentum: float = 0.95,
) -> InnerOptimizer:
    """Return the optimizer with this name over the trainable parameters of a model.

    Args:
        name: `adamw`, see `adamw`; `muon`, see `muon`; `sgd`, with heavy-ball momentum.
        module: The live model.
        lr: The rate until the caller sets another one.
        weight_decay: Decay of matrices, embeddings and kernels; gains and biases have none.
        betas: Decay of the first and second moment, for `adamw` and the part of `muon` that is.
        momentum: In [0, 1), for `muon` and `sgd`.

    Raises:
        ValueError: There is no such optimizer, here or for this model.
    """
    match name:
        case "adamw":
            return adamw(module, lr=lr, betas=betas, weight_decay=weight_decay)
        case "muon":
            return muon(module, lr=lr, betas=betas, weight_decay=weight_decay, momentum=momentum)
        case "sgd":
            groups = _groups(_trainable(module), weight_decay)
            return torch.optim.SGD(groups, lr=lr, momentum=momentum)
        case _:
            raise ValueError(f"there is no inner optimizer {name!r}: choose adamw, muon or sgd")


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
    return torch.optim.AdamW(_groups(_trainable(module), weight_decay), lr=lr, betas=betas)


def muon(
    module: nn.Module,
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    momentum: float,
) -> Joint:
    """Return Muon for the hidden matrices, and AdamW for all else that is trainable.

    Hidden matrices are the parameters of exactly two dimensions, but for those of `nn.Embedding`
    (with a head tied to it) and of the model's children named in `HEAD_NAMES`: their rows belong to
    tokens, each row is a vector of its own, and no product of matrices passes through them.

    Args:
        module: The live model.
        lr: The rate of both, until the caller sets another one.
        betas: AdamW's decay of the first and second moment.
        weight_decay: Decoupled decay of both; vectors have none.
        momentum: Muon's, with Nesterov's correction.

    Raises:
        ValueError: This torch has no Muon, or the model no hidden matrix.
    """
    if not hasattr(torch.optim, "Muon"):
        raise ValueError(f"muon needs torch 2.9 or later, this is {torch.__version__}: use adamw")
    hidden = _hidden_matrices(module)
    if not hidden:
        raise ValueError("muon is for hidden matrices, and the model has none: use adamw")
    matrices = torch.optim.Muon(
        hidden,
        lr=lr,
        weight_decay=weight_decay,
        momentum=momentum,
        adjust_lr_fn="match_rms_adamw",
    )
    is_hidden = {id(p) for p in hidden}
    rest = [p for p in _trainable(module) if id(p) not in is_hidden]
    if not rest:
        return Joint([matrices])
    return Joint([matrices, torch.optim.AdamW(_groups(rest, weight_decay), lr=lr, betas=betas)])


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


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]


def _groups(params: Sequence[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = [
        {"params": [p for p in params if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in params if p.dim() < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _hidden_matrices(module: nn.Module) -> list[nn.Parameter]:
    by_token: list[nn.Module] = [
        m for m in module.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)
    ]
    by_token += [m for name, m in module.named_children() if name in HEAD_NAMES]
    left_out = {id(p) for m in by_token for p in m.parameters()}
    return [p for p in _trainable(module) if p.dim() == 2 and id(p) not in left_out]
