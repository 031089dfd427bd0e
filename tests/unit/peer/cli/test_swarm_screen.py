"""How a swarm is drawn, from views made by hand."""

import itertools
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from peer.cli.swarm_screen import WIDEST, swarm_screen
from peer.watch.view import EventView, PeerView, Point, SwarmView
from protocol.identity import PeerId
from protocol.standings import Standing

WIDTHS = (40, 60, 80, 120, 200)
PEER = PeerView(
    peer_id="12D3KooWaaaaaaa",
    role="peer",
    domain="",
    step=1_200,
    round=12,
    tokens=1_234_567,
    reach="direct",
    up_bps=20_000_000,
    down_bps=100_000_000,
    software="thinwire/1",
    behind_rounds=0,
    has_report=True,
    tokens_per_s=4_100.0,
    loss_bits_per_byte=1.25,
    utilisation_frac=0.87,
    contribution={"used_tokens": 900_000, "late_rounds": 0, "refused": ()},
    attested_tokens=800_000,
    attested_by=2,
    ties=(
        {"peer_id": "x", "way": "direct", "round_trip_s": 0.012},
        {"peer_id": "y", "way": "relayed", "round_trip_s": None},
    ),
)
LAGS = replace(
    PEER,
    peer_id="12D3KooWbbbbbbb",
    behind_rounds=3,
    waits=({"name": "an average (part 3)", "whom": "3fA9xQ", "for_s": 12.3},),
)
NODE = PeerView(
    peer_id="12D3KooWccccccc",
    role="bootstrap",
    domain="",
    step=0,
    round=0,
    tokens=0,
    reach="direct",
    up_bps=0,
    down_bps=0,
    software="",
    behind_rounds=0,
    has_report=False,
)
VIEW = SwarmView(
    name="my run",
    run_id="ab" * 32,
    at_unix_s=1e9,
    method="diloco",
    parameters=25_100_000,
    num_training=2,
    round=12,
    tokens=2_469_134,
    tokens_per_s=8_200.0,
    loss_bits_per_byte=1.25,
    validation_bits_per_byte=None,
    utilisation_frac=0.87,
    sent_bytes=10**10,
    peers=(NODE, LAGS, PEER),
    events=(EventView(unix_s=1e9, kind="came", peer_id=LAGS.peer_id, words="came"),),
    history=tuple(
        Point(
            unix_s=1e9 + at_s,
            tokens=at_s,
            loss_bits_per_byte=4.0 - at_s / 100 if at_s else None,
            validation_bits_per_byte=None,
            sent_bytes=0,
            utilisation_frac=None,
        )
        for at_s in range(100)
    ),
)


def drawn(view: SwarmView, width: int, height: int | None = None) -> list[str]:
    console = Console(width=width, height=height or 100, color_system=None)
    with console.capture() as capture:
        console.print(swarm_screen(view, width=width, height=height))
    return [line.rstrip() for line in capture.get().splitlines() if line.strip()]


def headings(lines: list[str]) -> list[str]:
    return next(line.split() for line in lines if line.split()[0] == "peer")


def row(lines: list[str], peer: PeerView) -> str:
    words = (line.split() for line in lines)
    return next(" ".join(each) for each in words if each[0] == peer.peer_id[-6:])


def test_a_swarm_is_shown_with_totals_and_peers() -> None:
    lines = drawn(VIEW, 140)
    assert lines[0] == "my run, run abababababab, diloco, 25.1M parameters"
    assert "training  2 peers  round       12  tokens  2.47M    tokens/s  8.2k" in lines[1]
    assert "loss      1.250    validation  -   sent    10.0 GB  busy      87 %" in lines[2]
    facts = "1.250 4.1k 87 % 1.23M 900k 800k by 2 direct 20 Mbit/s 100 Mbit/s"
    assert row(lines, PEER) == f"aaaaaa peer 1,200 12 {facts}"
    assert row(lines, LAGS) == f"bbbbbb peer 1,200 12 3 behind {facts}"
    assert row(lines, NODE) == "cccccc bootstrap - - - - - - - - direct - -"
    order = [line.split()[0] for line in lines]
    assert order.index("aaaaaa") < order.index("bbbbbb") < order.index("cccccc")
    assert "bbbbbb waits for an average (part 3) from 3fA9xQ, 12 s" in lines
    assert "links  2 direct, 2 relayed, round trip 12 ms" in lines
    assert lines[-1].endswith("bbbbbb came")


def test_the_columns_that_matter_most_stay_in_a_narrow_terminal() -> None:
    found = [headings(drawn(VIEW, width)) for width in (40, 60, 80, 120, 140)]
    assert found[0][:2] == ["peer", "step"]
    assert all(set(few) < set(more) for few, more in itertools.pairwise(found))
    for width in WIDTHS:
        assert "3 behind" in row(drawn(VIEW, width), LAGS)


