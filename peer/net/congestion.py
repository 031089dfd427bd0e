"""BBR for what we send, where the kernel lets us choose it.

At one lost packet in a hundred a connection under Cubic carries a fiftieth of what it does under
BBR (docs/links.md). gRPC has no option for it, but a connection takes its congestion control from
the listening socket that it came in by, and what peers fetch from us goes over such connections.
"""

import logging
import os
import socket
from pathlib import Path

logger = logging.getLogger(__name__)

BBR = b"bbr"
_DESCRIPTORS = Path("/proc/self/fd")


def prefer_bbr(port: int) -> bool:
    """Asks for BBR on our sockets that listen on a TCP port; returns whether it was granted.

    The kernel grants what is in `net.ipv4.tcp_allowed_congestion_control`. A route may have a
    setting of its own, which counts more.
    """
    option = getattr(socket, "TCP_CONGESTION", None)
    if option is None or not _DESCRIPTORS.is_dir():
        return False
    granted = False
    for name in os.listdir(_DESCRIPTORS):
        try:
            descriptor = os.dup(int(name))
        except OSError:
            continue  # it was closed meanwhile
        try:
            listener = socket.socket(fileno=descriptor)
        except OSError:
            os.close(descriptor)
            continue
        with listener:
            try:
                if _listens_on(listener, port):
                    listener.setsockopt(socket.IPPROTO_TCP, option, BBR)
                    granted = True
            except OSError as error:
                logger.debug("no BBR: %s", error)
    return granted


def _listens_on(listener: socket.socket, port: int) -> bool:
    if listener.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    is_stream = listener.type == socket.SOCK_STREAM
    if not is_stream or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    name: tuple[object, ...] = listener.getsockname()
    return name[1] == port
