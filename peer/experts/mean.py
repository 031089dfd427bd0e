"""The weighted average of experts' parameters: one model instead of an ensemble.

**Paper:** Li et al. 2022, Branch-Train-Merge, arXiv:2208.03306, section 2.3: the weights are a
prior over domains; parameters are averaged once, not probabilities at each token.

That is as cheap as one expert, and needs experts of one shape that were branched from one seed:
of models that never had anything in common the average knows nothing.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from optim.posterior import log_prior_of
from peer.experts.expert import Expert
from protocol.errors import ConfigError


def mean_of(
    experts: Sequence[Expert], weights: Sequence[float] | None = None, *, name: str = "average"
) -> Expert:
    """Return the expert whose parameters are the weighted average of these.

    Args:
        experts: At least one. Contexts may differ: the average has the smallest.
        weights: One for each expert, of any sum, such as a prior; None is uniform.
        name: Of the average.

    Raises:
        ConfigError: two experts differ in shape or tokenizer, or the weights are none.
    """
    if not experts:
        raise ConfigError("there is no expert to average")
    try:
        shares = log_prior_of(weights, len(experts)).exp().tolist()
    except ValueError as error:
        raise ConfigError(str(error)) from None
    first = experts[0]
    for other in experts[1:]:
        _require_one_shape(first, other)
    return Expert(
        name=name,
        spec=first.spec.model_copy(
            update={"context": min(expert.spec.context for expert in experts)}
        ),
        theta={
            key: _average([expert.theta[key] for expert in experts], shares) for key in first.theta
        },
        tokenizer=first.tokenizer,
    )


def _average(tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    total = torch.zeros(tensors[0].shape, dtype=torch.float64)
    for tensor, share in zip(tensors, shares, strict=True):
        total.add_(tensor.double(), alpha=share)
    return total.to(tensors[0].dtype)


def _require_one_shape(one: Expert, other: Expert) -> None:
    pairs: dict[str, tuple[object, object]] = {"tokenizer": (one.tokenizer, other.tokenizer)}
    for field in type(one.spec).model_fields:
        if field != "context":  # the parameters do not depend on it
            pairs[f"model.{field}"] = (getattr(one.spec, field), getattr(other.spec, field))
    for key in sorted(one.theta.keys() | other.theta.keys()):
        pairs[key] = (_shape(one, key), _shape(other, key))
    for what, (here, there) in pairs.items():
        if here != there:
            raise ConfigError(
                f"experts {one.name} and {other.name} cannot be averaged: {what} is {here} in "
                f"{one.name}, {there} in {other.name}; only an ensemble can have both"
            )


def _shape(expert: Expert, key: str) -> object:
    return list(expert.theta[key].shape) if key in expert.theta else "missing"
