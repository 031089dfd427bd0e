"""A run's domains before and after the division."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from peer.experts.division import Claim, Share, divide
from peer.experts.flops import flops_per_token
from peer.method import check_method
from protocol.domains import domain_manifest
from protocol.errors import ConfigError
from protocol.manifest import DomainSpec, Manifest


@dataclass(frozen=True, slots=True)
class Draft:
    """A domain before the division.

    Attributes:
        spec: With the default model and budget, unless they are given.
        has_model, has_steps: Whether they are given.
    """

    spec: DomainSpec
    has_model: bool
    has_steps: bool

    @property
    def step_tokens(self) -> int:
        """Tokens of one peer's inner step."""
        return self.spec.inner.batch_sequences * self.spec.model.context

    @property
    def flops(self) -> float:
        """What it costs undivided."""
        return flops_per_token(self.spec.model) * self.step_tokens * self.spec.inner.total_steps


@dataclass(frozen=True, slots=True)
class Undivided:
    """A run with domains before the division.

    Attributes:
        manifest: Whose domains are the drafts' specs.
        drafts: One for each domain.
        probe_steps: Of a probe, where one is needed.
    """

    manifest: Manifest
    drafts: tuple[Draft, ...]
    probe_steps: int

    @property
    def budget_flops(self) -> float:
        """What is divided: what was given, or what all cost undivided."""
        if all(draft.has_steps for draft in self.drafts):
            return math.inf  # nothing is left to divide
        return self.manifest.experts.budget_flops or sum(draft.flops for draft in self.drafts)

    def unknown(self, division: str) -> list[str]:
        """Return the names of the experts whose difficulty a division needs, and nobody gave."""
        if division == "equal":
            return []
        specs = (draft.spec for draft in self.drafts)
        return [spec.name for spec in specs if spec.is_expert and spec.difficulty is None]


def division_of(
    found: Undivided, difficulties: Mapping[str, float], *, division: str | None = None
) -> list[Share]:
    """Return what each domain gets.

    Args:
        found: The domains.
        difficulties: Of those whose difficulty is not given, as measured.
        division: Instead of the run's own.

    Raises:
        ConfigError: the budget is too small, or a difficulty is missing.
    """
    division = division or found.manifest.experts.division
    for name in found.unknown(division):
        if name not in difficulties:
            raise ConfigError(
                f"domain {name} has no difficulty, and division {division!r} needs one; give it "
                "one, or let it be measured"
            )
    claims = [_claim(draft, difficulties, division) for draft in found.drafts]
    inner = found.manifest.inner
    try:
        return divide(
            claims,
            found.manifest.transformer,
            division=division,
            spread=found.manifest.experts.spread,
            budget_flops=found.budget_flops,
            step_tokens=inner.batch_sequences * found.manifest.context,
            interval_steps=found.manifest.method.schedule.interval_steps,
        )
    except ValueError as error:
        where = "experts.budget_flops" if found.manifest.experts.budget_flops else "total_steps"
        raise ConfigError(f"{where}: {error}") from None


def domains_of(found: Undivided, difficulties: Mapping[str, float]) -> list[DomainSpec]:
    """Return the domains as the division makes them.

    Args:
        found: The domains before it.
        difficulties: Of those whose difficulty is not given, as measured.

    Raises:
        ConfigError: As `division_of`; or a domain's method does not fit its model.
    """
    shares = division_of(found, difficulties)
    domains = [
        draft.spec.model_copy(
            update={
                "model": share.model,
                "inner": draft.spec.inner.model_copy(update={"total_steps": share.total_steps}),
                "difficulty": draft.spec.difficulty or difficulties.get(draft.spec.name),
            }
        )
        for draft, share in zip(found.drafts, shares, strict=True)
    ]
    manifest = found.manifest.model_copy(update={"domains": domains})
    for domain in domains:
        try:
            check_method(domain_manifest(manifest, domain.name))
        except ConfigError as error:
            raise ConfigError(f"domain {domain.name}: {error}") from None
    return domains


def _claim(draft: Draft, difficulties: Mapping[str, float], division: str) -> Claim:
    spec = draft.spec
    difficulty = spec.difficulty or difficulties.get(spec.name)
    interval = spec.method.schedule.interval_steps
    return Claim(
        difficulty=difficulty if spec.is_expert and division != "equal" else None,
        model=spec.model if draft.has_model else None,
        total_steps=spec.inner.total_steps if draft.has_steps else None,
        step_tokens=draft.step_tokens,
        interval_steps=interval,
        least_steps=max(interval, spec.inner.warmup_steps),
    )
