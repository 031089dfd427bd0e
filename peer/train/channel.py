"""Lines over a socket: a side that never blocks for the trainer, an asyncio side for the wire."""

import asyncio
import contextlib
import select
import socket
import time
from collections.abc import AsyncIterator

from peer.train.lines import MAX_LINE_BYTES, Message, parse_line, to_line

_READ_BYTES = 1 << 16


class LineChannel:
    """The trainer's end: sending and polling never wait for the other side.

    Args:
        sock: A connected stream socket; the channel owns it.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self.is_closed = False
        """The other side is gone."""

    @property
    def backlog_bytes(self) -> int:
        """What the other side has not taken yet."""
        return len(self._outgoing)

    def send(self, message: Message) -> None:
        """Queue a message, and send as much of the queue as the socket takes now."""
        self._outgoing += to_line(message)
        self._flush()

    def poll(self, *, wait_s: float = 0.0) -> list[Message]:
        """Return the messages that have come.

        Args:
            wait_s: How long to wait for the first one, for somebody with nothing else to do.
        """
        self._flush()
        if wait_s > 0 and not self.is_closed:
            self._wait(select.POLLIN, wait_s)
        self._read()
        *lines, rest = self._incoming.split(b"\n")
        self._incoming = rest
        return [parse_line(bytes(line)) for line in lines]

    def close(self, *, flush_s: float = 1.0) -> None:
        """Send what is queued, for at most `flush_s`, and close the socket."""
        deadline_s = time.monotonic() + flush_s
        while self._outgoing and not self.is_closed and time.monotonic() < deadline_s:
            self._wait(select.POLLOUT, 0.05)
            self._flush()
        self.is_closed = True
        self._sock.close()

    def _wait(self, events: int, wait_s: float) -> None:
        waiting = select.poll()  # select() takes no descriptor above 1023
        waiting.register(self._sock, events)
        waiting.poll(1000 * wait_s)

    def _flush(self) -> None:
        while self._outgoing and not self.is_closed:
            try:
                del self._outgoing[: self._sock.send(self._outgoing)]
            except BlockingIOError:
                return
            except OSError:
                self._outgoing.clear()
                self._read()  # up to its end: the last words may say why

    def _read(self) -> None:
        while not self.is_closed:
            try:
                data = self._sock.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.is_closed = True
            self._incoming += data


class AsyncLineChannel:
    """The wire process's end, for one reader.

    channel = await AsyncLineChannel.open(sock)
    async for message in channel:   # ends when the trainer is gone
        ...
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, sock: socket.socket) -> "AsyncLineChannel":
        """Take over a connected Unix stream socket, one end of a socketpair."""
        return cls(*await asyncio.open_unix_connection(sock=sock, limit=MAX_LINE_BYTES))

    @property
    def backlog_bytes(self) -> int:
        """What the other side has not taken yet."""
        return self._writer.transport.get_write_buffer_size()

    def send(self, message: Message) -> None:
        """Queue a message. Lost without an error when the trainer is gone; the reader learns it."""
        if not self._writer.is_closing():
            self._writer.write(to_line(message))

    async def receive(self) -> Message | None:
        """Return the next message; None when the other side has closed."""
        with contextlib.suppress(ConnectionError):
            if (line := await self._reader.readline()).endswith(b"\n"):
                return parse_line(line)
        return None

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Yield messages until the other side closes."""
        while (message := await self.receive()) is not None:
            yield message

    async def close(self) -> None:
        """Close the socket, which tells the trainer to exit."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
