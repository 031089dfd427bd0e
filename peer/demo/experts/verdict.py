"""Whether the demo with domains showed what it promises: a sentence for each broken promise."""

from peer.demo import script as common
from peer.demo.experts.play import Play
from peer.demo.experts.report import Report


def problems_of(report: Report, play: Play) -> list[str]:
    """Returns the sentences; none when all is well."""
    return [*_of_the_death(report), *_of_the_domains(play), *_of_the_figures(report)]


def _of_the_death(report: Report) -> list[str]:
    kill, rescue = report.kill, report.rescue
    if kill is None:
        return ["nobody was killed: no peer was alone in a domain of which others had a copy"]
    if rescue is None:
        return [f"nobody took {kill.domain} over after {kill.peer} was killed"]
    if rescue.step <= 0:
        return [f"{rescue.peer} began {kill.domain} anew, instead of from a copy"]
    if not rescue.rounds_landed:
        return [f"{rescue.peer} took {kill.domain} over, but nothing landed there with its work"]
    return []


def _of_the_domains(play: Play) -> list[str]:
    problems = [
        f"{standing.domain} did not reach its budget: it was at step {standing.step} of "
        f"{standing.total_steps} when time was up"
        for standing in play.standings
        if not standing.is_done
    ]
    lacking = play.survivors.keys() - set(play.complete())
    if lacking and not problems:
        problems.append(f"experts were missing when time was up, at {', '.join(sorted(lacking))}")
    return problems + [
        f"{name} did not leave within {common.LEAVE_S:g} s of Ctrl+C"
        if code is None
        else f"{name} left with exit code {code}"
        for name, code in play.exit_codes.items()
        if code != 0
    ]


def _of_the_figures(report: Report) -> list[str]:
    experts = [each for each in report.judged if each.kind == "expert"]
    if len(experts) < len(report.domains):
        return ["not every expert could be measured"]
    best = min(experts, key=lambda each: each.mean)
    return [
        f"the ensemble with {each.name} prior ({each.mean:.3f} bits/byte on average) is not better "
        f"than the expert of {best.name} alone ({best.mean:.3f})"
        for each in report.judged
        if each.kind == "ensemble" and not each.mean < best.mean
    ]
