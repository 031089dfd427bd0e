"""How large a model is, counted while the library builds it without memory.

A small configuration can describe a model of any size, in tensors, in tables, or in Python's own
lists. Building it on the meta device takes no memory for tensors; what is registered is counted as
it comes, and the process may not grow by more than `MAX_GROWTH_BYTES` meanwhile.
"""

import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from protocol.errors import ConfigError
from protocol.models import MAX_TENSORS

MAX_PARAMETERS = 1 << 38
MAX_BUFFER_ELEMENTS = 1 << 28
MAX_GROWTH_BYTES = 2 << 30

_STATM = Path("/proc/self/statm")


@contextmanager
def counting() -> Iterator[None]:
    """End a building on the meta device when the model becomes absurd.

    Raises:
        ConfigError: it has too many tensors or elements, or needs memory all the same.
    """
    census = _Census()
    hooks = (
        register_module_parameter_registration_hook(census.on_parameter),
        register_module_buffer_registration_hook(census.on_buffer),
    )
    try:
        with _little_growth(), torch.device("meta"):
            yield
    except MemoryError:
        raise ConfigError(
            f"model.config: the model's description alone takes over {MAX_GROWTH_BYTES >> 30} GiB"
        ) from None
    finally:
        for hook in hooks:
            hook.remove()


def require_memory(num_parameters: int) -> None:
    """Refuse parameters that this machine's memory cannot hold once in fp32.

    Raises:
        ConfigError: says how much is missing.
    """
    here_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if 4 * num_parameters > here_bytes:
        raise ConfigError(
            f"the model has {num_parameters:,} parameters, {4 * num_parameters / 1e9:.1f} GB, and "
            f"this machine has {here_bytes / 1e9:.1f} GB of memory"
        )


class _Census:
    """Counts what is registered by the thread that made it."""

    def __init__(self) -> None:
        self._num_tensors = self._num_parameters = self._num_buffer_elements = 0
        self._owner = threading.get_ident()

    def on_parameter(self, module: nn.Module, name: str, param: Tensor | None) -> None:
        if param is None or threading.get_ident() != self._owner:
            return
        self._num_tensors += 1
        self._num_parameters += param.numel()
        if self._num_tensors > MAX_TENSORS:
            raise ConfigError(f"model.config: the model has more than {MAX_TENSORS} tensors")
        if self._num_parameters > MAX_PARAMETERS:
            raise ConfigError(f"model.config: the model has more than {MAX_PARAMETERS} parameters")

    def on_buffer(self, module: nn.Module, name: str, buffer: Tensor | None) -> None:
        if buffer is None or threading.get_ident() != self._owner:
            return
        self._num_buffer_elements += buffer.numel()
        if self._num_buffer_elements > MAX_BUFFER_ELEMENTS:
            raise ConfigError(
                f"model.config: the model's tables have more than {MAX_BUFFER_ELEMENTS} elements"
            )


@contextmanager
def _little_growth() -> Iterator[None]:
    """Let an allocation fail that would make the process much larger; where the system can tell."""
    try:
        now_bytes = int(_STATM.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # macOS does not enforce such a limit
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    most = now_bytes + MAX_GROWTH_BYTES
    if resource.RLIM_INFINITY not in before:
        most = min(most, before[0])
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
