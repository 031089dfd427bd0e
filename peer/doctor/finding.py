"""What a check finds, and what all findings together mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["good", "unknown", "poor", "fatal"]
"""`poor` works, though not as it could; with `fatal` joining would fail."""

EXIT_CODES = {"good": 0, "unknown": 0, "poor": 1, "fatal": 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    subject: str
    """What was looked at."""
    verdict: Verdict
    found: str
    why: str = ""
    """What is poor about it, in a sentence."""
    fix: str = ""
    """The command that changes it, or what to do."""


def exit_code(findings: Sequence[Finding]) -> int:
    """Returns 0 if all is well, 1 if something is poor, 2 if joining would fail."""
    return max((EXIT_CODES[finding.verdict] for finding in findings), default=0)


def conclusion(findings: Sequence[Finding], *, run: str = "") -> str:
    """Returns the last sentence: what all of it comes to.

    Args:
        findings: Of all checks.
        run: Which one was to be joined; empty if only the machine was looked at.
    """
    for finding in findings:
        if finding.verdict == "fatal":
            which = f"run {run}" if run else "a run"
            because = f"{finding.subject}: {finding.found}"
            return f"Joining {which} from here would fail: {because}. The fix is above."
    num_poor = sum(finding.verdict == "poor" for finding in findings)
    things = "one thing is" if num_poor == 1 else f"{num_poor} things are"
    if run:
        poor = f"Joining run {run} works, but {things} poor; see above."
        return poor if num_poor else f"Joining run {run} makes sense."
    return f"{things.capitalize()} poor; see above." if num_poor else "This machine is well."
