"""Outer rules by name, as a manifest or a preset writes them."""

from dataclasses import fields

from optim.outer.nesterov import Nesterov
from optim.outer.noloco import NoLoCo
from optim.outer.rule import OuterRule

_RULES: dict[str, type[Nesterov] | type[NoLoCo]] = {"nesterov": Nesterov, "noloco": NoLoCo}


def outer_rule_named(rule: str, **constants: float) -> OuterRule:
    """Return the outer rule of that name.

    Args:
        rule: "nesterov" or "noloco".
        **constants: The rule's own, such as `lr` and `momentum`; the defaults are the paper's.

    Raises:
        ValueError: There is no such rule or constant, or a constant is out of its range.
    """
    if rule not in _RULES:
        raise ValueError(f"there is no outer rule {rule!r}; choose one of {', '.join(_RULES)}")
    known = [f.name for f in fields(_RULES[rule])]
    for name in constants:
        if name not in known:
            raise ValueError(f"{rule} has no constant {name!r}; it has {', '.join(known)}")
    return _RULES[rule](**constants)
