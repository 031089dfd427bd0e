"""Outer rules by name, as a manifest or a preset writes them."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, cast

from optim.outer.co2 import CO2
from optim.outer.delayed_nesterov import DelayedNesterov
from optim.outer.eager import Eager
from optim.outer.heavyball import HeavyBall
from optim.outer.nesterov import Nesterov
from optim.outer.noloco import NoLoCo
from optim.outer.plain import Plain
from optim.outer.rule import OuterRule

OUTER_RULES: dict[str, type[OuterRule]] = {
    "nesterov": Nesterov,
    "heavyball": HeavyBall,
    "noloco": NoLoCo,
    "eager": Eager,
    "co2": CO2,
    "plain": Plain,
    "delayed_nesterov": DelayedNesterov,
}


def outer_rule_named(rule: str, **constants: float | str) -> OuterRule:
    """Return the outer rule of that name.

    Args:
        rule: One of `OUTER_RULES`.
        **constants: The rule's own, such as `lr` and `momentum`.

    Raises:
        ValueError: There is no such rule or constant, or a constant is out of its range.
    """
    if rule not in OUTER_RULES:
        raise ValueError(f"there is no outer rule {rule!r}; choose one of {', '.join(OUTER_RULES)}")
    make = cast("Callable[..., OuterRule]", OUTER_RULES[rule])
    known = {field.name: field for field in fields(cast("Any", OUTER_RULES[rule]))}
    for name, value in constants.items():
        if name not in known:
            raise ValueError(f"{rule} has no constant {name!r}; it has {', '.join(known)}")
        expected = type(known[name].default)
        if isinstance(value, str) != (expected is str):
            kind = "a name" if expected is str else "a number"
            raise ValueError(f"{rule}'s {name} is {kind}, not {value!r}")
    return make(**constants)
