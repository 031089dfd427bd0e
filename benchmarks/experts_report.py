"""The tables, the picture and the summary of `benchmarks.experts`, from scores on the disk."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.experts_arms import EXPERT_ARMS, HDEE_SPREAD, PAPER, flops_of
from benchmarks.experts_figures import (
    Bits,
    best_of,
    change,
    markdown,
    mean_by_domain,
    over_domains,
    wins,
)
from benchmarks.experts_picture import draw
from benchmarks.experts_scores import asked_sparsely, bits, judged, scores_of
from benchmarks.experts_texts import Texts
from benchmarks.experts_training import Training

Arms = Mapping[str, Mapping[int, Sequence[Training]]]
"""The trainings of each arm, by seed."""

_WAYS = ("uniform", "estimated", "top1", "best")
_BRANCHED = "branched, "


class _Book:
    """Everything that was measured, `[arm][way]` -> bits by seed and domain."""

    def __init__(self, arms: Arms, texts: Texts, folder: Path, domains: Sequence[str]) -> None:
        self.bits: dict[str, dict[str, dict[int, dict[str, float]]]] = {}
        self.alone: dict[str, dict[str, dict[int, dict[str, float]]]] = {}
        """Of each expert, `[arm][expert]`."""
        for name, by_seed in arms.items():
            self.bits[name] = {way: {} for way in (*_WAYS, "average")}
            self.alone[name] = {}
            for seed, members in by_seed.items():
                self._enter(name, seed, members, texts, folder, domains)
            self.bits[name] = {way: bits for way, bits in self.bits[name].items() if bits}

    def _enter(
        self,
        arm: str,
        seed: int,
        members: Sequence[Training],
        texts: Texts,
        folder: Path,
        domains: Sequence[str],
    ) -> None:
        scores = [scores_of([member], texts, folder) for member in members]
        by_domain = {domain: judged(scores, domain) for domain in domains}
        for way in _WAYS:
            self.bits[arm][way][seed] = {d: figures[way] for d, figures in by_domain.items()}
        for member, own in zip(members, scores, strict=True):
            row = {domain: bits(own[f"test/{domain}"]) for domain in domains}
            self.alone[arm].setdefault(member.text, {})[seed] = row
        if len(members) > 1 and len({member.spec for member in members}) == 1:
            of_all = scores_of(members, texts, folder)
            average = {domain: bits(of_all[f"test/{domain}"]) for domain in domains}
            self.bits[arm]["average"][seed] = average


def report(
    arms: Arms,
    difficulty: Mapping[str, Mapping[str, float]],
    texts: Texts,
    folder: Path,
    own: Sequence[str],
    unseen: Sequence[str],
    *,
    png: Path | None,
) -> dict[str, Any]:
    """Prints the tables, draws the picture if one is wanted, and returns the summary."""
    domains = (*own, *unseen)
    book = _Book(arms, texts, folder, domains)
    estimated = {name: ways["estimated"] for name, ways in book.bits.items()}
    table = [_row(name, book, arms, own, unseen) for name in arms]
    print(markdown(table))
    by_domain = _by_domain(estimated, domains)
    print("\n" + markdown(by_domain))
    divisions = _divisions(arms, difficulty)
    print("\n" + markdown(divisions))
    if png is not None:
        _draw(book, estimated, domains, len(own), png, len(next(iter(arms.values()))))
    return {
        "difficulty": difficulty,
        "arms": table,
        "by_domain": by_domain,
        "claims": _claims(estimated, own, unseen),
        "sparse": _sparse(arms, texts, folder, estimated, own),
        "divisions": divisions,
        "bits": book.bits,
        "alone": book.alone,
    }


def _row(
    name: str, book: _Book, arms: Arms, own: Sequence[str], unseen: Sequence[str]
) -> dict[str, Any]:
    ways = book.bits[name]
    is_branched = name.startswith(_BRANCHED)
    baseline = book.bits[f"{_BRANCHED if is_branched else ''}equal"]["estimated"]
    against = wins(ways["estimated"], baseline)
    against_dense = wins(ways["estimated"], book.bits["dense"]["estimated"])
    diagonal = [
        book.alone[name][domain][seed][domain] if domain in book.alone[name] else of_seed[domain]
        for seed, of_seed in ways["estimated"].items()
        for domain in own
    ]
    average = over_domains(ways["average"], own)["mean"] if "average" in ways else "-"
    flops = fmean(flops_of(members) for members in arms[name].values())
    return {
        "arm": name,
        "own domains": _range(ways["estimated"], own),
        "uniform prior": over_domains(ways["uniform"], own)["mean"],
        "top-1": over_domains(ways["top1"], own)["mean"],
        "own expert": fmean(diagonal),
        "average": average,
        "unseen": _range(ways["estimated"], unseen),
        "best expert, unseen": over_domains(ways["best"], unseen)["mean"],
        "beats equal": f"{against['won']} of {against['of']} ({against['all_seeds']})",
        "beats dense": f"{against_dense['won']} of {against_dense['of']}",
        "1e12 FLOPs": round(flops / 1e12, 3),
    }


def _range(bits: Bits, domains: Sequence[str]) -> str:
    figures = over_domains(bits, domains)
    return f"{figures['mean']:.3f} ({figures['least']:.3f}-{figures['greatest']:.3f})"


def _by_domain(estimated: Mapping[str, Bits], domains: Sequence[str]) -> list[dict[str, Any]]:
    """Returns each domain's bits in the equal arm, and by how many thousandths others differ."""
    rows = []
    for domain in domains:
        row: dict[str, Any] = {"domain": domain}
        for name, bits_of_arm in estimated.items():
            prefix = _BRANCHED if name.startswith(_BRANCHED) else ""
            if name == f"{prefix}equal":
                row[name] = mean_by_domain(bits_of_arm)[domain]
                continue
            each = change(bits_of_arm, estimated[f"{prefix}equal"], domain)
            mean, least, greatest = (round(1000 * bit) for bit in each)
            row[name] = f"{mean:+d} ({least:+d} to {greatest:+d})"
        rows.append(row)
    return rows


