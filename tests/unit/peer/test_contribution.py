"""The tally of our work: what counts, what is remembered, and what a damaged file costs."""

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.contribution import (
    CONTRIBUTION,
    MAX_PEERS,
    MAX_REASONS,
    OTHER_REASONS,
    ContributionFile,
    Tally,
    reason_alike,
)
from protocol.card import MAX_COUNT
from protocol.identity import Identity, PeerId
from protocol.manifest import RunId
from protocol.messages import Member
from protocol.report import Witness
from protocol.report_limits import MAX_REFUSALS, MAX_WITNESSES

RUN, OTHER_RUN = RunId("ab" * 32), RunId("cd" * 32)
US, THEM, HER = (Identity(bytes([n]) * 32).peer_id for n in (1, 2, 3))


def file_in(folder: Path, run_id: RunId = RUN, peer_id: PeerId = US) -> ContributionFile:
    return ContributionFile(folder, run_id=run_id, peer_id=peer_id)


def busy() -> Tally:
    tally = Tally()
    tally.begin_life(0)
    tally.trained(5000)
    tally.landed(3000, [Member(THEM, 800)], num_fragments=1)
    tally.late()
    tally.refused("too slow")
    return tally


# ---- what counts


@given(steps=st.lists(st.integers(0, 1000), max_size=20))
def test_every_token_is_trained_once_however_often_somebody_asks(steps: list[int]) -> None:
    tally, total = Tally(), 0
    for step in steps:
        total += step
        tally.trained(total)
        tally.trained(total)
    assert tally.contribution.trained_tokens == total


def test_a_life_that_goes_on_from_a_checkpoint_adds_to_the_lives_before() -> None:
    tally = busy()
    tally.begin_life(4000)  # what came after that checkpoint was trained, and is lost
    tally.trained(4500)
    assert tally.contribution.trained_tokens == 5500


def test_a_folder_that_is_older_than_its_tally_counts_from_its_checkpoint() -> None:
    tally = Tally()
    tally.begin_life(4000)
    assert tally.contribution.trained_tokens == 4000


def test_each_of_the_fragments_stands_for_its_part_of_the_tokens() -> None:
    tally = Tally()
    for _ in range(3):
        tally.landed(100, [Member(THEM, 50)], num_fragments=3)
    assert tally.contribution.used_tokens == 100
    assert tally.contribution.used_rounds == 3
    assert tally.witnesses == (Witness(peer_id=THEM, rounds=3, tokens=50),)


def test_an_average_without_us_is_no_use_of_our_work_and_is_witnessed_all_the_same() -> None:
    tally = Tally()
    tally.landed(0, [Member(THEM, 50)], num_fragments=1)
    assert tally.contribution.used_rounds == 0
    assert tally.witnesses == (Witness(peer_id=THEM, rounds=1, tokens=50),)


def test_who_was_met_last_is_witnessed_when_there_were_too_many() -> None:
    tally, ids = Tally(), [PeerId(f"{n}") for n in range(MAX_PEERS + 5)]
    for peer in ids:
        tally.landed(1, [Member(peer, 1)], num_fragments=1)
    tally.landed(1, [Member(ids[7], 1)], num_fragments=1)
    named = [seen.peer_id for seen in tally.witnesses]
    assert named == [ids[7], *reversed(ids[-MAX_WITNESSES + 1 :])]
    tally.landed(1, [Member(ids[0], 1)], num_fragments=1)  # long forgotten
    assert tally.witnesses[0].rounds == 1


# ---- reasons


def test_reasons_that_differ_in_names_and_numbers_are_one() -> None:
    tally = Tally()
    for n, peer in enumerate((THEM, HER)):
        tally.refused(f"{peer} does not answer")
        tally.refused(f"not done after {n}0.5 s")
        tally.refused(f"not reachable: ipv4:10.0.0.{n}:4{n}123: refused")
    assert dict(tally.contribution.refused) == {
        "a peer does not answer": 2,
        "not done after N s": 2,
        "not reachable: ipv4:an address: refused": 2,
    }


@given(reason=st.text(max_size=400))
def test_a_reason_can_be_shown_and_is_alike_to_itself(reason: str) -> None:
    alike = reason_alike(reason)
    assert alike
    assert alike.isprintable()
    assert len(alike) <= 96


