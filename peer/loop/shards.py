"""A model that is spread over the ranks of a group, read and written as one flat vector.

Parameters are DTensors (`fully_shard`), or whole on every rank (DistributedDataParallel, or what
FSDP was told to ignore). They are gathered and handed out one by one: the vector itself is on the
host of rank 0 only, and no device ever holds more than one whole parameter beside its shards.

Names are those that the model has without its wrappers, so a group and a peer with one plain model
can be in one run.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from optim.inner import InnerOptimizer
from optim.layout import Layout
from peer.loop.buffers import saved_buffers
from peer.loop.evaluation import Evaluation, evaluated
from peer.loop.fit import bare, other_model, other_optimizer, plain_name
from peer.loop.optimizer_state import keeps_counts_on_device, name_of
from peer.loop.orders import Orders
from peer.loop.outline import (
    Outline,
    misfit,
    outline_of,
    require_restorable,
    require_storable,
    shapes_by_name,
)
from protocol.errors import ConfigError


def plain_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return trainable parameters by plain name, in order; tied ones once, frozen ones not."""
    named = bare(model).named_parameters()
    return {plain_name(name): param for name, param in named if param.requires_grad}


class Shards:
    """One rank's part of the model; what it does is done by all ranks at the same time.

    Args:
        model: Of this rank, after `fully_shard` or in DistributedDataParallel.
        optimizer: Its inner optimizer.
        layout: The run's.
        orders: The line between the ranks.

    Raises:
        ConfigError: on all ranks, if on one of them the model is not that of the run.
    """

    def __init__(
        self, model: nn.Module, optimizer: InnerOptimizer, layout: Layout, orders: Orders
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._layout = layout
        self._orders = orders
        self._reshard()
        orders.agree(
            other_model(bare(model), layout, plain_name)
            or other_optimizer(model, optimizer)
            or _misplaced(self._params, orders.ranks)
        )

    @property
    def device(self) -> torch.device:
        """Where this rank trains."""
        return next(iter(self._params.values())).device

    @property
    def _params(self) -> dict[str, nn.Parameter]:
        return plain_parameters(self._model)

    @torch.no_grad()
    def gather(self, fragment: int | None, out: Tensor | None) -> None:
        """Copy parameters, of one fragment or all, to rank 0. Mutates `out`.

        Args:
            fragment: Which one; None for all.
            out: `[n]` fp32 on rank 0; None on other ranks.
        """
        self._reshard()
        params = self._params
        for entry in self._layout.entries_of(fragment):
            whole = _whole(params[entry.name])
            if out is not None:
                out[entry.start : entry.stop].view(entry.shape).copy_(whole)

    @torch.no_grad()
    def scatter(self, fragment: int | None, flat: Tensor | None) -> None:
        """Set parameters, of one fragment or all, to what rank 0 has.

        Args:
            fragment: Which one; None for all.
            flat: `[n]` fp32 on rank 0; None on other ranks.
        """
        self._reshard()
        params = self._params
        for entry in self._layout.entries_of(fragment):
            part = None if flat is None else flat[entry.start : entry.stop].view(entry.shape)
            self._set(params[entry.name], part)

    def evaluate(self, evaluation: Evaluation) -> float:
        """Return what the loop's evaluation says; modules train afterwards if they did before."""
        return evaluated(self._model, evaluation)

    def outlines(self) -> list[Outline]:
        """Return what a checkpoint of this rank would hold, in order.

        Raises:
            ConfigError: the optimizer keeps something that a checkpoint cannot hold.
        """
        self._reshard()
        outlines = []
        for name, value in self._named_state():
            if not isinstance(value, Tensor):
                raise ConfigError(
                    f"a checkpoint holds tensors, and the optimizer's {name} is a "
                    f"{type(value).__name__}; use an optimizer whose state is tensors"
                )
            require_storable(name, value)
            outlines.append(outline_of(name, value))
        require_restorable(outlines, shapes_by_name(self._params))
        return outlines

    @torch.no_grad()
    def gather_state(self, outlines: list[Outline]) -> dict[str, Tensor]:
        """Return on rank 0 what a checkpoint needs, whole and on the CPU; on others nothing.

        Names are `theta.PARAMETER`, `buffer.BUFFER` and, with the inner optimizer's own name first,
        `adamw.exp_avg.PARAMETER`. Buffers are rank 0's.

        Args:
            outlines: Those of rank 0.

        Raises:
            ConfigError: on all ranks, if one of them has something else.
        """
        problem = None
        try:
            if self.outlines() != outlines:
                problem = "the ranks' optimizers have unequal states"
        except ConfigError as error:
            problem = str(error)
        self._orders.agree(problem)
        tensors = {}
        for name, tensor in self._named_state():
            whole = _whole(tensor)
            if self._orders.is_lead:
                tensors[name] = whole.to("cpu", copy=True)
        return tensors

    @torch.no_grad()
    def scatter_state(self, outlines: list[Outline], tensors: Mapping[str, Tensor] | None) -> None:
        """Take back on all ranks what `gather_state` returned.

        Args:
            outlines: Of all tensors, in one order on all ranks.
            tensors: On rank 0; None on other ranks.

        Raises:
            ConfigError: on all ranks, if it is another model's or optimizer's.
        """
        self._reshard()
        params, buffers = self._params, saved_buffers(bare(self._model))
        shapes = shapes_by_name(params), shapes_by_name(buffers)
        self._orders.agree(misfit(outlines, *shapes, optimizer=name_of(self._optimizer)))
        self._optimizer.state.clear()
        for outline in outlines:
            value = None if tensors is None else tensors[outline.name]
            owner, key, name = outline.parts
            if owner == "theta":
                self._set(params[name], value)
            elif owner == "buffer":
                self._set(buffers[name], value)
            else:
                place = self._place(params[name], outline)
                self._set(place, value)
                self._optimizer.state[params[name]][key] = place

    def _reshard(self) -> None:
        # After a forward without a backward, FSDP leaves the outermost parameters whole, and would
        # go on to use them whatever became of the shards.
        for module in self._model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def _set(self, target: Tensor, value: Tensor | None) -> None:
        # `value` is on rank 0 only, on the CPU.
        if isinstance(target, DTensor):
            mesh, placements = target.device_mesh, target.placements
            empty = torch.empty(target.shape, dtype=target.dtype, device="cpu")
            whole = empty if value is None else value
            whole = whole.to(mesh.device_type, target.dtype)
            target.to_local().copy_(distribute_tensor(whole, mesh, placements).to_local())
            return
        whole = torch.empty(target.shape, dtype=target.dtype, device="cpu")
        if value is not None:
            whole.copy_(value)
        dist.broadcast(whole, group=self._orders.group, group_src=0)
        target.copy_(whole)

    def _place(self, param: nn.Parameter, outline: Outline) -> Tensor:
        # Where a tensor of the optimizer's belongs. Torch keeps `step` on the CPU, if it can.
        dtype = getattr(torch, outline.dtype)
        if outline.shape == tuple(param.shape):
            return torch.empty_like(param, dtype=dtype)
        is_on_device = keeps_counts_on_device(self._optimizer, param)
        device = param.device if is_on_device else "cpu"
        return torch.empty(outline.shape, dtype=dtype, device=device)

    def _named_state(self) -> Iterator[tuple[str, Any]]:
        params, owner = self._params, name_of(self._optimizer)
        for name, param in params.items():
            yield f"theta.{name}", param
        for name, buffer in saved_buffers(bare(self._model)).items():
            yield f"buffer.{name}", buffer
        for name, param in params.items():
            for key, value in sorted(self._optimizer.state.get(param, {}).items()):
                if value is not None:
                    yield f"{owner}.{key}.{name}", value


def _whole(tensor: Tensor) -> Tensor:
    if not isinstance(tensor, DTensor):
        return tensor
    # Offloaded shards are on the CPU, and the mesh may only know how to gather on its own device.
    on_mesh = tensor.to(tensor.device_mesh.device_type)
    assert isinstance(on_mesh, DTensor)
    return on_mesh.full_tensor()


def _misplaced(params: Mapping[str, nn.Parameter], ranks: list[int]) -> str | None:
    for name, param in params.items():
        if not isinstance(param, DTensor):
            continue
        members = param.device_mesh.mesh.flatten().tolist()
        if members[0] != ranks[0] or sorted(members) != sorted(ranks):
            return f"{name} is spread over ranks {members}, and this peer is ranks {ranks}"
        if any(type(placement) not in (Shard, Replicate) for placement in param.placements):
            return f"{name} is {param.placements}, which cannot be handed out: use FSDP alone"
    return None
