"""What to do when others refuse us, or we them: the reason in our words, and the fix."""

UPGRADE = "pip install --upgrade thinwire"

_REMEDIES = (
    (
        "version",
        "the two programs speak different versions of the protocol; the older one must follow",
        UPGRADE,
    ),
    (
        "by invitation",
        "the run lets in only who has its whole ticket, with the secret",
        "ask whoever invited you for the ticket that their node prints",
    ),
    (
        "was not invited",
        "whoever answers there does not know the secret of your ticket",
        "ask whoever invited you for the ticket that their node prints",
    ),
    (
        "is in run",
        "that node serves another run now",
        "ask for the ticket of this run, or join the other one with its own ticket",
    ),
    (
        "a clock is days off",
        "where clocks differ by more than a day, no certificate counts",
        "set this machine's clock (sudo timedatectl set-ntp true), or ask for a newer ticket",
    ),
)


def remedy(refusal: str) -> tuple[str, str] | None:
    """Returns why we do not get along, and what to do; None if the words are of no known kind.

    Args:
        refusal: Their words, or what went wrong.
    """
    for words, why, fix in _REMEDIES:
        if words in refusal:
            return why, fix
    return None


def newer_run(problem: str) -> str:
    """Returns what to tell who has a manifest that is the run's, but cannot be read here.

    Args:
        problem: What is wrong with it.
    """
    return f"this run was founded by a newer version of thinwire ({problem}); upgrade: {UPGRADE}"
