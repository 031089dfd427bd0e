import json
from dataclasses import replace
from pathlib import Path

import pytest

from peer.birth import BIRTH, Birth
from protocol.card import LIFE_BYTES, Card, parse_card
from protocol.errors import ConfigError

NOW_UNIX_S = 1_800_000_000.0


def card_of(birth: Birth, role: str = "peer") -> Card:
    return Card(wire_addresses=(), role=role, life=birth.life, began_unix_s=birth.began_unix_s)


def test_each_life_has_a_name_of_its_own_that_fits_on_a_card(tmp_path: Path) -> None:
    first, second = (Birth.after_last(tmp_path, now_unix_s=NOW_UNIX_S) for _ in range(2))
    assert first.life != second.life
    assert len(bytes.fromhex(first.life)) == LIFE_BYTES
    assert parse_card(card_of(first).to_bytes()) == card_of(first)
    assert [path.name for path in tmp_path.iterdir()] == [BIRTH]


@pytest.mark.parametrize("clock_s", [-300.0, 0.0, 300.0])
def test_a_life_comes_after_the_last_one_in_its_folder_whatever_the_clock_says(
    clock_s: float, tmp_path: Path
) -> None:
    former = Birth.after_last(tmp_path, now_unix_s=NOW_UNIX_S)
    ours = Birth.after_last(tmp_path, now_unix_s=NOW_UNIX_S + clock_s)
    assert former.gives_way_to(card_of(ours))
    assert not ours.gives_way_to(card_of(former))


def test_a_life_comes_after_those_whose_cards_it_finds(tmp_path: Path) -> None:
    ahead = Birth("aa" * LIFE_BYTES, NOW_UNIX_S + 300)
    ours = Birth.after_last(tmp_path, now_unix_s=NOW_UNIX_S)
    assert ours.gives_way_to(card_of(ahead))
    ours.follow(card_of(ahead))
    assert not ours.gives_way_to(card_of(ahead))
    assert ahead.gives_way_to(card_of(ours))
    began = ours.began_unix_s
    ours.follow(card_of(ours))
    ours.follow(replace(card_of(ahead), began_unix_s=5.0))
    assert ours.began_unix_s == began
    following = Birth.after_last(tmp_path, now_unix_s=NOW_UNIX_S)
    assert following.began_unix_s > began, "what was followed is kept, too"


def test_of_two_that_began_at_once_exactly_one_stays() -> None:
    low, high = (Birth(digit * 2 * LIFE_BYTES, NOW_UNIX_S) for digit in "3b")
    assert low.gives_way_to(card_of(high))
    assert not high.gives_way_to(card_of(low))
    assert not high.gives_way_to(card_of(high))


def test_a_life_that_has_left_is_in_nobodys_way() -> None:
    ours, later = Birth("aa" * LIFE_BYTES, NOW_UNIX_S), Birth("bb" * LIFE_BYTES, NOW_UNIX_S + 1)
    assert ours.gives_way_to(card_of(later))
    assert not ours.gives_way_to(card_of(later, "left"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"began_unix_s": "x"}', '{"began_unix_s": NaN}'])
def test_a_damaged_note_is_as_good_as_none(text: str, tmp_path: Path) -> None:
    (tmp_path / BIRTH).write_text(text)
    assert Birth.after_last(tmp_path, now_unix_s=NOW_UNIX_S).began_unix_s == NOW_UNIX_S
    assert json.loads((tmp_path / BIRTH).read_text())["began_unix_s"] == NOW_UNIX_S


def test_a_folder_that_cannot_be_written_is_the_operators_business(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write"):
        Birth.after_last(tmp_path / "nowhere", now_unix_s=NOW_UNIX_S)
