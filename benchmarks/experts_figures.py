"""From bits per byte by arm, seed and domain to what the experiment says."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

Bits = Mapping[int, Mapping[str, float]]
"""Bits per byte by seed and domain, of one arm and one way to predict."""


def mean_by_domain(bits: Bits) -> dict[str, float]:
    """Returns the mean over the seeds, by domain."""
    domains = next(iter(bits.values()))
    return {domain: fmean(of_seed[domain] for of_seed in bits.values()) for domain in domains}


def over_domains(bits: Bits, domains: Iterable[str]) -> dict[str, float]:
    """Returns the mean over these domains: mean, least and greatest of the seeds."""
    names = list(domains)
    by_seed = [fmean(of_seed[domain] for domain in names) for of_seed in bits.values()]
    return {
        "mean": round(fmean(by_seed), 4),
        "least": round(min(by_seed), 4),
        "greatest": round(max(by_seed), 4),
    }


def wins(bits: Bits, baseline: Bits) -> dict[str, Any]:
    """Returns where an arm needs fewer bits than another one, seeds paired.

    `all_seeds` are the domains where each seed says so; the others may be chance.
    """
    seeds = sorted(bits.keys() & baseline.keys())
    mine = mean_by_domain({seed: bits[seed] for seed in seeds})
    other = mean_by_domain({seed: baseline[seed] for seed in seeds})
    won = [domain for domain in mine if mine[domain] < other[domain]]
    return {
        "won": len(won),
        "of": len(mine),
        "all_seeds": sum(
            all(bits[seed][domain] < baseline[seed][domain] for seed in seeds) for domain in mine
        ),
        "lost": [domain for domain in mine if domain not in won],
    }


def best_of(arms: Mapping[str, Bits]) -> Bits:
    """Returns the bits of whichever arm is best in a domain, chosen by the mean over the seeds.

    The choice is made on what it is judged by, as the paper's count is: of M arms that differ by
    chance alone, one is better than a further one in M / (M + 1) of the domains.
    """
    means = {name: mean_by_domain(bits) for name, bits in arms.items()}
    domains = next(iter(means.values()))
    winner = {domain: min(means, key=lambda name: means[name][domain]) for domain in domains}
    seeds = set.intersection(*(set(bits) for bits in arms.values()))
    return {
        seed: {domain: arms[winner[domain]][seed][domain] for domain in domains}
        for seed in sorted(seeds)
    }


def change(bits: Bits, baseline: Bits, domain: str) -> tuple[float, float, float]:
    """Returns by how many bits an arm differs in a domain: mean, least, greatest of the seeds."""
    seeds = bits.keys() & baseline.keys()
    each = [bits[seed][domain] - baseline[seed][domain] for seed in seeds]
    return fmean(each), min(each), max(each)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns rows with the same keys as a table."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    lines += ["| " + " | ".join(_words(row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def _words(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
