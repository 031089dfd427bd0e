"""The wire process's view of a loop that is there already."""

import asyncio
import socket
from pathlib import Path
from typing import cast

import pytest

from optim.layout import Layout
from peer.loop.attached import Attached
from peer.loop.wire_process import MAX_PARTNERS, news_of
from peer.status import PeerStatus
from peer.train import lines
from peer.train.channel import AsyncLineChannel, LineChannel
from peer.train.config import TrainerConfig
from peer.train.interchange import Interchange
from peer.train.model import layout_of_run
from peer.trainer_port import TrainerPort
from peer.waits import Waits
from protocol.errors import ConfigError
from protocol.identity import Identity
from protocol.manifest import Manifest


async def opened(attached: Attached, layout: Layout, tmp_path: Path) -> TrainerPort:
    config = cast("TrainerConfig", None)  # a loop has settings of its own
    return await attached.open(config, tmp_path, layout, on_news=lambda news: None, waits=Waits())


async def test_the_loop_sees_the_manifest_first_and_is_still_told_things_when_its_port_is_closed(
    manifest: Manifest, tmp_path: Path
) -> None:
    ours, theirs = socket.socketpair()
    loop, layout = LineChannel(theirs), layout_of_run(manifest)
    channel = await AsyncLineChannel.open(ours)
    buffers = Interchange.create(layout.num_elements)
    attached = Attached(channel, buffers.fd)
    attached.on_found(tmp_path / "manifest.json", manifest.run_id)
    port = await opened(attached, layout, tmp_path)
    await port.close()
    channel.send(lines.Failed(reason="the disk is full"))
    await channel.close()
    assert await asyncio.to_thread(loop.poll, wait_s=1.0) == [
        lines.Found(manifest=str(tmp_path / "manifest.json"), run_id=manifest.run_id),
        lines.Failed(reason="the disk is full"),
    ]
    loop.close()


async def test_a_model_of_another_size_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    channel = await AsyncLineChannel.open(ours)
    buffers = Interchange.create(5)
    with pytest.raises(ConfigError):
        await opened(Attached(channel, buffers.fd), layout_of_run(manifest), tmp_path)
    await channel.close()
    theirs.close()
    buffers.close()


def test_news_are_the_peers_status_and_never_too_long_for_a_line() -> None:
    status = PeerStatus()
    assert news_of(status, ()).validation is None  # there was no evaluation yet
    status.phase, status.round, status.validation_bits_per_byte = "training", 7, 2.5
    status.partners = [Identity(bytes([n]) * 32).peer_id for n in range(100)]
    news = news_of(status, ("a note",))
    assert (news.phase, news.round, news.validation) == ("training", 7, 2.5)
    assert news.partners == tuple(status.partners[:MAX_PARTNERS])
    assert lines.parse_line(lines.to_line(news)) == news
