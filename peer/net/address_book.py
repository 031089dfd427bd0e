"""Whom we met: addresses at which the swarm may be entered, kept for when nobody else is known.

Nothing but ids and addresses is kept, and little of it. An address in the book is a place to knock
at, no more: whoever answers there must still prove to be the peer that the address names.
"""

import json
import logging
import os
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path

from protocol.errors import RemoteError
from protocol.identity import parse_peer_id
from protocol.ticket import Address

logger = logging.getLogger(__name__)

PEERS = "peers.json"
MAX_ADDRESSES = 96
MAX_ADDRESSES_PER_PEER = 4
_MAX_HOST_CHARS = 253
_MAX_FILE_BYTES = 1 << 16
_VERSION = 1


class AddressBook:
    """Addresses, those that were used last first. Make one from a file with `read`.

    Args:
        path: Where `save` writes; None keeps nothing.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.problem = ""
        """What was wrong with the file, for people."""
        self._path = path
        self._addresses: OrderedDict[Address, None] = OrderedDict()
        """The newest last."""
        self._saved: frozenset[Address] = frozenset()

    @classmethod
    def read(cls, path: Path) -> "AddressBook":
        """Returns the book in a file; a new one if there is none, or it is damaged."""
        book = cls(path)
        try:
            with path.open("rb") as file:
                kept = _parse(file.read(_MAX_FILE_BYTES))
        except FileNotFoundError:
            return book
        except (OSError, ValueError, RecursionError, RemoteError) as error:
            book.problem = f"{path} is damaged ({error}): whom we knew is forgotten"
            return book
        book.add(reversed(kept))
        book._saved = frozenset(book._addresses)
        return book

    @property
    def addresses(self) -> Sequence[Address]:
        """All of them, the newest first."""
        return tuple(reversed(self._addresses))

    def add(self, addresses: Iterable[Address]) -> None:
        """Enters addresses, the newest last; makes room where there are too many."""
        for address in addresses:
            self._addresses[address] = None
            self._addresses.move_to_end(address)
        count: Counter[str] = Counter()
        for address in self.addresses:
            count[address.peer_id] += 1
            if count[address.peer_id] > MAX_ADDRESSES_PER_PEER:
                del self._addresses[address]
        while len(self._addresses) > MAX_ADDRESSES:
            self._addresses.popitem(last=False)

    def save(self) -> None:
        """Writes the book if it has other addresses than the file. A full disk is only logged."""
        if self._path is None or self._saved == self._addresses.keys():
            return
        peers = [[a.peer_id, a.host, a.port] for a in self.addresses]
        temporary = self._path.with_name(f".{self._path.name}-{os.getpid()}")
        try:
            temporary.write_text(json.dumps({"version": _VERSION, "peers": peers}) + "\n")
            temporary.rename(self._path)
        except OSError as error:
            logger.warning("cannot remember whom we know: %s", error)
            return
        self._saved = frozenset(self._addresses)


def _parse(data: bytes) -> list[Address]:
    """Returns the addresses in a file, the newest first.

    Raises:
        ValueError, RemoteError: it is no such file.
    """
    kept = json.loads(data)
    if not isinstance(kept, dict) or kept.get("version") != _VERSION:
        raise ValueError("not an address book, or of another version")
    peers = kept.get("peers")
    if not isinstance(peers, list) or len(peers) > MAX_ADDRESSES:
        raise ValueError("no peers, or too many")
    return [_address(entry) for entry in peers]


def _address(entry: object) -> Address:
    match entry:
        case [str(peer_id), str(host), int(port)] if type(port) is int:
            if 0 < len(host) <= _MAX_HOST_CHARS and host.isascii() and 0 < port < 65536:
                return Address(host, port, parse_peer_id(peer_id))
    raise ValueError("an address that is none")
