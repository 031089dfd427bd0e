import json
from pathlib import Path

from peer.delivered import delivered_since


def log(path: Path, *landings: tuple[int, int, bool]) -> Path:
    lines = [
        json.dumps({"event": "landed", "fragment": f, "round": r, "contributed": c})
        for f, r, c in landings
    ]
    path.write_text("\n".join([json.dumps({"event": "joined"}), *lines, '{"event": "lan']))
    return path


def test_only_what_was_averaged_after_the_checkpoint_has_been_delivered(tmp_path: Path) -> None:
    events = log(tmp_path / "e", (0, 3, True), (1, 3, True), (0, 4, True), (2, 9, True))
    assert delivered_since(events, [3, 3, 9]) == [0]
    assert delivered_since(events, [4, 2, 8]) == [1, 2]


def test_a_round_that_was_only_replayed_has_none_of_our_work(tmp_path: Path) -> None:
    assert delivered_since(log(tmp_path / "e", (0, 4, False)), [3]) == []


def test_without_a_log_nothing_is_known(tmp_path: Path) -> None:
    assert delivered_since(tmp_path / "none", [3]) == []
