"""What comes from the wire process is sorted: for the loop, for its user, for the trainer."""

import signal
from pathlib import Path

import pytest

from peer.loop.port import MAX_NOTICES, launch
from peer.train import lines
from peer.train.interchange import Interchange
from protocol.errors import ConfigError, ThinwireError
from tests.unit.peer.loop.far_end import FarEnd


@pytest.fixture
def far() -> FarEnd:
    return FarEnd()


@pytest.fixture(autouse=True)
def _closed(far: FarEnd) -> object:
    yield
    far.die()
    far.port.end(wait_s=0.0)


def test_the_trainer_gets_in_order_what_the_loop_does_not_keep(far: FarEnd) -> None:
    far.say(lines.Found(manifest="/m", run_id="r"), lines.Depart(fragment=1))
    far.port.look(wait_s=1.0)  # before there is a trainer
    far.say(lines.News(phase="training"), lines.Free(fragment=0))
    assert far.port.poll() == [lines.Depart(fragment=1), lines.Free(fragment=0)]
    assert far.port.poll() == []
    assert far.port.found == lines.Found(manifest="/m", run_id="r")
    assert far.port.news.phase == "training"


def test_notices_are_kept_and_only_so_many(far: FarEnd) -> None:
    far.say(*(lines.News(notices=(f"{number}", "and")) for number in range(MAX_NOTICES)))
    far.port.look(wait_s=1.0)
    assert len(far.port.notices) == MAX_NOTICES
    assert far.port.notices[-2:] == [f"{MAX_NOTICES - 1}", "and"]


def test_the_last_word_of_a_wire_process_is_an_error_of_its_kind(far: FarEnd) -> None:
    far.say(lines.Failed(reason="no space", is_config=True))
    far.port.look(wait_s=1.0)
    assert isinstance(far.port.failure, ConfigError)
    far.say(lines.Failed(reason="broken"))
    far.port.look(wait_s=1.0)
    assert type(far.port.failure) is ThinwireError
    assert str(far.port.failure) == "broken"


def test_a_process_that_is_gone_is_not_asked_to_leave(far: FarEnd) -> None:
    far.port.ask_to_leave()
    assert far.process.signals == [signal.SIGTERM]
    far.port.ask_to_leave()  # it has ended by now
    assert far.process.signals == [signal.SIGTERM]


def test_who_does_not_end_in_time_is_ended(far: FarEnd) -> None:
    far.process.is_deaf = True
    far.port.end(wait_s=2.0)
    assert far.process.waited_s[0] == 2.0
    assert far.process.is_killed
    assert far.port.is_closed


def test_a_folder_that_cannot_be_used_is_said_and_no_process_started(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    interchange = Interchange.create(4)
    with pytest.raises(ConfigError, match=r"cannot use the folder .*file"):
        launch(interchange, tmp_path / "file" / "peer")
    interchange.close()