def _claims(
    estimated: Mapping[str, Bits], own: Sequence[str], unseen: Sequence[str]
) -> dict[str, Any]:
    """Returns what HDEE says, counted as HDEE does and otherwise."""
    uneven = {name: bits_of_arm for name, bits_of_arm in estimated.items() if name in PAPER[1:]}
    branched = {
        name: bits_of_arm
        for name, bits_of_arm in estimated.items()
        if name.startswith(_BRANCHED) and not name.endswith("equal")
    }
    all_uneven = {
        arm.name: estimated[arm.name]
        for arm in EXPERT_ARMS
        if arm.division != "equal" and arm.spread == HDEE_SPREAD and not arm.is_branched
    }
    equal, branched_equal = estimated["equal"], estimated[f"{_BRANCHED}equal"]
    counted: dict[str, Callable[[], Any]] = {
        "best of steps, size and both against equal": lambda: wins(best_of(uneven), equal),
        "best of all uneven arms against equal": lambda: wins(best_of(all_uneven), equal),
        "best of branched, uneven against branched, equal": lambda: wins(
            best_of(branched), branched_equal
        ),
        "equal against dense": lambda: wins(equal, estimated["dense"]),
        "branched, equal against dense": lambda: wins(branched_equal, estimated["dense"]),
        "branched, equal against dense large": lambda: wins(
            branched_equal, estimated["dense large"]
        ),
    }
    overall = {
        name: [over_domains(bits_of_arm, part) for part in (own, unseen)]
        for name, bits_of_arm in estimated.items()
    }
    return {name: count() for name, count in counted.items()} | {"own, unseen": overall}


def _divisions(
    arms: Arms, difficulty: Mapping[str, Mapping[str, float]]
) -> list[dict[str, object]]:
    """Returns who got what, by domain; the seeds do not differ."""
    rows = []
    for place, domain in enumerate(difficulty["level"]):
        row: dict[str, object] = {"domain": domain}
        row |= {measure: figures[domain] for measure, figures in difficulty.items()}
        for name, by_seed in arms.items():
            members = next(iter(by_seed.values()))
            if len(members) > 1:
                one = members[place]
                row[name] = f"{one.spec.dim}x{one.spec.layers}, {one.steps}"
        rows.append(row)
    return rows


def _sparse(
    arms: Arms,
    texts: Texts,
    folder: Path,
    estimated: Mapping[str, Bits],
    own: Sequence[str],
) -> dict[str, Any]:
    """Returns what asking only likely experts costs and saves, with the first seed's experts."""
    found = {}
    for name in ("equal", f"{_BRANCHED}equal"):
        seed = min(arms[name])
        sparse, asked_frac = asked_sparsely(arms[name][seed], texts, folder)
        dense = estimated[name][seed]
        found[name] = {
            "asked_frac": round(asked_frac, 3),
            "own": [fmean(each[d] for d in own) for each in (dense, sparse)],
            "unseen": [fmean(each[d] for d in each if d not in own) for each in (dense, sparse)],
        }
    return found


def _draw(
    book: _Book,
    estimated: Mapping[str, Bits],
    domains: Sequence[str],
    num_own: int,
    path: Path,
    num_seeds: int,
) -> None:
    matrix = {expert: mean_by_domain(each) for expert, each in book.alone["equal"].items()}
    for label, name in (
        ("ensemble, equal", "equal"),
        ("ensemble, branched", f"{_BRANCHED}equal"),
        ("dense", "dense"),
        ("dense large, first seed", "dense large"),
    ):
        matrix[label] = mean_by_domain(estimated[name])
    draw(
        {name: {domain: row[domain] for domain in domains} for name, row in matrix.items()},
        {name: estimated[name] for name in (*PAPER[1:], "steps, slope")},
        estimated["equal"],
        num_own=num_own,
        path=path,
        subtitle=f"equal FLOPs for all, mean of {num_seeds} seeds, priors from held-out text",
    )
