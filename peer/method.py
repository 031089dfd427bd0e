"""From the manifest's names to the objects that do the work."""

import torch

from optim.codec.codec import Codec, codec_named
from optim.layout import Layout, layout_of, shapes_of
from optim.outer.named import outer_rule_named
from optim.outer.rule import OuterRule
from optim.schedule import Schedule
from peer.mixing import Mixing
from peer.train.model import VOCAB_SIZE, Transformer, initial_anchor
from protocol.errors import ConfigError
from protocol.manifest import Manifest


def layout_of_run(manifest: Manifest) -> Layout:
    """Returns the layout that every peer of the run derives; allocates no parameters.

    Raises:
        ConfigError: more fragments than tensors.
    """
    with torch.device("meta"):
        model = Transformer(manifest.model, VOCAB_SIZE[manifest.data.tokenizer])
    try:
        return layout_of(shapes_of(model), num_fragments=manifest.method.schedule.fragments)
    except ValueError as error:
        raise ConfigError(f"method.schedule.fragments: {error}") from None


def outer_rule_of(manifest: Manifest) -> OuterRule:
    """Returns the run's outer rule.

    Raises:
        ConfigError: no such rule, or constants that cannot work.
    """
    outer = manifest.method.outer
    try:
        return outer_rule_named(outer.rule, **outer.constants)
    except ValueError as error:
        raise ConfigError(f"method.outer: {error}") from None


def codec_of(manifest: Manifest) -> Codec:
    """Returns the run's codec.

    Raises:
        ConfigError: no such codec.
    """
    codec = manifest.method.codec
    try:
        return codec_named(codec.name, block=codec.block)
    except ValueError as error:
        raise ConfigError(f"method.codec: {error}") from None


def check_method(manifest: Manifest) -> None:
    """Refuses a method whose axes do not work, alone or together.

    Raises:
        ConfigError: names the setting, and says why.
    """
    schedule = manifest.method.schedule
    try:
        Schedule(schedule.interval_steps, schedule.fragments, schedule.overlap_steps)
    except ValueError as error:
        raise ConfigError(f"method.schedule: {error}") from None
    layout_of_run(manifest)
    rule, codec = outer_rule_of(manifest), codec_of(manifest)
    if manifest.method.mixing == "all" and manifest.method.outer.rule == "noloco":
        raise ConfigError("method: rule noloco is for pairs; with mixing all use nesterov")
    if manifest.method.mixing == "pairs" and manifest.method.outer.rule != "noloco":
        raise ConfigError(
            f"method: with mixing pairs anchors differ from peer to peer, and rule "
            f"{manifest.method.outer.rule} does not draw them together; use noloco"
        )
    if manifest.method.outer.rule == "noloco" and rule.lanes == 1 and codec.name == "int8":
        raise ConfigError(
            "method: with gamma = lr, noloco sends the parameters themselves, which int8 would "
            "damage; use codec bf16 or fp32"
        )


def mixing_of(manifest: Manifest) -> Mixing:
    """Returns the outer side of a new peer of the run, at the initial anchor."""
    return Mixing(
        layout_of_run(manifest),
        outer_rule_of(manifest),
        codec_of(manifest),
        initial_anchor(manifest),
    )
