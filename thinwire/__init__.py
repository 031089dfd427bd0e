"""Train one model together, over the wires you already have."""

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
