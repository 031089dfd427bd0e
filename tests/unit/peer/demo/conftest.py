"""A play that went well, as its actors would have written it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peer.demo import script
from peer.demo.play import Play, Played
from peer.demo.report import Scores
from peer.demo.watch import LoneView, PeerView

STEPS = 600
Write = Callable[[str, list[dict[str, Any]]], PeerView]


@pytest.fixture
def write_peer(tmp_path: Path) -> Write:
    """Returns the view of a peer that wrote these events, after what it had written before."""

    def write(name: str, events: list[dict[str, Any]]) -> PeerView:
        path = tmp_path / name / "events.jsonl"
        path.parent.mkdir(exist_ok=True)
        with path.open("a") as file:
            for event in events:
                file.write(json.dumps({"peer_id": f"id-{name}", **event}) + "\n")
        view = PeerView(name, path)
        view.look()
        return view

    return write


@pytest.fixture
def play(tmp_path: Path, write_peer: Write) -> Play:
    """600 steps, ten a second from second 1000 on; a round every 30 steps."""
    play = Play(STEPS, 30, training_s=70.0, curtain_unix_s=1070.0, is_complete=True)
    spans = {"peer-1": (0, 600), "peer-2": (0, 210), "peer-3": (0, 600), "peer-4": (300, 600)}
    for name, (first, last) in spans.items():
        play.peers[name] = write_peer(name, life(name, first, last))
    play.played = [
        Played(cue.name, step, 1000 + step / 10, 20 + step / 10)
        for cue, step in zip(script.CUES, (212, 270, 365), strict=True)
    ]
    path = tmp_path / "alone.txt"
    lines: list[dict[str, Any]] = [
        {"kind": "progress", "step": step, "loss_bits_per_byte": loss(step) + 0.2}
        for step in range(3, STEPS + 1, 3)
    ]
    lines[-1]["is_done"] = True
    lines += [
        {"kind": "evaluated", "step": step, "bits_per_byte": loss(step) + 0.1}
        for step in range(90, STEPS + 1, 90)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    play.lone = LoneView(path)
    play.lone.look()
    play.exit_codes = dict.fromkeys(script.SURVIVORS, 0)
    return play


@pytest.fixture
def scores() -> Scores:
    return Scores(
        parameters=400_000,
        evaluation_bytes=256 * 1024,
        start=7.4,
        alone=2.4,
        peers=dict.fromkeys(script.SURVIVORS, 2.2),
        anchors=1,
    )


def loss(step: int) -> float:
    return 2 + 5.4 * 0.99**step


def life(name: str, first: int, last: int) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = [
        {"event": "joined", "step": first, "round": first // 30, "t_unix_s": 1000 + first / 10}
    ]
    for step in range(first + 10, last + 1, 10):
        now = {"t_unix_s": 1000 + step / 10, "step": step}
        progress = now | {
            "loss_bits_per_byte": loss(step),
            "tokens": (step - first) * 1024,
            "sent_bytes": 20_000 * (step - first) + (1000 if name == "peer-3" else 0),
            "received_bytes": 10_000 * (step - first),
            "is_counted_by_kernel": True,
            "waited_s": 0.0,
            "overhead_s": 0.25,
            "is_done": step == STEPS,
        }
        events.append({"event": "progress", **progress})
        if step % 30 == 0:
            about = {"exchange_id": f"x{step}", "round": step // 30 - 1, "partners": ["id-peer-1"]}
            events.append({"event": "exchange_begins", **now, **about})
            events.append({"event": "landed", **now, **about, "contributed": True})
        if step % 90 == 0:
            about = {"round": step // 30, "bits_per_byte": loss(step)}
            events.append({"event": "evaluated", **now, **about})
    return events
