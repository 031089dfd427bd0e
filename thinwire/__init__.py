"""Train one model together, over the wires you already have."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bootstrap.found_model import found
    from optim.codec.codec import Codec, codec_named
    from optim.inner import inner_optimizer
    from optim.layout import Layout, flatten_into, layout_of, load_from, shapes_of
    from optim.merge import WeightedMean
    from optim.method import Method, method_named
    from optim.outer.co2 import CO2
    from optim.outer.copy import Outer
    from optim.outer.delayed_nesterov import DelayedNesterov
    from optim.outer.eager import Eager
    from optim.outer.heavyball import HeavyBall
    from optim.outer.named import outer_rule_named
    from optim.outer.nesterov import Nesterov
    from optim.outer.noloco import NoLoCo
    from optim.outer.plain import Plain
    from optim.posterior import estimated_prior
    from optim.presets import PRESETS
    from optim.schedule import Schedule
    from optim.swarm import LocalSwarm
    from peer.collective import CollectiveOuter
    from peer.experts.ensemble import Ensemble
    from peer.experts.expert import Expert
    from peer.experts.folder import read_models
    from peer.loop.joining import join
    from peer.loop.swarm import Swarm
    from protocol.manifest import Manifest, manifest_from
    from protocol.ticket import Ticket, parse_ticket

__version__ = "0.1.0"

# Looked up when first used: the command must answer --help without loading torch for seconds.
_HOMES = {
    "Codec": "optim.codec.codec",
    "codec_named": "optim.codec.codec",
    "inner_optimizer": "optim.inner",
    "Layout": "optim.layout",
    "flatten_into": "optim.layout",
    "layout_of": "optim.layout",
    "load_from": "optim.layout",
    "shapes_of": "optim.layout",
    "WeightedMean": "optim.merge",
    "Method": "optim.method",
    "method_named": "optim.method",
    "CO2": "optim.outer.co2",
    "Outer": "optim.outer.copy",
    "DelayedNesterov": "optim.outer.delayed_nesterov",
    "Eager": "optim.outer.eager",
    "HeavyBall": "optim.outer.heavyball",
    "outer_rule_named": "optim.outer.named",
    "Nesterov": "optim.outer.nesterov",
    "NoLoCo": "optim.outer.noloco",
    "Plain": "optim.outer.plain",
    "estimated_prior": "optim.posterior",
    "PRESETS": "optim.presets",
    "Schedule": "optim.schedule",
    "LocalSwarm": "optim.swarm",
    "CollectiveOuter": "peer.collective",
    "Ensemble": "peer.experts.ensemble",
    "Expert": "peer.experts.expert",
    "read_models": "peer.experts.folder",
    "Swarm": "peer.loop.swarm",
    "join": "peer.loop.joining",
    "found": "bootstrap.found_model",
    "Manifest": "protocol.manifest",
    "manifest_from": "protocol.manifest",
    "Ticket": "protocol.ticket",
    "parse_ticket": "protocol.ticket",
}

__all__ = [
    "CO2",
    "PRESETS",
    "Codec",
    "CollectiveOuter",
    "DelayedNesterov",
    "Eager",
    "Ensemble",
    "Expert",
    "HeavyBall",
    "Layout",
    "LocalSwarm",
    "Manifest",
    "Method",
    "Nesterov",
    "NoLoCo",
    "Outer",
    "Plain",
    "Schedule",
    "Swarm",
    "Ticket",
    "WeightedMean",
    "codec_named",
    "estimated_prior",
    "flatten_into",
    "found",
    "inner_optimizer",
    "join",
    "layout_of",
    "load_from",
    "manifest_from",
    "method_named",
    "outer_rule_named",
    "parse_ticket",
    "read_models",
    "shapes_of",
]


def __getattr__(name: str) -> Any:
    """Returns a public name from the room where it lives."""
    if name not in _HOMES:
        raise AttributeError(f"module 'thinwire' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
