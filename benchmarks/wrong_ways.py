"""Ten ways to get it wrong: what `thinwire doctor` and `thinwire join` say to each.

    python -m benchmarks.wrong_ways                     # all of them, four minutes
    python -m benchmarks.wrong_ways --only clock disk

Each case is set up for real, on this machine: nodes on loopback, a file system of one megabyte, a
network without a way out, a clock that is set wrong for one process. Both commands must name cause
and fix, end with the exit code that they promise, and show no traceback. What is well (`ok`) is not
shown. A case that this machine cannot set up is skipped, and says why. The exit code is 1 if any
case is not as it should be.
"""

import argparse
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from protocol.manifest import RunId
from protocol.ticket import Ticket, parse_ticket

COMMAND_S = 240.0
START_S = 180.0
SETTINGS = """
name = "demo"
[method]
preset = "streaming"
[model]
dim = {dim}
layers = {layers}
heads = 2
ffn_dim = 128
context = 32
[membership]
policy = "{policy}"
"""
NOWHERE = "192.0.2.1"
"""Of a network for examples (RFC 5737): nothing answers there, not even with a refusal."""
SILENCE = """
ip link set lo up && ip link add inside type veth peer name outside
ip addr add 192.0.2.2/24 dev inside && ip link set inside up && ip link set outside up
ip neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev inside && exec "$@"
"""
"""A network of its own in which whatever is sent out gets lost."""
BEHIND_S = 2 * 86400
OVER = RunId("5e" * 32)

NEWER_PROTOCOL = """
import peer.net.admission
peer.net.admission.PROTOCOL_VERSION += 1
from thinwire.__main__ import main
main()
"""
NEWER_MANIFEST = """
import protocol.manifest
class Manifest(protocol.manifest.Manifest):
    quantum: int = 7
protocol.manifest.Manifest = Manifest
from thinwire.__main__ import main
main()
"""
WRONG_CLOCK = """
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *t) {
    int r = syscall(SYS_clock_gettime, id, t);
    if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) t->tv_sec -= BEHIND;
    return r;
}
int gettimeofday(struct timeval *t, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec; t->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *t) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (t) *t = now.tv_sec;
    return now.tv_sec;
}
"""


_NOT_TOLD = re.compile(r"(?m)^(ok  .*|[a-z].* \.\.\.)\n(     .*\n)*")
"""What is well, and what is under way."""


class Skipped(Exception):
    """This machine cannot set a case up."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a command said, and its exit code."""

    code: int
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A case that is set up.

    Attributes:
        words: After `thinwire doctor`, and after `thinwire join`.
        doctor_says: Patterns that its output must match, cause and fix.
        join_says: The same of join.
        environment: Besides ours.
        before: Words before the command, for a network of its own.
    """

    words: tuple[str, ...]
    doctor_says: tuple[str, ...]
    join_says: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    before: tuple[str, ...] = ()


class Place(contextlib.ExitStack):
    """A folder with runs, and nodes that serve them."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    @cached_property
    def plain(self) -> tuple[Ticket, Callable[[], None]]:
        """A run with which all is well, and what ends its only node."""
        return self.serve(self.found("run"))

    def found(
        self, name: str, *, dim: int = 64, layers: int = 2, policy: str = "open", program: str = ""
    ) -> Path:
        """Founds a run."""
        settings = self.folder / f"{name}.toml"
        settings.write_text(SETTINGS.format(dim=dim, layers=layers, policy=policy))
        said = command("new", str(settings), "--dir", str(self.folder / name), program=program)
        assert said.code == 0, said.output
        return self.folder / name

    def serve(self, run: Path, *, program: str = "") -> tuple[Ticket, Callable[[], None]]:
        """Starts a node; returns its ticket, and what ends it."""
        log = (run / "node.log").open("w")
        process = subprocess.Popen(
            [*_thinwire(program), "bootstrap", str(run)],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )

        def end() -> None:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.wait(START_S)
            log.close()

        self.callback(end)
        deadline_s = time.monotonic() + START_S
        while "0 peers" not in (said := (run / "node.log").read_text()):
            assert process.poll() is None, said
            assert time.monotonic() < deadline_s, said
            time.sleep(0.2)
        return parse_ticket((run / "ticket.txt").read_text()), end


def wrong_port(place: Place) -> Trial:
    """The ticket names a port on which nobody listens."""
    ticket, _ = place.plain
    (address,) = ticket.addresses
    wrong = str(replace(ticket, addresses=(replace(address, port=_free_port()),)))
    return Trial(
        words=(wrong,),
        doctor_says=("nobody listens there", "thinwire bootstrap RUN-FOLDER --listen"),
        join_says=("nobody listens", "thinwire doctor"),
    )


