"""The libp2p daemon lives and dies with us."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from peer.net.p2pd import P2pd
from protocol.errors import ConfigError
from protocol.identity import Identity

pytestmark = pytest.mark.net


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_the_daemon_keeps_its_things_private_and_leaves_nothing() -> None:
    daemon = await P2pd.start(Identity(b"a" * 32))
    assert stat.S_IMODE(daemon.run_dir.stat().st_mode) == 0o700
    assert not (daemon.run_dir / "identity").exists()  # the daemon has read it
    assert len(str(daemon.socket_path)) < 100
    (maddr,) = daemon.maddrs
    assert maddr.startswith("/ip4/127.0.0.1/tcp/")
    assert not maddr.endswith("/0")
    pid = daemon.pid
    assert _is_alive(pid)
    await daemon.close()
    assert not _is_alive(pid)
    assert not daemon.run_dir.exists()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_port_in_use_is_the_operators_mistake() -> None:
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        with pytest.raises(ConfigError, match=f"cannot listen on /ip4/127.0.0.1/tcp/{port}"):
            await P2pd.start(Identity(b"a" * 32), listen_port=port)


PARENT = """
import asyncio
from peer.net.p2pd import P2pd
from protocol.identity import Identity

async def main():
    daemon = await P2pd.start(Identity(b"a" * 32))
    print(daemon.pid, daemon.run_dir, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
def test_the_daemon_dies_when_its_parent_is_killed() -> None:
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    ) as parent:
        assert parent.stdout is not None
        pid, _, run_dir = parent.stdout.readline().strip().partition(" ")
        assert _is_alive(int(pid))
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    deadline_s = time.monotonic() + 5
    while _is_alive(int(pid)) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert not _is_alive(int(pid))
    subprocess.run(["rm", "-r", run_dir], check=True)
