"""Train one model together, over the wires you already have."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optim.codec.codec import Codec, codec_named
    from optim.layout import Layout, flatten_into, layout_of, load_from, shapes_of
    from optim.merge import WeightedMean
    from optim.outer.named import outer_rule_named
    from optim.outer.nesterov import Nesterov
    from optim.outer.noloco import NoLoCo
    from optim.presets import PRESETS
    from optim.schedule import Schedule
    from protocol.manifest import Manifest, manifest_from
    from protocol.ticket import Ticket, parse_ticket

__version__ = "0.1.0"

# Looked up when first used: the command must answer --help without loading torch for seconds.
_HOMES = {
    "Codec": "optim.codec.codec",
    "codec_named": "optim.codec.codec",
    "Layout": "optim.layout",
    "flatten_into": "optim.layout",
    "layout_of": "optim.layout",
    "load_from": "optim.layout",
    "shapes_of": "optim.layout",
    "WeightedMean": "optim.merge",
    "outer_rule_named": "optim.outer.named",
    "Nesterov": "optim.outer.nesterov",
    "NoLoCo": "optim.outer.noloco",
    "PRESETS": "optim.presets",
    "Schedule": "optim.schedule",
    "Manifest": "protocol.manifest",
    "manifest_from": "protocol.manifest",
    "Ticket": "protocol.ticket",
    "parse_ticket": "protocol.ticket",
}

__all__ = [
    "PRESETS",
    "Codec",
    "Layout",
    "Manifest",
    "Nesterov",
    "NoLoCo",
    "Schedule",
    "Ticket",
    "WeightedMean",
    "codec_named",
    "flatten_into",
    "layout_of",
    "load_from",
    "manifest_from",
    "outer_rule_named",
    "parse_ticket",
    "shapes_of",
]


def __getattr__(name: str) -> Any:
    """Returns a public name from the room where it lives."""
    if name not in _HOMES:
        raise AttributeError(f"module 'thinwire' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
