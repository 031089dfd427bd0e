"""Faults of links against RFC 1071, and against the kernel's own TCP where there may be one."""

import random
import socket
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.link_faults import Cut, Flips, Resets, checksum, flipped, reset
from benchmarks.links import Carrier, Lab, Link, why_not

FAST = Link(up_bps=1e9, down_bps=1e9, delay_s=0.001)
ENDLESS_S = 1e9


def tcp_packet(payload: bytes, *, port: int = 4000, options: bytes = b"") -> bytes:
    """A segment as a kernel would send it."""
    ends = socket.inet_aton("10.77.0.1") + socket.inet_aton("10.77.0.2")
    offset = (5 + len(options) // 4) << 4
    head = struct.pack(">HHIIBBHHH", port, 7000, 17, 99, offset, 0x18, 500, 0, 0)
    segment = head + options + payload
    pseudo = ends + struct.pack(">HH", 6, len(segment))
    segment = segment[:16] + checksum(pseudo + segment).to_bytes(2) + segment[18:]
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(segment), 7, 0, 64, 6, 0) + ends
    return header[:10] + checksum(header).to_bytes(2) + header[12:] + segment


def is_sound(packet: bytes) -> bool:
    """Whether both checksums are right: over a sound header the sum is 0 (RFC 1071)."""
    header, segment = packet[:20], packet[20:]
    pseudo = packet[12:20] + struct.pack(">HH", 6, len(segment))
    return checksum(header) == 0 and checksum(pseudo + segment) == 0


def test_the_checksum_is_that_of_the_rfc() -> None:
    # The example of RFC 1071, section 3: the sum of these words is ddf2.
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == ~0xDDF2 & 0xFFFF


@given(st.binary(min_size=1, max_size=1460), st.data(), st.sampled_from((b"", bytes(12))))
def test_an_altered_segment_differs_in_one_byte_that_it_carries_and_has_a_sound_checksum(
    payload: bytes, data: st.DataObject, options: bytes
) -> None:
    packet = tcp_packet(payload, options=options)
    start = len(packet) - len(payload)
    altered = flipped(packet, data.draw(st.integers(start, len(packet) - 1)))
    assert is_sound(packet)
    assert is_sound(altered)
    assert altered[:start][:36] == packet[:36]
    differing = [a != b for a, b in zip(packet[start:], altered[start:], strict=True)]
    assert sum(differing) == 1


@given(st.binary(min_size=1, max_size=1460))
def test_a_reset_stands_where_the_data_would_have_been(payload: bytes) -> None:
    packet = tcp_packet(payload)
    broken = reset(packet)
    assert is_sound(broken)
    assert len(broken) == 40
    assert broken[12:28] == packet[12:28]  # addresses, ports, sequence number
    assert broken[33] == 0x04


def carried(carrier: Carrier, packets: list[tuple[str, str, bytes]]) -> list[tuple[str, bytes]]:
    for src, dst, packet in packets:
        carrier.take(src, dst, packet, now_s=0.0)
    return list(carrier.arrivals(now_s=ENDLESS_S))


def test_a_cut_drops_one_direction_only_and_counts_it_and_ends() -> None:
    carrier = Carrier(dict.fromkeys("abc", FAST))
    cut = Cut([("a", "b")])
    both = [("a", "b", b"1" * 40), ("b", "a", b"2" * 40), ("a", "c", b"3" * 40)]
    carrier.inflict(cut)
    assert {dst for dst, _ in carried(carrier, both)} == {"a", "c"}
    assert cut.dropped_packets == 1
    carrier.lift(cut)
    assert len(carried(carrier, both)) == 3
    assert cut.dropped_packets == 1


