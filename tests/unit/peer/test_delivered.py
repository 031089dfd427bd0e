import json
from pathlib import Path

from peer.delivered import delivered_since

CHECKPOINT = Path("checkpoints/step-00000009-000002")


def log(path: Path, *landings: tuple[int, int, bool]) -> Path:
    lines = [
        json.dumps({"event": "landed", "fragment": f, "round": r, "contributed": c})
        for f, r, c in landings
    ]
    path.write_text("\n".join([json.dumps({"event": "joined"}), *lines, '{"event": "lan']))
    return path


def test_only_what_was_averaged_after_the_checkpoint_has_been_delivered(tmp_path: Path) -> None:
    events = log(tmp_path / "e", (0, 3, True), (1, 3, True), (0, 4, True), (2, 9, True))
    assert delivered_since(events, CHECKPOINT, [3, 3, 9]) == [0]
    assert delivered_since(events, CHECKPOINT, [4, 2, 8]) == [1, 2]


def test_a_round_that_was_only_replayed_has_none_of_our_work(tmp_path: Path) -> None:
    assert delivered_since(log(tmp_path / "e", (0, 4, False)), CHECKPOINT, [3]) == []


def test_without_a_log_nothing_is_known(tmp_path: Path) -> None:
    assert delivered_since(tmp_path / "none", CHECKPOINT, [3]) == []


def test_landings_before_the_checkpoint_are_of_lives_that_are_over(tmp_path: Path) -> None:
    """All were gone, and it began again from an older checkpoint: rounds are counted anew."""
    events = log(tmp_path / "e", (0, 20, True))
    joined = json.dumps({"event": "joined"})
    written = json.dumps({"event": "checkpoint", "path": f"/somewhere/{CHECKPOINT}"})
    events.write_text(f"{events.read_text()}\n{joined}\n{written}\n")
    assert delivered_since(events, CHECKPOINT, [10]) == []
    landed = json.dumps({"event": "landed", "fragment": 0, "round": 11, "contributed": True})
    events.write_text(f"{events.read_text()}{landed}\n")
    assert delivered_since(events, CHECKPOINT, [10]) == [0]


def test_a_landing_while_the_checkpoint_was_written_came_after_it(tmp_path: Path) -> None:
    events = log(tmp_path / "e", (0, 11, True))
    written = json.dumps({"event": "checkpoint", "path": f"/somewhere/{CHECKPOINT}"})
    events.write_text(f"{events.read_text()}\n{written}\n")
    assert delivered_since(events, CHECKPOINT, [10]) == [0]


def test_what_landed_in_another_domain_says_nothing_of_ours(tmp_path: Path) -> None:
    """Lives in other domains come between; their checkpoints may have names like ours."""

    def event(name: str, domain: str, **fields: object) -> str:
        of_domain = {"domain": domain} if domain else {}
        return json.dumps({**of_domain, "event": name, **fields})

    def landed(domain: str, round: int) -> str:
        return event("landed", domain, fragment=0, round=round, contributed=True)

    events = tmp_path / "e"
    lines = [
        event("joined", "law"),
        landed("law", 4),
        event("checkpoint", "law", path=f"/somewhere/{CHECKPOINT}"),
        event("joined", "math"),
        landed("math", 5),
        event("checkpoint", "math", path=f"/somewhere/{CHECKPOINT}"),
        event("joined", "law"),
    ]
    events.write_text("\n".join([*lines, ""]))
    assert delivered_since(events, CHECKPOINT, [4], domain="law") == []
    assert delivered_since(events, CHECKPOINT, [3], domain="law") == [0]
    assert delivered_since(events, CHECKPOINT, [4], domain="math") == [0]
    assert delivered_since(events, CHECKPOINT, [3]) == []