def firewall(place: Place) -> Trial:
    """Packets on the way to the ticket's address are dropped."""
    ticket, _ = place.plain
    (address,) = ticket.addresses
    dropped = str(replace(ticket, addresses=(replace(address, host=NOWHERE),)))
    return Trial(
        words=(dropped,),
        doctor_says=("no answer for 5 s", "firewall", "sudo ufw allow"),
        join_says=("no answer, so a firewall", "thinwire doctor"),
        before=_silence(),
    )


def node(place: Place) -> Trial:
    """The bootstrap node has ended, and nobody else is there."""
    ticket, end = place.plain
    end()
    return Trial(
        words=(str(ticket),),
        doctor_says=("nobody listens there", "node does not run", "thinwire bootstrap RUN-FOLDER"),
        join_says=("nobody listens", "thinwire doctor"),
    )


def run(place: Place) -> Trial:
    """The ticket is of a run that is over; its node serves another one now."""
    ticket, _ = place.plain
    return Trial(
        words=(str(replace(ticket, run_id=OVER)),),
        doctor_says=("nobody in it is in run", "the run is over", "ask for a newer ticket"),
        join_says=("nobody in its directory is in run", "newer ticket"),
    )


def clock(place: Place) -> Trial:
    """The clock of this machine is two days behind."""
    ticket, _ = place.plain
    library = _clock_library(place.folder)
    return Trial(
        words=(str(ticket),),
        doctor_says=("2 d behind", "certificates", "sudo timedatectl set-ntp true"),
        join_says=("clock is 172800 s behind", "set it", "a clock is days off", "timedatectl"),
        environment=(("LD_PRELOAD", str(library)),),
    )


def memory(place: Place) -> Trial:
    """The run's model is larger than this machine's memory."""
    ticket, _ = place.serve(place.found("large", dim=8192, layers=200))
    return Trial(
        words=(str(ticket),),
        doctor_says=("training needs .* TB", "a machine with more memory"),
        join_says=("needs .* TB", "memory"),
    )


def disk(place: Place) -> Trial:
    """The disk is full."""
    ticket, _ = place.plain
    small = _full_disk(place)
    return Trial(
        words=(str(ticket), "--dir", str(small / "peer")),
        doctor_says=("not even a peer's identity", "--dir DIR"),
        join_says=("No space left|cannot use", "--dir"),
    )


def version(place: Place) -> Trial:
    """The others speak a newer version of the protocol."""
    ticket, _ = place.serve(place.found("newer"), program=NEWER_PROTOCOL)
    return Trial(
        words=(str(ticket),),
        doctor_says=("version 1 of the protocol", "pip install --upgrade thinwire"),
        join_says=("version 1 of the protocol", "pip install --upgrade thinwire"),
    )


def setting(place: Place) -> Trial:
    """The run was founded by a newer version, with a setting that this one does not know."""
    found = place.found("richer", program=NEWER_MANIFEST)
    ticket, _ = place.serve(found, program=NEWER_MANIFEST)
    return Trial(
        words=(str(ticket),),
        doctor_says=("quantum: there is no such setting", "pip install --upgrade thinwire"),
        join_says=("quantum: there is no such setting", "pip install --upgrade thinwire"),
    )


def folder(place: Place) -> Trial:
    """The peer's folder is that of another run."""
    ticket, _ = place.plain
    other = place.found("other", dim=32)
    return Trial(
        words=(str(ticket), "--dir", str(other)),
        doctor_says=("does not fit the ticket", "--dir"),
        join_says=("does not fit the ticket", "--dir"),
    )


def port(place: Place) -> Trial:
    """Somebody else listens on the port that this peer is to have."""
    ticket, _ = place.plain
    taken = place.enter_context(socket.create_server(("127.0.0.1", 0)))
    number = taken.getsockname()[1]
    return Trial(
        words=(str(ticket), "--listen", f"127.0.0.1:{number}"),
        doctor_says=(rf"taken by .*process {os.getpid()}", rf"--listen 127.0.0.1:{number + 2}"),
        join_says=(rf"cannot listen on 127.0.0.1:{number}", "another .*port"),
    )


WAYS = (wrong_port, firewall, run, clock, memory, disk, version, setting, folder, port, node)
"""`node` comes last: it ends the node that the others use."""


