import asyncio
import re

import pytest
from rich.console import Console

from peer.cli.screen import _screen, line, show
from peer.status import PeerStatus
from peer.waits import Waits
from protocol.identity import PeerId


class Nothing:
    """A file that keeps nothing."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass


def drawn(status: PeerStatus, width: int) -> str:
    console = Console(record=True, width=width, file=Nothing())  # type: ignore[arg-type]
    console.print(_screen(status, "thinwire, run 0123456789ab", width=width))
    return console.export_text()


def busy() -> PeerStatus:
    """Long values everywhere."""
    return PeerStatus(
        phase="exchanging, waiting for abcdef, ghijkl, mnopqr",
        step=12_345,
        tokens=123_456_789,
        tokens_per_s=98_765.4,
        loss_bits_per_byte=1.23456,
        validation_bits_per_byte=2.34567,
        overhead_s=123.4,
        is_done=True,
        round=1_234,
        members=tuple(PeerId(f"peer {number}") for number in range(25)),
        partners=tuple(PeerId(f"12D3KooW{number:06}") for number in range(25)),
        exchanges_done=1_233,
        exchanges_failed=1,
        contributions=1_200,
        swarm_tokens=987_654_321,
        sent_bytes=123_456_789_012,
        received_bytes=12_345,
        notices=["the validation text here is not the run's", "no checkpoint: [Errno 28]", "third"],
    )


def test_the_line_says_what_matters_and_fits_one_line() -> None:
    text = line(busy())
    assert "\n" not in text
    parts = text.split(" | ")
    assert parts[0] == "step 12345"
    assert parts[1] == "1.235 bits/byte"
    assert parts[2] == "98,765 tokens/s"
    assert {"round 1234", "25 others", "up 123.5 GB down 12.3 kB"} <= set(parts)
    assert parts[-1].startswith("exchanging, waiting for")


@pytest.mark.parametrize("width", [80, 40])
def test_ways_are_shown_when_some_are_not_direct(width: int) -> None:
    status = busy()
    status.ways = {"direct": 3}
    assert "ways" not in line(status) + drawn(status, width)
    status.ways = {"direct": 3, "reverse": 1, "relayed": 2}
    assert "ways: 3 direct, 1 reverse, 2 relayed" in line(status).split(" | ")
    rows = drawn(status, width).splitlines()
    assert {len(row) for row in rows} == {width}
    assert re.search(r"ways +3 direct, .*2 relayed", " ".join(rows))


def test_what_is_not_known_yet_is_a_dash_and_no_nan() -> None:
    text = line(PeerStatus())
    assert "- bits/byte" in text
    assert "nan" not in text
    assert "nan" not in drawn(PeerStatus(), 80)


@pytest.mark.parametrize("width", [80, 60, 40])
@pytest.mark.parametrize("status", [PeerStatus(), busy()], ids=["new", "busy"])
def test_the_screen_fits_its_width(status: PeerStatus, width: int) -> None:
    rows = drawn(status, width).splitlines()
    assert {len(row) for row in rows} == {width}
    for notice in status.notices:
        assert notice.split()[0] in " ".join(rows)


@pytest.mark.parametrize(
    ("step", "width"),
    [
        (12_345, 80),
        (1_234_567_890, 80),
        (345, 40),
        *((step, 40) for step in (1_234_567, 1_234_567_890)),
    ],
)
def test_the_step_is_never_cut(step: int, width: int) -> None:
    status = busy()
    status.step = step
    assert re.search(rf"\b{step:,}(?![\d,.\u2026])", drawn(status, width))


def waiting(age_s: float) -> PeerStatus:
    """Busy, and waiting for four things, the first of which began `age_s` ago."""
    now_s = [0.0]
    status = busy()
    status.waits = Waits(lambda: now_s[0])
    for number in range(4):
        now_s[0] = number / 100
        status.waits.begin(
            number, "an average", f"part {number}", whom=status.members[:5], within_s=60
        )
    now_s[0] = age_s
    return status


@pytest.mark.parametrize("width", [80, 60, 40])
def test_the_longest_waits_are_shown_and_fit(width: int) -> None:
    rows = drawn(waiting(12.4), width).splitlines()
    assert {len(row) for row in rows} == {width}
    text = " ".join(" ".join(row.strip("\u2502") for row in rows).split())
    for number in range(3):
        assert f"waiting for an average (part {number}) from peer 0, peer 1, peer 2" in text
    assert "and 2 more: 12 s, at most 48 s more" in text
    assert "part 3" not in text
    words = line(waiting(12.4)).split(" | ")[-1]
    assert words.startswith("waiting for an average (part 0) from peer 0, peer 1")
    assert "part 1" not in words


def test_a_short_wait_is_not_shown() -> None:
    status = waiting(1.9)
    assert drawn(status, 80) == drawn(busy(), 80)
    assert line(status) == line(busy())


@pytest.mark.parametrize("width", [80, 40])
async def test_the_live_screen_shows_until_it_is_cancelled(width: int) -> None:
    console = Console(
        record=True,
        width=width,
        height=40,
        file=Nothing(),  # type: ignore[arg-type]
        force_terminal=True,
    )
    status = busy()
    status.step = 321
    showing = asyncio.create_task(show(status, console, title="thinwire", plain=False))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not showing.done()
    showing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await showing
    assert "321" in console.export_text()


async def test_plain_lines_tell_phases_once_and_every_notice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("peer.cli.screen.REFRESH_S", 0.0)
    console = Console(record=True, width=40, file=Nothing())  # type: ignore[arg-type]
    status = PeerStatus(phase="entering the swarm")
    showing = asyncio.create_task(show(status, console, title="", plain=True))

    async def a_while() -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    await a_while()
    status.phase = "loading the text"
    status.notices.append("a long notice that is told on one line, [brackets] and all " * 2)
    await a_while()
    monkeypatch.setattr("peer.cli.screen.PLAIN_EVERY_S", 0.0)
    status.phase = "building the model"
    await a_while()
    status.tokens_per_s, status.step, status.phase = 10.0, 5, "exchanging"
    await a_while()
    showing.cancel()
    await asyncio.gather(showing, return_exceptions=True)
    rows = [row.rstrip() for row in console.export_text().splitlines()]
    assert rows[:4] == [
        "entering the swarm",
        f"note: {status.notices[0]}".rstrip(),
        "loading the text",
        "building the model",
    ]
    assert {row.partition(" |")[0] for row in rows[4:]} == {"step 5"}


async def test_plain_lines_tell_what_a_start_waits_for_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("peer.cli.screen.REFRESH_S", 0.0)
    monkeypatch.setattr("peer.cli.screen.PLAIN_EVERY_S", 0.0)
    console = Console(record=True, width=40, file=Nothing())  # type: ignore[arg-type]
    now_s = [0.0]
    status = PeerStatus(phase="entering the swarm", waits=Waits(lambda: now_s[0]))
    status.waits.begin("key", "somebody who knows the run", within_s=60)
    showing = asyncio.create_task(show(status, console, title="", plain=True))
    for age_s in (1.0, 20.0):
        now_s[0] = age_s
        for _ in range(5):
            await asyncio.sleep(0)
    showing.cancel()
    await asyncio.gather(showing, return_exceptions=True)
    rows = console.export_text().splitlines()
    assert rows[0] == "entering the swarm"
    assert set(rows[1:]) == {"waiting for somebody who knows the run: 20 s, at most 40 s more"}
