"""What may go wrong on a link of `benchmarks.links`: it is cut, alters bytes, breaks connections.

A fault sees each IP packet that leaves a host, and says what goes on: the packet, another one in
its place, or nothing. Each counts what it did, so that nobody has to believe that it happened.

    Cut       drops what goes from one host to another; each direction is a pair of its own
    Flips     alters a byte of what a TCP segment carries, and mends its checksum: TCP accepts it
    Resets    puts a RST in the place of a full TCP segment: the connection breaks in mid-transfer

Only IPv4 is looked at; whatever else comes goes on unchanged.
"""

import random
import struct
from collections.abc import Iterable
from typing import Protocol

_TCP = 6
_RST = 0x04
_SEGMENT_BYTES = 1000
"""Whoever sends so much at once is in the middle of a transfer."""
_SPARED_BYTES = 32
"""Segments with less than this are left alone by `Flips`: no TLS record is so short."""


class LinkFault(Protocol):
    """What a link does to packets while it lasts."""

    def meet(self, src: str, dst: str, packet: bytes) -> bytes | None:
        """Returns what goes on in place of a packet from `src` to `dst`, None if nothing."""


class Cut:
    """Nothing gets through from the first host of each pair to the second.

    Args:
        pairs: Of hosts; (a, b) says nothing of (b, a).

    Attributes:
        dropped_packets: So many so far.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self.pairs = frozenset(pairs)
        self.dropped_packets = 0

    def meet(self, src: str, dst: str, packet: bytes) -> bytes | None:
        """Drops it, or not."""
        if (src, dst) not in self.pairs:
            return packet
        self.dropped_packets += 1
        return None


class Flips:
    """Alters some of the TCP segments that leave a host.

    Args:
        host: Which one.
        frac: Of its segments that carry at least 32 bytes.
        seed: Of which ones, and of the bytes.

    Attributes:
        altered_packets: So many so far.
    """

    def __init__(self, host: str, *, frac: float, seed: int = 0) -> None:
        self._host = host
        self._frac = frac
        self._rng = random.Random(seed)
        self.altered_packets = 0

    def meet(self, src: str, dst: str, packet: bytes) -> bytes | None:
        """Alters it, or not."""
        if src != self._host or self._rng.random() >= self._frac:
            return packet
        payload = _payload(packet)
        if payload is None or len(packet) - payload < _SPARED_BYTES:
            return packet
        self.altered_packets += 1
        return flipped(packet, self._rng.randrange(payload, len(packet)))


class Resets:
    """Breaks so many TCP connections in which a host is sending a full segment.

    Args:
        host: Which one.
        number: Of connections, each once.

    Attributes:
        broken: Of which connections, as addresses and ports of both ends.
        confirmed: Those of which the receiver has shown that it knows them no more: to whatever
            the sender sent next it has answered with a RST of its own.
    """

    def __init__(self, host: str, number: int) -> None:
        self._host = host
        self._number = number
        self.broken: set[bytes] = set()
        self.confirmed: set[bytes] = set()

    def meet(self, src: str, dst: str, packet: bytes) -> bytes | None:
        """Puts a RST in its place, or not."""
        payload = _payload(packet)
        if payload is None:
            return packet
        tcp = _header_bytes(packet)
        if src != self._host:
            if packet[tcp + 13] & _RST:
                there = packet[16:20] + packet[12:16] + packet[tcp + 2 : tcp + 4]
                self.confirmed |= self.broken & {there + packet[tcp : tcp + 2]}
            return packet
        connection = packet[12:20] + packet[tcp : tcp + 4]
        is_long = len(packet) - payload >= _SEGMENT_BYTES
        if not is_long or len(self.broken) >= self._number or connection in self.broken:
            return packet
        self.broken.add(connection)
        return reset(packet)


def flipped(packet: bytes, place: int) -> bytes:
    """Returns a TCP packet with one bit of one byte changed, and a checksum that says it is right.

    Args:
        packet: IPv4, with TCP.
        place: Of the byte, in the packet; within what TCP carries.
    """
    altered = bytearray(packet)
    altered[place] ^= 0x10
    tcp = _header_bytes(packet)
    word = place - (place - tcp) % 2  # the checksum is of words, counted from where TCP begins
    before, after = (
        int.from_bytes(each[word : word + 2].ljust(2, b"\0")) for each in (packet, altered)
    )
    field = slice(tcp + 16, tcp + 18)
    # RFC 1624, equation 3.
    total = (~int.from_bytes(packet[field]) & 0xFFFF) + (~before & 0xFFFF) + after
    altered[field] = _folded(total).to_bytes(2)
    return bytes(altered)


def reset(packet: bytes) -> bytes:
    """Returns the RST that a TCP packet's receiver accepts in its place.

    It stands exactly where the data would have been: a RST anywhere else is answered with a
    challenge (RFC 5961). The sender learns of it when it sends more.

    Args:
        packet: IPv4, with TCP.
    """
    tcp = _header_bytes(packet)
    ends, ports = packet[12:20], packet[tcp : tcp + 4]
    sequence = packet[tcp + 4 : tcp + 8]
    segment = ports + sequence + struct.pack(">IBBHHH", 0, 5 << 4, _RST, 0, 0, 0)
    pseudo = ends + struct.pack(">HH", _TCP, len(segment))
    segment = segment[:16] + checksum(pseudo + segment).to_bytes(2) + segment[18:]
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(segment), 0, 0, 64, _TCP, 0) + ends
    header = header[:10] + checksum(header).to_bytes(2) + header[12:]
    return header + segment


def checksum(data: bytes) -> int:
    """Returns the checksum of RFC 1071; 0 for what holds its own."""
    data = data.ljust(len(data) + len(data) % 2, b"\0")
    return _folded(sum(word for (word,) in struct.iter_unpack(">H", data)))


def _folded(total: int) -> int:
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _header_bytes(packet: bytes) -> int:
    return 4 * (packet[0] & 0xF)


def _payload(packet: bytes) -> int | None:
    """Returns where that begins what TCP carries, None if this is no TCP."""
    if packet[0] >> 4 != 4 or packet[9] != _TCP:
        return None
    tcp = _header_bytes(packet)
    return tcp + 4 * (packet[tcp + 12] >> 4)
