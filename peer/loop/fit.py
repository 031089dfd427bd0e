"""Whether a loop's model and optimizer are those of a run, whatever the model is wrapped in."""

from collections.abc import Callable

from torch import nn

from optim.inner import InnerOptimizer
from optim.layout import Layout, shapes_of

_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")
"""What torch.compile and activation checkpointing put into the names of what they wrap."""


def bare(model: nn.Module) -> nn.Module:
    """Return the module inside of torch.compile, DataParallel and DistributedDataParallel."""
    while True:
        compiled = getattr(model, "_orig_mod", None)
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(compiled, nn.Module):
            model = compiled
        else:
            return model


def plain_name(name: str) -> str:
    """Return a parameter's name without what wrappers put into it."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def other_model(
    model: nn.Module, layout: Layout, spelled: Callable[[str], str] = str
) -> str | None:
    """Return why a model is not that of the run, with the first parameter that differs.

    Args:
        model: Bare.
        layout: The run's.
        spelled: Returns the run's name for a parameter of the model.
    """
    try:
        ours = {spelled(name): shape for name, shape in shapes_of(model).items()}
    except ValueError as error:
        return str(error)
    theirs = {entry.name: entry.shape for entry in layout.entries}
    for name in [*theirs, *ours]:
        if ours.get(name) == theirs.get(name):
            continue
        there, here = (
            "does not have it" if shape is None else f"has {list(shape)}"
            for shape in (theirs.get(name), ours.get(name))
        )
        return f"your model is not the run's: {name}: the run {there}, yours {here}"
    return None


def other_optimizer(model: nn.Module, optimizer: InnerOptimizer) -> str | None:
    """Return why an optimizer does not train a model at all."""
    ours = {id(param) for param in model.parameters() if param.requires_grad}
    held = {id(param) for group in optimizer.param_groups for param in group["params"]}
    if not ours.isdisjoint(held):
        return None
    return (
        "the optimizer has none of the model's trainable parameters: make it of this very model, "
        "after whatever replaces its parameters"
    )
