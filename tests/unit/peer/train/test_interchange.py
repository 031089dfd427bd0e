import fcntl
import os
import resource
import socket
from typing import Never

import pytest
import torch

from peer.train.channel import AsyncLineChannel, LineChannel
from peer.train.interchange import Interchange
from peer.train.lines import Depart, Free, Landed, Leave
from protocol.errors import ConfigError


def test_both_sides_see_the_same_vectors() -> None:
    ours = Interchange.create(5)
    theirs = Interchange.open(os.dup(ours.fd), 5)
    ours.anchor.copy_(torch.arange(5.0))
    theirs.base.fill_(2.0)
    assert torch.equal(theirs.anchor, torch.arange(5.0))
    assert torch.equal(ours.base, torch.full((5,), 2.0))
    ours.close()
    ours.close()
    assert torch.equal(theirs.anchor, torch.arange(5.0))
    theirs.close()


def test_another_size_is_refused() -> None:
    interchange = Interchange.create(5)
    with pytest.raises(ConfigError, match="has 40 bytes, the model needs 48"):
        Interchange.open(interchange.fd, 6)
    interchange.close()


def test_too_little_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_args: object) -> Never:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(os, "ftruncate", no_room)
    with pytest.raises(ConfigError, match=r"no room for 8 MB .*Cannot allocate"):
        Interchange.create(1_000_000)


def test_polling_and_sending_never_block() -> None:
    ours, theirs = (LineChannel(end) for end in socket.socketpair())
    assert theirs.poll() == []
    for fragment in range(20_000):
        ours.send(Free(fragment=fragment))
    assert ours.backlog_bytes > 0
    got = []
    while len(got) < 20_000:
        got += theirs.poll()
        ours.poll()
    assert [message.fragment for message in got] == list(range(20_000))
    ours.close()
    assert theirs.poll(wait_s=1.0) == []
    assert theirs.is_closed
    theirs.send(Leave())  # into the void
    theirs.close()


def test_a_line_may_come_in_pieces() -> None:
    raw, end = socket.socketpair()
    channel = LineChannel(end)
    raw.send(b'{"kind":"free","fra')
    assert channel.poll() == []
    raw.send(b'gment":3}\n{"kind":"leave"}\n')
    assert channel.poll(wait_s=1.0) == [Free(fragment=3), Leave()]
    raw.close()
    channel.close()


async def test_the_asyncio_side() -> None:
    left, right = socket.socketpair()
    trainer, wire = LineChannel(left), await AsyncLineChannel.open(right)
    wire.send(Depart(fragment=1))
    assert trainer.poll(wait_s=1.0) == [Depart(fragment=1)]
    trainer.send(Landed(fragment=1, round=2, step=3))
    trainer.close()
    assert [message async for message in wire] == [Landed(fragment=1, round=2, step=3)]
    wire.send(Leave())
    await wire.close()


def test_lines_come_over_any_descriptor_that_a_process_may_have() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1200:
        pytest.skip("this system allows too few descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    near, far = socket.socketpair()
    high = fcntl.fcntl(near, fcntl.F_DUPFD_CLOEXEC, 1100)  # as in a process with many files open
    near.close()
    ours, theirs = LineChannel(socket.socket(fileno=high)), LineChannel(far)
    theirs.send(Leave())
    assert ours.poll(wait_s=1.0) == [Leave()]
    ours.close()
    theirs.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