def main() -> int:
    """Tries all ways, and shows what is said."""
    names = [way.__name__ for way in WAYS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    arguments = parser.parse_args()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="wrong-") as name, Place(Path(name)) as place:
        for way in (way for way in WAYS if way.__name__ in arguments.only):
            print(f"\n=== {way.__name__}: {way.__doc__}", flush=True)
            try:
                trial = way(place)
            except Skipped as reason:
                print(f"skipped: {reason}", flush=True)
                continue
            folder = place.folder / f"join-{way.__name__}"
            folder.mkdir()
            wrong += [f"{way.__name__}: {each}" for each in try_one(trial, folder)]
    print("\n" + ("\n".join(wrong) or "all as it should be"))
    return bool(wrong)


def try_one(trial: Trial, folder: Path) -> list[str]:
    """Runs both commands in a folder; returns what is not as it should be."""
    wrong = []
    environment = dict(trial.environment)
    said = command("doctor", *trial.words, environment=environment, cwd=folder, before=trial.before)
    _show("doctor", trial, said)
    if said.code != 2:
        wrong.append(f"doctor ends with {said.code}, not 2")
    wrong += _missing("doctor", trial.doctor_says, said)
    words = (*trial.words, "--wait", "8", "--plain", "--device", "cpu")
    said = command("join", *words, environment=environment, cwd=folder, before=trial.before)
    _show("join", trial, said)
    if said.code != 2:
        wrong.append(f"join ends with {said.code}, not 2")
    return wrong + _missing("join", trial.join_says, said)


def command(
    *words: str,
    program: str = "",
    environment: dict[str, str] | None = None,
    cwd: Path | None = None,
    before: Sequence[str] = (),
) -> Said:
    """Runs `thinwire`, or a program that does so in its own way."""
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [*before, *_thinwire(program), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        timeout=COMMAND_S,
        check=False,
        env={**os.environ, "PYTHONPATH": str(root), "COLUMNS": "100", **(environment or {})},
    )
    return Said(done.returncode, done.stdout)


def _thinwire(program: str) -> list[str]:
    return [sys.executable, *(("-c", program) if program else ("-m", "thinwire"))]


def _show(name: str, trial: Trial, said: Said) -> None:
    words = " ".join(word if len(word) < 90 else "TICKET" for word in trial.words)
    print(f"\n$ thinwire {name} {words}")
    print(_NOT_TOLD.sub("", said.output).strip())
    print(f"[exit code {said.code}]", flush=True)


def _missing(name: str, patterns: Sequence[str], said: Said) -> list[str]:
    text = " ".join(said.output.split())  # tables break lines
    missing = [each for each in patterns if re.search(each, text) is None]
    wrong = [f"{name} does not say {each!r}" for each in missing]
    return [*wrong, f"{name} shows a traceback"] if "Traceback" in text else wrong


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number: int = server.getsockname()[1]
        return number


def _silence() -> tuple[str, ...]:
    """Returns the words before a command that make all that it sends out get lost."""
    try:
        socket.create_connection((NOWHERE, 9), timeout=2).close()
    except TimeoutError:
        return ()
    except OSError:
        words = ("unshare", "--net", "sh", "-c", SILENCE, "sh")
        if subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0:
            return words
    raise Skipped(f"packets to {NOWHERE} are not dropped here, and no other network can be made")


def _clock_library(folder: Path) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        raise Skipped("no C compiler here to set one process's clock wrong")
    source, library = folder / "clock.c", folder / "clock.so"
    source.write_text(WRONG_CLOCK)
    options = ["-shared", "-fPIC", f"-DBEHIND={BEHIND_S}", "-o", str(library), str(source)]
    subprocess.run([compiler, *options], check=True)
    told = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time())"],
        env={**os.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
        check=True,
        text=True,
    )
    assert abs(time.time() - BEHIND_S - float(told.stdout)) < START_S, told.stdout
    return library


def _full_disk(place: Place) -> Path:
    small = place.folder / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)]
    if (
        shutil.which("mount") is None
        or os.geteuid()
        or subprocess.run(mount, check=False).returncode
    ):
        raise Skipped("needs the right to mount a tmpfs")
    place.callback(subprocess.run, ["umount", "-l", str(small)], check=True)
    space = os.statvfs(small)
    (small / "filler").write_bytes(b"\0" * (space.f_bavail * space.f_frsize))
    assert os.statvfs(small).f_bavail == 0
    return small


if __name__ == "__main__":
    sys.exit(main())