def test_columns_in_which_nobody_has_anything_are_left_out() -> None:
    calm = replace(VIEW, peers=(replace(PEER, up_bps=0), NODE))
    assert "up" not in headings(drawn(calm, 140))
    assert "domain" not in headings(drawn(calm, 140))
    assert "behind" not in " ".join(drawn(calm, 140))
    assert "law" in row(drawn(replace(VIEW, peers=(replace(PEER, domain="law"),)), 80), PEER)


def test_what_was_late_or_refused_is_counted_where_it_happened() -> None:
    refused = (("the others waited no longer", 4), ("no answer", 1))
    contribution = {"used_tokens": 900_000, "late_rounds": 3, "refused": refused}
    lines = drawn(replace(VIEW, peers=(replace(PEER, contribution=contribution), LAGS)), 120)
    assert {"late", "refused"} <= set(headings(lines))
    assert "800k by 2 3 5" in row(lines, PEER)
    assert "800k by 2 - -" in row(lines, LAGS)


def test_domains_are_shown_as_they_stand() -> None:
    standing = Standing(
        domain="law",
        peers=(PeerId(PEER.peer_id),),
        step=120,
        total_steps=300,
        is_done=False,
        waits_for="",
        copies=1,
        copy_step=100,
    )
    view = replace(VIEW, domains=(asdict(standing) | {"state": standing.words},))
    law = next(line for line in drawn(view, 80) if line.split()[0] == "law")
    assert law.endswith("training")
    assert "120 of 300" in law


def test_the_loss_is_drawn_while_somebody_looks_on() -> None:
    once, live = drawn(VIEW, 80), drawn(VIEW, 80, height=40)
    assert not any(line.startswith("loss ") and "\u2588" in line for line in once)
    (first, last) = (line for line in live if line.startswith(("loss 3.9", "loss 3.0")))
    assert first.startswith("loss 3.990  \u2588")
    assert last.startswith("loss 3.010  \u2588")
    assert last.endswith("\u2581")


def test_a_low_terminal_shows_those_who_train_first_and_counts_the_others() -> None:
    crowd = tuple(replace(PEER, peer_id=f"12D3KooW{number:06}") for number in range(500))
    view = replace(VIEW, peers=(NODE, *crowd))
    for height in (24, 50):
        lines = drawn(view, 80, height=height)
        shown = [line for line in lines if "peer " in line and line.split()[0].isdigit()]
        assert len(lines) < height
        assert f"and {501 - len(shown)} more" in lines
    assert sum("1,200" in line for line in drawn(view, 80)) == 500


@pytest.mark.parametrize("width", WIDTHS)
def test_who_finds_nobody_is_told(width: int) -> None:
    nobody = replace(VIEW, peers=(), events=(), history=(), num_training=0)
    assert "nobody is there" in drawn(nobody, width)


def anything(text: str, number: float) -> SwarmView:
    """A view with one text wherever a stranger could have written one."""
    waits: tuple[dict[str, Any], ...] = ({"name": text, "whom": text, "for_s": number},)
    peer = replace(
        LAGS,
        domain=text,
        reach=text,
        phase=text,
        waits=waits,
        ties=({"peer_id": text, "way": text, "round_trip_s": number},),
        notices=(text,),
        step=int(number),
        loss_bits_per_byte=number,
        tokens_per_s=number,
    )
    event = EventView(unix_s=1e9, kind=text, peer_id=text, words=text)
    return replace(VIEW, name=text, method=text, peers=(peer, PEER), events=(event,))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "text",
    [
        "[bold]x[/bold]",
        "[/]",
        "\x1b[31mred\x07\r\n\t",
        "\u202eevil\u200b",
        "\u5b57" * 60,
        "a" * 300,
        "",
    ],
    ids=["markup", "bad markup", "control", "direction", "wide", "long", "empty"],
)
def test_what_strangers_write_breaks_nothing(text: str, width: int) -> None:
    for height in (None, 30):
        lines = drawn(anything(text, 1e12), width, height)
        assert all(cell_len(line) <= width for line in lines)
        assert all(line.isprintable() for line in lines)
    if text.startswith("[bold]"):
        assert "[bold]x" in " ".join(lines)


@given(text=st.text(max_size=40), number=st.floats(0, 1e15), width=st.integers(30, WIDEST + 20))
def test_every_line_fits(text: str, number: float, width: int) -> None:
    lines = drawn(anything(text, number), width, 40)
    assert all(cell_len(line) <= width for line in lines)
    assert "aaaaaa" in {line.split()[0] for line in lines}


def test_an_absurd_loss_leaves_the_curve_out_where_its_label_has_no_room() -> None:
    absurd = tuple(replace(point, loss_bits_per_byte=1e15) for point in VIEW.history)
    lines = drawn(replace(VIEW, history=absurd), 24, height=40)
    assert not any("loss 1000000000" in line for line in lines)
