import math

import pytest

from peer.train.lines import Departed, Hello, Land, Leave, Message, Progress, parse_line, to_line
from protocol.errors import LocalProtocolError

PROGRESS = Progress(
    step=1,
    tokens=2,
    loss_bits_per_byte=3.5,
    tokens_per_s=4.0,
    step_s=0.5,
    overhead_s=0.0,
    waited_s=0.0,
    longest_gap_s=0.0,
    is_done=False,
)


@pytest.mark.parametrize(
    "message",
    [
        Hello(
            num_elements=1,
            num_fragments=2,
            device="cpu",
            data="text\nof two lines",
            validation_problem=None,
            pid=3,
        ),
        PROGRESS,
        Departed(fragment=0, step=1, tokens=2),
        Land(fragment=1, round=7, tokens=-5, is_planned=True),
        Leave(),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_survives_its_line(message: Message) -> None:
    line = to_line(message)
    assert line.count(b"\n") == 1
    assert parse_line(line) == message


def test_a_loss_may_be_no_number() -> None:
    line = to_line(
        Progress(**{f: getattr(PROGRESS, f) for f in PROGRESS.__slots__} | {"step_s": math.nan})
    )
    assert math.isnan(parse_line(line).step_s)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"kind":"boo"}',
        b'{"kind":"land"}',
        b'{"kind":"free","fragment":"x"}',
    ],
)
def test_anything_else_is_our_bug(line: bytes) -> None:
    with pytest.raises(LocalProtocolError, match="not a line"):
        parse_line(line)


def test_a_line_has_a_limit() -> None:
    with pytest.raises(LocalProtocolError, match="1048"):
        to_line(Departed(fragment="x" * (1 << 20), step=0, tokens=0))
