import json
from pathlib import Path

import pytest

from peer.net.address_book import (
    MAX_ADDRESSES,
    MAX_ADDRESSES_PER_PEER,
    MAX_ANSWERED,
    AddressBook,
)
from protocol.identity import Identity
from protocol.ticket import Address

IDS = [Identity(bytes([n]) * 32).peer_id for n in range(1, 200)]


def place(number: int, port: int = 4000) -> Address:
    return Address("192.0.2.1", port, IDS[number])


def test_what_was_saved_comes_back_in_order(tmp_path: Path) -> None:
    book = AddressBook.read(tmp_path / "peers.json")
    assert not book.addresses
    assert not book.problem
    book.add([place(1), place(2), place(3), place(1)])
    assert book.addresses == (place(1), place(3), place(2))
    book.save()
    again = AddressBook.read(tmp_path / "peers.json")
    assert again.addresses == book.addresses
    assert [path.name for path in tmp_path.iterdir()] == ["peers.json"]


def test_only_ids_and_addresses_are_kept(tmp_path: Path) -> None:
    book = AddressBook(tmp_path / "peers.json")
    book.add([place(1)])
    book.save()
    kept = json.loads((tmp_path / "peers.json").read_text())
    assert kept == {"version": 1, "peers": [[IDS[1], "192.0.2.1", 4000]]}


def test_the_oldest_make_room_and_one_peer_has_few_places() -> None:
    book = AddressBook()
    book.add(place(0, port) for port in range(1, 100))
    assert book.addresses == tuple(place(0, 99 - n) for n in range(MAX_ADDRESSES_PER_PEER))
    book.add(place(number) for number in range(1, MAX_ADDRESSES + 1))
    assert book.addresses == tuple(place(number) for number in range(MAX_ADDRESSES, 0, -1))


def test_those_that_answered_make_no_room_for_any_number_that_did_not() -> None:
    book = AddressBook()
    answered = [place(number) for number in range(MAX_ANSWERED + 5)]
    book.add(answered, have_answered=True)
    book.add(place(number) for number in range(60, 199))
    assert set(answered[5:]) < set(book.addresses)
    assert len(book.addresses) == MAX_ADDRESSES
    assert book.addresses[0] == place(198)
    book.add([place(MAX_ANSWERED, port) for port in range(4001, 4100)])
    mine = [address for address in book.addresses if address.peer_id == IDS[MAX_ANSWERED]]
    assert len(mine) == MAX_ADDRESSES_PER_PEER
    assert place(MAX_ANSWERED) in mine


def test_who_answered_is_known_in_the_next_life(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    book = AddressBook(path)
    book.add([place(1), place(2)])
    book.save()
    book.add([place(1)], have_answered=True)
    book.save()
    again = AddressBook.read(path)
    again.add(place(number) for number in range(10, 10 + 2 * MAX_ADDRESSES // 2))
    assert place(1) in again.addresses
    assert place(2) not in again.addresses


def test_an_entry_that_makes_no_sense_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    good = [[IDS[n], "192.0.2.1", 4000] for n in (1, 2)]
    path.write_text(json.dumps({"version": 1, "peers": [good[0], [IDS[3], "h", 0], good[1]]}))
    book = AddressBook.read(path)
    assert book.addresses == (place(1), place(2))
    assert "1 of whom we knew" in book.problem


def test_a_file_is_written_only_when_there_is_something_new(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    book = AddressBook(path)
    book.add([place(1), place(2)])
    book.save()
    path.unlink()
    book.add([place(1)])
    book.save()
    assert not path.exists()
    book.add([place(3)])
    book.save()
    assert AddressBook.read(path).addresses == (place(3), place(1), place(2))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\x00",
        b"[]",
        b'{"version": 2, "peers": []}',
        b'{"version": 1, "peers": {}}',
        b'{"version": 1, "peers": [["nobody", "192.0.2.1", 4000]]}',
        b'{"version": 1, "peers": [["%s", "192.0.2.1", true]]}' % IDS[1].encode(),
        b'{"version": 1, "peers": [["%s", "192.0.2.1", 70000]]}' % IDS[1].encode(),
        b'{"version": 1, "peers": [["%s", "", 4000]]}' % IDS[1].encode(),
        b'{"version": 1, "peers": [["%s", 4000]]}' % IDS[1].encode(),
        b"[" * 60_000,
    ],
)
def test_a_damaged_file_is_ignored_with_a_word_and_replaced(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "peers.json"
    path.write_bytes(data)
    book = AddressBook.read(path)
    assert str(path) in book.problem
    assert "\n" not in book.problem
    assert not book.addresses
    book.add([place(1)])
    book.save()
    assert AddressBook.read(path).addresses == (place(1),)


def test_a_folder_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    book = AddressBook(tmp_path / "gone" / "peers.json")
    book.add([place(1)])
    book.save()
    assert book.addresses == (place(1),)