def test_two_cuts_at_once_end_one_by_one() -> None:
    carrier = Carrier(dict.fromkeys("ab", FAST))
    first, second = Cut([("a", "b")]), Cut([("a", "b"), ("b", "a")])
    carrier.inflict(first)
    carrier.inflict(second)
    carrier.lift(first)
    assert carried(carrier, [("a", "b", b"1" * 40)]) == []
    carrier.lift(second)
    assert len(carried(carrier, [("a", "b", b"1" * 40)])) == 1


def test_flips_alter_as_many_as_told_of_one_host_and_spare_small_segments() -> None:
    flips = Flips("a", frac=0.1, seed=3)
    packet, small = tcp_packet(random.Random(0).randbytes(500)), tcp_packet(bytes(10))
    met = [flips.meet("a", "b", packet) for _ in range(2000)]
    altered = sum(result != packet for result in met)
    assert 140 < altered < 260
    assert flips.altered_packets == altered
    assert all(flips.meet("b", "a", packet) == packet for _ in range(100))
    assert all(flips.meet("a", "b", small) == small for _ in range(100))


def test_resets_break_each_connection_once_and_no_more_than_told() -> None:
    resets = Resets("a", 2)
    full = [tcp_packet(bytes(1400), port=port) for port in (1, 2, 3)]
    first = [resets.meet("a", "b", packet) for packet in full]
    again = [resets.meet("a", "b", packet) for packet in full]
    assert [len(packet or b"") for packet in first] == [40, 40, len(full[2])]
    assert again == full
    assert len(resets.broken) == 2


# ---- with the kernel's own TCP


@pytest.fixture
def _can_have_lab() -> None:
    if reason := why_not():
        pytest.skip(reason)


needs_lab = pytest.mark.usefixtures("_can_have_lab")


def tcp_counts(lab: Lab, host: str) -> dict[str, int]:
    text = lab.on(host, lambda: Path("/proc/thread-self/net/snmp").read_text())
    names, values = (line.split()[1:] for line in text.splitlines() if line.startswith("Tcp:"))
    return dict(zip(names, map(int, values), strict=True))


@pytest.mark.net
@needs_lab
def test_a_real_connection_delivers_altered_bytes_and_finds_no_checksum_wrong() -> None:
    sent = random.Random(1).randbytes(100_000)
    with Lab({"a": FAST, "b": FAST}) as lab:
        server = lab.on("b", lambda: socket.create_server((lab.address("b"), 0)))
        with server:
            client = lab.on("a", lambda: socket.create_connection(server.getsockname()))
            connection, _ = server.accept()
            flips = Flips("a", frac=0.2, seed=1)
            lab.inflict(flips)
            received = bytearray()
            with connection:
                with client:
                    client.sendall(sent)
                while chunk := connection.recv(1 << 16):
                    received += chunk
        assert len(received) == len(sent)
        num_differing = sum(a != b for a, b in zip(sent, received, strict=True))
        assert 0 < num_differing <= flips.altered_packets
        assert tcp_counts(lab, "b")["InCsumErrors"] == 0


def chatter(client: socket.socket, connection: socket.socket) -> None:
    """Goes on until one of the two is told that there is no connection any more."""
    for _ in range(100):
        client.sendall(bytes(100_000))
        connection.recv(1 << 16)


@pytest.mark.net
@needs_lab
def test_a_real_connection_breaks_at_a_reset_on_both_sides() -> None:
    with Lab({"a": FAST, "b": FAST}) as lab:
        server = lab.on("b", lambda: socket.create_server((lab.address("b"), 0)))
        with server:
            client = lab.on("a", lambda: socket.create_connection(server.getsockname()))
            connection, _ = server.accept()
            connection.settimeout(5.0)
            client.settimeout(5.0)
            resets = Resets("a", 1)
            lab.inflict(resets)
            with client, connection:
                for _ in range(2):  # the receiver learns of it first, and the sender then
                    with pytest.raises(ConnectionError):
                        chatter(client, connection)
        assert resets.confirmed == resets.broken
        assert len(resets.broken) == 1
        assert tcp_counts(lab, "b")["EstabResets"] == 1
