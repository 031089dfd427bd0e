"""From the manifest's names to the objects that do the work."""

from pathlib import Path
from typing import Any

import torch

from optim.codec.codec import Codec
from optim.method import Method, method_of
from peer.mixing import Mixing
from peer.train.model import initial_anchors, layout_of_run
from protocol.errors import ConfigError
from protocol.identity import PeerId
from protocol.manifest import Manifest


def method_of_run(manifest: Manifest) -> Method:
    """Returns the run's point on the four axes.

    Raises:
        ConfigError: names the setting that cannot work, alone or with the others, and says why.
    """
    spec = manifest.method
    try:
        return method_of(
            mixing=spec.mixing,
            group_size=spec.group_size,
            schedule=_given(spec.schedule.model_dump()),
            codec=_given(spec.codec.model_dump()),
            outer={**spec.outer.constants, "rule": spec.outer.rule},
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(f"method: {error}") from None


def check_method(manifest: Manifest) -> None:
    """Refuses a method whose axes do not work, alone, together, or with the run's model.

    Raises:
        ConfigError: names the setting, and says why.
    """
    method = method_of_run(manifest)
    layout_of_run(manifest)
    if method.mixing == "groups" and method.group_size > manifest.limits.max_peers:
        raise ConfigError(
            f"method.group_size: groups of {method.group_size}, but limits.max_peers allows only "
            f"{manifest.limits.max_peers} in one roster"
        )


def mixing_of(manifest: Manifest, our_id: PeerId, files: Path | None = None) -> Mixing:
    """Returns the outer side of a new peer of the run, at the initial anchor.

    Args:
        manifest: The run.
        our_id: Of the peer.
        files: Where the run's files are; see `peer.run_files`.

    Raises:
        ConfigError: theta_0 comes from a file that is not there, or does not fit the model.
    """
    method = method_of_run(manifest)
    for codec in method.codecs:
        warm(codec)
    return Mixing(
        layout_of_run(manifest),
        method.outer,
        method.codecs,
        initial_anchors(manifest, files),
        our_id=our_id,
        grain_bytes=manifest.limits.chunk_bytes,
        is_common=method.mixing == "all",
    )


def warm(codec: Codec) -> None:
    """Compiles a codec's kernels, which takes seconds the first time on a machine."""
    near = torch.zeros(8)
    for each in (codec, codec.for_average(2)):
        each.accumulate(each.encode(near, near=near), torch.zeros(8), 1.0, near=near)
        each.decode(each.encode(near, near=near), 8, near=near)


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}