def test_the_most_frequent_reasons_are_told_and_a_flood_of_them_is_one() -> None:
    tally = Tally()
    for n in range(26 * 26):
        tally.refused(f"because of {chr(97 + n // 26)}{chr(97 + n % 26)}")
    told = tally.contribution.refused
    assert len(told) == MAX_REFUSALS
    assert told[0] == (OTHER_REASONS, 26 * 26 - MAX_REASONS)


# ---- over lives


def test_the_next_life_goes_on_counting(tmp_path: Path) -> None:
    file_in(tmp_path).write(busy())
    tally = file_in(tmp_path).read()
    assert tally.contribution == busy().contribution
    assert tally.witnesses == busy().witnesses
    tally.landed(1000, [Member(THEM, 200)], num_fragments=1)
    assert tally.contribution.used_tokens == 4000
    assert tally.witnesses == (Witness(peer_id=THEM, rounds=2, tokens=1000),)


async def test_it_is_written_beside_everything_else_alike(tmp_path: Path) -> None:
    await file_in(tmp_path).write_beside(busy())
    assert file_in(tmp_path).read().contribution == busy().contribution


def test_without_a_file_it_begins_at_nothing(tmp_path: Path) -> None:
    assert file_in(tmp_path).read().contribution == Tally().contribution


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"[]",
        lambda data: b"\xff" + data,
        lambda data: data.replace(b"5000", b"-5000"),
        lambda data: data.replace(b"5000", b"1e999"),
        lambda data: data.replace(b"5000", b'"many"'),
        lambda data: data.replace(b'"refused": {', b'"refused": {"x": -1, '),
    ],
)
def test_a_damaged_file_is_as_good_as_none_and_is_said_to_be(
    tmp_path: Path, change: object, caplog: pytest.LogCaptureFixture
) -> None:
    file_in(tmp_path).write(busy())
    path = tmp_path / CONTRIBUTION
    path.write_bytes(change(path.read_bytes()))  # type: ignore[operator]
    with caplog.at_level(logging.WARNING):
        assert file_in(tmp_path).read().contribution == Tally().contribution
    assert str(path) in caplog.text
    file_in(tmp_path).write(busy())
    assert file_in(tmp_path).read().contribution == busy().contribution


def test_another_runs_or_peers_tally_is_not_ours(tmp_path: Path) -> None:
    file_in(tmp_path).write(busy())
    assert file_in(tmp_path, run_id=OTHER_RUN).read().contribution.trained_tokens == 0
    assert file_in(tmp_path, peer_id=THEM).read().contribution.trained_tokens == 0


def test_what_a_later_version_keeps_besides_does_not_matter(tmp_path: Path) -> None:
    file_in(tmp_path).write(busy())
    path = tmp_path / CONTRIBUTION
    path.write_text(json.dumps(json.loads(path.read_text()) | {"medals": 3}))
    assert file_in(tmp_path).read().contribution == busy().contribution


def test_a_tally_that_cannot_be_written_is_only_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        file_in(tmp_path / "gone").write(busy())
    assert "cannot keep the tally" in caplog.text


def test_however_many_averages_were_missed_the_tally_can_be_read_again(tmp_path: Path) -> None:
    tally = busy()
    tally.late(MAX_COUNT - 1)  # as a liar's state may say
    tally.late(MAX_COUNT - 1)
    file_in(tmp_path).write(tally)
    assert file_in(tmp_path).read().contribution == tally.contribution


def test_in_a_large_swarm_everybody_is_witnessed_by_somebody() -> None:
    swarm = [PeerId(f"{n}") for n in range(2 * MAX_WITNESSES)]
    tallies = [Tally() for _ in range(40)]
    for tally in tallies:
        tally.landed(1, [Member(peer, 1) for peer in swarm], num_fragments=1)
    assert {seen.peer_id for tally in tallies for seen in tally.witnesses} == set(swarm)


def test_a_file_that_names_nobody_is_damaged(tmp_path: Path) -> None:
    file = file_in(tmp_path)
    file.write(busy())
    path = tmp_path / CONTRIBUTION
    path.write_text(path.read_text().replace(THEM, THEM[:-1]))
    assert file.read().contribution.used_rounds == 0
