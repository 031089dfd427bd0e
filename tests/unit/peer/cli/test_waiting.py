import pytest

from peer.cli.waiting import wait_words
from peer.waits import GRACE_S, Progress, Waits
from protocol.identity import PeerId

PEERS = tuple(PeerId(f"12D3KooW{number:06}") for number in range(5))


def words(age_s: float, progress: Progress | None = None, within_s: float = 60.0) -> str:
    waits = Waits(lambda: 0.0)
    waits.begin("key", "an average", "part 3", whom=PEERS[:1], within_s=within_s, progress=progress)
    return wait_words(waits.now()[0], age_s)


def test_a_wait_says_what_for_whom_how_long_how_far_and_until_when() -> None:
    assert words(12.2, lambda: (45, 100)) == (
        "an average (part 3) from 000000: 12 s, 45 %, at most 48 s more"
    )


def test_a_wait_without_a_deadline_says_what_ends_it() -> None:
    waits = Waits(lambda: 0.0)
    waits.begin("key", "a quorum", whom=PEERS, until="enough peers are ready")
    assert wait_words(waits.now()[0], 7384.0) == (
        "a quorum from 000000, 000001, 000002 and 2 more: 2 h 3 min, until enough peers are ready"
    )


@pytest.mark.parametrize(
    ("done", "expected"),
    [((0, 8), "0 %"), ((8, 8), "100 %"), ((9, 8), "100 %"), ((0, 0), None), (None, None)],
)
def test_progress_is_a_part_of_what_is_known(
    done: tuple[int, int] | None, expected: str | None
) -> None:
    parts = words(12, lambda: done).split(": ")[1].split(", ")
    assert parts[1:-1] == ([expected] if expected else [])


def test_what_should_have_ended_says_so_after_the_grace() -> None:
    assert words(60 + GRACE_S).endswith("at most 0 s more")
    assert words(70 + GRACE_S).endswith(f"should have ended {10 + GRACE_S:.0f} s ago")
