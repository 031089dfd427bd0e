"""Bytes on the wire, counted by the kernel: all TCP sockets of some processes, whatever they say.

Everything counts, TLS, control traffic and retransmissions too. The figures come from sock_diag
over netlink, and are matched to processes by the inodes in /proc/PID/fd. A socket is followed by
its cookie until it is gone, so bytes sent after it was closed count as well; one that was opened
and closed between two samples is missed.
"""

import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST_DUMP = 0x301
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_INET_DIAG_INFO = 2
_ALL_STATES = 0xFFFFFFFF

_NLMSGHDR = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_REQUEST = struct.Struct("=BBBBI48x")  # inet_diag_req_v2: family, protocol, extensions, -, states
_MESSAGE_BYTES = 72  # inet_diag_msg: 4, sockid 48, then expires, rqueue, wqueue, uid, inode
_COOKIE_AT, _INODE_AT = 44, 68
_RTATTR = struct.Struct("=HH")  # length, type

# Offsets in struct tcp_info (linux/tcp.h). bytes_sent came with Linux 4.19.
_BYTES_ACKED_AT, _BYTES_RECEIVED_AT, _BYTES_SENT_AT = 120, 128, 200


class SocketMeter:
    """Counts the bytes of all TCP sockets of these processes, in our network namespace.

    Args:
        pids: the processes; those that are gone or not ours count nothing. May be set anew.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self.pids = tuple(pids)
        self._living: dict[int, tuple[int, int]] = {}
        self._closed = (0, 0)

    @staticmethod
    def is_supported() -> bool:
        """Whether this system can count."""
        if not sys.platform.startswith("linux"):
            return False
        try:
            return sum(1 for _ in _dump(socket.AF_INET)) >= 0 and os.path.isdir("/proc/self/fd")
        except OSError:
            return False

    def sample(self) -> tuple[int, int]:
        """Returns bytes sent and received so far, by living and by closed sockets."""
        ours = _inodes(self.pids)
        living: dict[int, tuple[int, int]] = {}
        for family in (socket.AF_INET, socket.AF_INET6):
            for cookie, inode, sent, received in _dump(family):
                if inode in ours or cookie in self._living:
                    living[cookie] = (sent, received)
        for cookie in self._living.keys() - living.keys():
            self._closed = _plus(self._closed, self._living[cookie])
        self._living = living
        total = self._closed
        for figures in living.values():
            total = _plus(total, figures)
        return total


def _plus(left: tuple[int, int], right: tuple[int, int]) -> tuple[int, int]:
    return left[0] + right[0], left[1] + right[1]


def _inodes(pids: Iterable[int]) -> set[int]:
    inodes = set()
    for pid in pids:
        folder = f"/proc/{pid}/fd"
        try:
            names = os.listdir(folder)
        except OSError:
            continue  # gone, or not ours
        for name in names:
            try:
                target = os.readlink(f"{folder}/{name}")
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(int(target[8:-1]))
    return inodes


def _dump(family: int) -> Iterator[tuple[int, int, int, int]]:
    """Yields cookie, inode, bytes sent and bytes received of every TCP socket of a family."""
    # Not in the socket module's typing everywhere, hence the number.
    with socket.socket(16, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(2.0)
        body = _REQUEST.pack(family, socket.IPPROTO_TCP, 1 << (_INET_DIAG_INFO - 1), 0, _ALL_STATES)
        size = _NLMSGHDR.size + len(body)
        header = _NLMSGHDR.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0)
        netlink.sendto(header + body, (0, 0))
        while True:
            data = netlink.recv(1 << 18)
            at = 0
            while at + _NLMSGHDR.size <= len(data):
                length, kind, *_ = _NLMSGHDR.unpack_from(data, at)
                if kind == _NLMSG_DONE or length < _NLMSGHDR.size:
                    return
                if kind == _NLMSG_ERROR:
                    (code,) = struct.unpack_from("=i", data, at + _NLMSGHDR.size)
                    raise OSError(-code, os.strerror(-code))
                yield from _parse(data[at + _NLMSGHDR.size : at + length])
                at += (length + 3) & ~3


def _parse(message: bytes) -> Iterator[tuple[int, int, int, int]]:
    (cookie,) = struct.unpack_from("=Q", message, _COOKIE_AT)
    (inode,) = struct.unpack_from("=I", message, _INODE_AT)
    at = _MESSAGE_BYTES
    while at + _RTATTR.size <= len(message):
        length, kind = _RTATTR.unpack_from(message, at)
        if length < _RTATTR.size:
            return
        if kind == _INET_DIAG_INFO:
            info = message[at + _RTATTR.size : at + length]
            # Listening sockets have a tcp_info too, in which other things share these places.
            is_listening = bool(info) and info[0] == 10
            if not is_listening and len(info) >= _BYTES_RECEIVED_AT + 8:
                has_sent = len(info) >= _BYTES_SENT_AT + 8
                sent_at = _BYTES_SENT_AT if has_sent else _BYTES_ACKED_AT
                (sent,) = struct.unpack_from("=Q", info, sent_at)
                (received,) = struct.unpack_from("=Q", info, _BYTES_RECEIVED_AT)
                yield cookie, inode, sent, received
        at += (length + 3) & ~3
