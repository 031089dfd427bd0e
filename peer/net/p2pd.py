"""hivemind's libp2p daemon, started by ourselves: it dies with us, and leaves nothing behind.

hivemind's own launcher outlives a killed parent, keeps its sockets where every local user can
reach them, and knows no Ed25519 identities. Ours gives the daemon a private run directory, our key,
and TCP only (libp2p would prefer QUIC, whose congestion control is far slower here).
"""

import asyncio
import contextlib
import importlib.util
import logging
import os
import shutil
import socket
import sys
import tempfile
from collections import deque
from pathlib import Path

from protocol.errors import ConfigError
from protocol.identity import Identity

logger = logging.getLogger(__name__)

_START_S = 15.0
_ENDED_S = 1.0
_MORE_MADDRS_S = 0.02  # they come in one burst, one a line
_MAX_SOCKET_PATH = 100  # the kernel's limit is 108, for the longest name in the directory

# Runs between fork and exec of the daemon: a fresh interpreter instead of preexec_fn, which is not
# safe in a process with threads. The signal is sent when the *thread* that started us ends, so
# start() must be called from one that lives as long as the daemon shall. If the parent died before
# prctl, we see another parent and go. Where there is no prctl, the daemon is merely not killed.
_EXEC_WITH_PARENT = """
import os, sys
try:
    import ctypes
    ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
except (ImportError, OSError, AttributeError):
    pass
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class P2pd:
    """A running daemon. Make it with `start`.

    Attributes:
        run_dir: private to us; removed by `close`.
        socket_path: where the daemon takes commands.
        maddrs: the addresses that it says others can use, like "/ip4/127.0.0.1/tcp/4711".
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.socket_path = run_dir / "p2pd.sock"
        self._process: asyncio.subprocess.Process | None = None
        self._drain: asyncio.Task[None] | None = None
        self._last_lines: deque[str] = deque(maxlen=5)
        self.maddrs: list[str] = []

    @classmethod
    async def start(
        cls,
        identity: Identity,
        *,
        listen_host: str = "127.0.0.1",
        listen_port: int = 0,
        announce_host: str | None = None,
    ) -> "P2pd":
        """Returns a daemon that listens. The calling thread must live as long as the daemon shall.

        Args:
            identity: its key, and so its peer id.
            listen_host: an IP address; "0.0.0.0" for all.
            listen_port: 0 for any.
            announce_host: the IP address that others reach us at, if it is another one.

        Raises:
            ConfigError: it cannot listen there, or cannot run at all.
        """
        run_dir = tempfile.mkdtemp(prefix="tw-")  # 0700
        if len(run_dir) > _MAX_SOCKET_PATH - 20:
            os.rmdir(run_dir)
            run_dir = tempfile.mkdtemp(prefix="tw-", dir="/tmp")
        daemon = cls(Path(run_dir))
        announced = []
        if announce_host is not None:
            listen_port = listen_port or free_port(listen_host)  # it cannot announce "any"
            announced = [f"-announceAddrs={maddr_of(announce_host, listen_port)}"]
        try:
            await daemon._launch(identity, maddr_of(listen_host, listen_port), announced)
        except BaseException:
            await daemon.close()
            raise
        return daemon

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def port(self) -> int:
        """The TCP port on which it listens."""
        return int(self.maddrs[0].split("/")[4])

    async def wait(self) -> int:
        """Returns how the daemon ended, when it has; less than 0 is minus a signal."""
        assert self._process is not None
        return await self._process.wait()

    async def close(self) -> None:
        """Kills the daemon and removes its directory."""
        if self._process is not None and self._drain is not None and self._drain.done():
            # It has ended by itself, and asyncio is about to know; to kill it now confuses that.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), _ENDED_S)
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        if self._drain is not None:
            await self._drain  # ends with the pipe
        shutil.rmtree(self.run_dir, ignore_errors=True)

    async def _launch(self, identity: Identity, host_maddr: str, extra: list[str]) -> None:
        key_path = self.run_dir / "identity"
        key_path.touch(mode=0o600, exist_ok=False)
        key_path.write_bytes(identity.to_libp2p())
        args = [
            f"-listen=/unix{self.socket_path}",
            f"-id={key_path}",
            f"-hostAddrs={host_maddr}",
            "-dhtServer=1",
            "-autonat=0",
            "-natPortMap=0",
            "-connManager=1",
            "-relay=0",
            "-tls=1",
            "-noise=1",
            "-idleTimeout=30s",
            *extra,
        ]
        environment = {**os.environ, "GOLOG_LOG_LEVEL": "error", "GOMAXPROCS": "1"}
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", _EXEC_WITH_PARENT, str(os.getpid())),
            *(str(_binary()), *args),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # a terminal's Ctrl+C is for us: goodbye needs the daemon
        )
        ready = asyncio.Event()
        self._drain = asyncio.create_task(self._read_output(self._process, ready))
        ready_wait = asyncio.create_task(ready.wait())
        await asyncio.wait(
            {self._drain, ready_wait}, timeout=_START_S, return_when=asyncio.FIRST_COMPLETED
        )
        ready_wait.cancel()
        key_path.unlink()  # the daemon has read it, and a killed parent could not remove it
        if not ready.is_set():
            said = " / ".join(self._last_lines) or "nothing"
            raise ConfigError(
                f"the libp2p daemon cannot listen on {host_maddr}: choose another port or host "
                f"with --listen; it said: {said}"
            )

    async def _read_output(self, process: asyncio.subprocess.Process, ready: asyncio.Event) -> None:
        # The pipe must be read for as long as the daemon lives, or it blocks when the pipe is full.
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:
                continue  # a line longer than the buffer; it was dropped
            if not line:
                return
            text = line.decode(errors="replace").strip()
            self._last_lines.append(text[:200])
            logger.debug("p2pd: %.300s", text)
            if text.startswith("/ip") and not ready.is_set():
                self.maddrs.append(text)
                asyncio.get_running_loop().call_later(_MORE_MADDRS_S, ready.set)


def maddr_of(host: str, port: int) -> str:
    """Returns the libp2p address of a TCP port."""
    return f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/{port}"


def free_port(host: str) -> int:
    """Returns a port on which nobody listens at the moment."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        port: int = server.getsockname()[1]
        return port


def _binary() -> Path:
    # Importing hivemind takes seconds, and is not needed to know where it is.
    spec = importlib.util.find_spec("hivemind")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder) / "hivemind_cli" / "p2pd"
        if path.exists():
            return path
    raise ConfigError("hivemind's p2pd is not installed: run `pip install hivemind==1.1.12`")
