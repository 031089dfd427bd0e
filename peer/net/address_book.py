"""Whom we met: addresses at which the swarm may be entered, kept for when nobody else is known.

Nothing but ids and addresses is kept, and little of it. An address in the book is a place to knock
at, no more: whoever answers there must still prove to be the peer that the address names. Half of
the places are for addresses where somebody did: those that strangers only name, however many,
cannot make us forget them.
"""

import contextlib
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
MAX_ANSWERED = MAX_ADDRESSES // 2
"""So many addresses that answered make no room for those that did not."""
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
        self._answered: OrderedDict[Address, None] = OrderedDict()
        """Those of them where somebody answered, the last one last."""
        self._saved: frozenset[tuple[Address, bool]] = frozenset()

    @classmethod
    def read(cls, path: Path) -> "AddressBook":
        """Returns the book in a file; a new one if there is none, or it is damaged."""
        book = cls(path)
        try:
            with path.open("rb") as file:
                kept, num_bad = _parse(file.read(_MAX_FILE_BYTES))
        except FileNotFoundError:
            return book
        except (OSError, ValueError, RecursionError) as error:
            book.problem = f"{path} is damaged ({error}): whom we knew is forgotten"
            return book
        if num_bad:
            book.problem = f"{path} is damaged: {num_bad} of whom we knew are forgotten"
        for address, has_answered in reversed(kept):
            book.add([address], have_answered=has_answered)
        book._saved = book._content() if not num_bad else frozenset()
        return book

    @property
    def addresses(self) -> Sequence[Address]:
        """All of them, the newest first."""
        return tuple(reversed(self._addresses))

    def add(self, addresses: Iterable[Address], *, have_answered: bool = False) -> None:
        """Enters addresses, the newest last; makes room where there are too many.

        Args:
            addresses: Of others.
            have_answered: Whether we have reached them there, and not only heard of them.
        """
        for address in addresses:
            for places in (self._addresses, self._answered)[: 2 if have_answered else 1]:
                places[address] = None
                places.move_to_end(address)
        while len(self._answered) > MAX_ANSWERED:
            self._answered.popitem(last=False)
        kept: set[Address] = set()
        count: Counter[str] = Counter()
        for address in dict.fromkeys((*reversed(self._answered), *self.addresses)):
            count[address.peer_id] += 1
            if count[address.peer_id] <= MAX_ADDRESSES_PER_PEER and len(kept) < MAX_ADDRESSES:
                kept.add(address)
        for places in (self._addresses, self._answered):
            for address in [address for address in places if address not in kept]:
                del places[address]

    def save(self) -> None:
        """Writes the book if it has other addresses than the file. A full disk is only logged."""
        content = self._content()
        if self._path is None or self._saved == content:
            return
        peers = [
            [a.peer_id, a.host, a.port, *([True] if a in self._answered else [])]
            for a in self.addresses
        ]
        temporary = self._path.with_name(f".{self._path.name}-{os.getpid()}")
        try:
            temporary.write_text(json.dumps({"version": _VERSION, "peers": peers}) + "\n")
            temporary.rename(self._path)
        except OSError as error:
            logger.warning("cannot remember whom we know: %s", error)
            return
        self._saved = content

    def _content(self) -> frozenset[tuple[Address, bool]]:
        return frozenset((address, address in self._answered) for address in self._addresses)


def _parse(data: bytes) -> tuple[list[tuple[Address, bool]], int]:
    """Returns the addresses in a file, the newest first, with whether they answered.

    Also returns how many others make no sense: they are left out, and the rest is as good.

    Raises:
        ValueError: it is no such file.
    """
    kept = json.loads(data)
    if not isinstance(kept, dict) or kept.get("version") != _VERSION:
        raise ValueError("not an address book, or of another version")
    peers = kept.get("peers")
    if not isinstance(peers, list) or len(peers) > MAX_ADDRESSES:
        raise ValueError("no peers, or too many")
    entries = []
    for peer in peers:
        with contextlib.suppress(ValueError, RemoteError):
            entries.append(_entry(peer))
    return entries, len(peers) - len(entries)


def _entry(entry: object) -> tuple[Address, bool]:
    match entry:
        case [str(peer_id), str(host), int(port), *rest] if type(port) is int:
            is_good = 0 < len(host) <= _MAX_HOST_CHARS and host.isascii() and 0 < port < 65536
            if is_good and rest in ([], [True]):
                return Address(host, port, parse_peer_id(peer_id)), bool(rest)
    raise ValueError("an address that is none")
