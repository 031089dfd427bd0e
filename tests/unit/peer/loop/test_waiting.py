"""What is shown while a loop joins, where it does not go to a terminal."""

import io

from peer.loop.waiting import Waiting
from peer.train.lines import News
from tests.unit.peer.loop.far_end import FarEnd


def shown(*news: News, is_quiet: bool = False) -> list[str]:
    far, stream = FarEnd(), io.StringIO()
    with Waiting(far.port, stream, is_quiet=is_quiet) as waiting:
        for each in news:
            far.say(each)
            far.port.look(wait_s=1.0)
            waiting.look()
        waiting.say("joined [run] abc")
    far.die()
    far.port.end(wait_s=0.0)
    return stream.getvalue().splitlines()


def test_each_phase_is_a_line_however_often_it_is_told_and_however_far_it_is() -> None:
    assert shown(
        News(phase="building the model"),
        News(phase="building the model"),
        News(phase="fetching the model: 10%"),
        News(phase="fetching the model: 90%"),
    ) == [
        "thinwire: building the model",
        "thinwire: fetching the model: 10%",
        "thinwire: joined [run] abc",
    ]


def test_each_notice_is_shown_once_and_long_ones_stay_a_line() -> None:
    long = "word " * 60 + "end"
    first, second = News(phase="a", notices=("one", long)), News(phase="a", notices=("two",))
    assert shown(first, second) == [
        "thinwire: note: one",
        f"thinwire: note: {long}",
        "thinwire: a",
        "thinwire: note: two",
        "thinwire: joined [run] abc",
    ]


def test_quiet_is_quiet() -> None:
    assert shown(News(phase="a", notices=("one",)), is_quiet=True) == []
