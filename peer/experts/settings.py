"""From run.toml to the domains of a manifest, before the division.

`[model]`, `[inner]`, `[method]` and `[data]` are the defaults of all domains. A domain's own model
or total_steps are given, and no division changes them; anything else of its own is an exception
to the defaults. `recipe = "domains"` is the text of all experts' domains, for a seed.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from peer.experts.probe import PROBE_STEPS
from peer.experts.undivided import Draft, Undivided
from peer.settings import method_settings
from peer.train.recipes import AND, MIX
from protocol.errors import ConfigError
from protocol.manifest import DataSpec, Manifest, manifest_from
from protocol.models import ModelSpec

ALL_DOMAINS = "domains"
"""The recipe of a seed that reads what all experts read."""
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_OWN = {"name", "recipe", "total_steps"}
_TABLES = ("model", "inner", "data")
_SIZED = ("size", "both")


def undivided(settings: Mapping[str, Any]) -> Undivided:
    """Return the domains that an operator's settings describe.

    Args:
        settings: As in run.toml, with a `founder`, and with `domains`.

    Raises:
        ConfigError: names the domain and the setting that is wrong, and says why.
    """
    tables = _domain_tables(settings)
    experts = _table(settings.get("experts", {}), "experts")
    probe_steps = experts.pop("probe_steps", PROBE_STEPS)
    if type(probe_steps) is not int or probe_steps < 1:
        raise ConfigError(f"experts.probe_steps: a number of steps from 1, got {probe_steps!r}")
    plain = {key: value for key, value in settings.items() if key not in ("experts", "domains")}
    plain["method"] = method_settings(settings.get("method", "diloco"))
    manifest_from(plain)  # a default that is wrong is not each domain's fault
    specs = [_resolved(table, settings, tables) for table in tables]
    _check_together(specs)
    try:
        manifest = manifest_from({**plain, "experts": experts, "domains": specs})
    except ConfigError as error:
        raise ConfigError(_by_name(str(error), tables)) from None
    drafts = tuple(
        Draft(
            spec,
            has_model="model" in table,
            has_steps="total_steps" in table or "total_steps" in table.get("inner", {}),
        )
        for spec, table in zip(manifest.domains, tables, strict=True)
    )
    _check_division(manifest, drafts)
    return Undivided(manifest, drafts, probe_steps)


def _domain_tables(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    given = settings.get("domains")
    if not given or not isinstance(given, list) or not all(isinstance(t, dict) for t in given):
        raise ConfigError("domains: write each domain as a table, [[domains]]")
    seen: set[str] = set()
    for table in given:
        name = table.get("name")
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise ConfigError(
                f"domain name {name!r}: use up to 32 of a-z, 0-9, _ and -, and begin with a letter "
                "or a digit"
            )
        if name in seen:
            raise ConfigError(f"two domains are called {name}; give each a name of its own")
        if not isinstance(table.get("recipe"), str):
            raise ConfigError(f'domain {name} has no text; write recipe = "text:GLOB", or another')
        seen.add(name)
    return given


def _resolved(
    table: Mapping[str, Any], settings: Mapping[str, Any], tables: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return a domain's table with the defaults below it."""
    name = table["name"]
    own = {key: value for key, value in table.items() if key not in _OWN}
    for key in _TABLES:
        default = _table(settings.get(key, {}), key)
        own[key] = default | _table(table.get(key, {}), f"domain {name}: {key}")
    is_mix = table["recipe"] == ALL_DOMAINS
    own["data"]["recipe"] = _mix(name, tables) if is_mix else table["recipe"]
    if "total_steps" in table:
        own["inner"]["total_steps"] = table["total_steps"]
    try:
        own["method"] = method_settings(_method(settings.get("method", "diloco"), table))
    except ConfigError as error:
        raise ConfigError(f"domain {name}: {error}") from None
    return {"name": name, **own}


def _method(default: object, table: Mapping[str, Any]) -> object:
    """Return a domain's method: a preset is a new one, a table without one alters the default."""
    own = table.get("method", default)
    if not isinstance(own, dict) or "preset" in own or "method" not in table:
        return own
    base = {"preset": default} if isinstance(default, str) else _table(default, "method")
    merged = dict(base)
    for axis, value in own.items():
        below = base.get(axis)
        merged[axis] = (
            {**below, **value} if isinstance(below, dict) and isinstance(value, dict) else value
        )
    return merged


def _mix(seed: str, tables: Sequence[Mapping[str, Any]]) -> str:
    """Return the recipe of all experts' text."""
    parts = [
        table["recipe"]
        for table in tables
        if table["name"] != seed and table.get("is_expert", True) is True
    ]
    if not parts or any(AND in part or part == ALL_DOMAINS for part in parts):
        raise ConfigError(
            f"domain {seed}: recipe {ALL_DOMAINS!r} joins the recipes of the other domains with "
            f"{AND!r}, so there must be some, and none may have that in it or be such a one"
        )
    return MIX + AND.join(dict.fromkeys(parts))


def _check_together(specs: Sequence[Mapping[str, Any]]) -> None:
    """Refuse domains that do not go with each other."""
    if not any(spec.get("is_expert", True) for spec in specs):
        raise ConfigError("none of the domains is an expert; leave is_expert = false out of some")
    first = specs[0]
    before: dict[str, Mapping[str, Any]] = {}
    for spec in specs:
        name, source = spec["name"], spec.get("branch_from", "")
        if _tokenizer(spec) != _tokenizer(first):
            raise ConfigError(
                f"domain {name} has tokenizer {_tokenizer(spec)!r} and domain {first['name']} "
                f"{_tokenizer(first)!r}: experts share one tokenizer"
            )
        if source and source not in before:
            raise ConfigError(
                f"domain {name} branches from {source!r}, which is no domain before it; there "
                f"{'are ' + ', '.join(before) if before else 'is none'}"
            )
        if source and _shape(spec) != _shape(before[source]):
            raise ConfigError(
                f"domain {name} branches from {source}, whose model has another shape; give both "
                "the same model"
            )
        before[name] = spec


def _tokenizer(spec: Mapping[str, Any]) -> object:
    return spec["data"].get("tokenizer", DataSpec().tokenizer)


def _shape(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {**ModelSpec().model_dump(), **spec["model"]}


def _check_division(manifest: Manifest, drafts: Sequence[Draft]) -> None:
    experts = manifest.experts
    if experts.budget_flops is not None and all(draft.has_steps for draft in drafts):
        raise ConfigError(
            "experts.budget_flops: each domain has total_steps of its own, so there is nothing to "
            "divide; leave one of them out"
        )
    for draft in drafts:
        spec = draft.spec
        is_shaped = experts.division in _SIZED and spec.is_expert and not draft.has_model
        if spec.branch_from and is_shaped:
            raise ConfigError(
                f"domain {spec.name} branches from {spec.branch_from}, which needs equal shapes, "
                f"but division {experts.division!r} gives each domain a shape of its own; use "
                "equal or steps, or give both the same model"
            )


def _table(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: write a table of settings, got {value!r:.60}")
    return dict(value)


def _by_name(error: str, tables: Sequence[Mapping[str, Any]]) -> str:
    """Return a manifest's complaint with the domain's name for its number."""
    match = re.match(r"domains\.(\d+)\.?(.*)", error, re.DOTALL)
    return f"domain {tables[int(match[1])]['name']}: {match[2]}" if match else error
