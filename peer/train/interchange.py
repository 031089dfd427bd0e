"""The memory that trainer and wire process share, and who may touch it when.

A peer is two processes, so that no network work ever delays an inner step. They share two flat
fp32 vectors in the layout of `optim.layout`, and say on a socket (`peer.train.channel`) what
happened to them.

**Theory of operation.** Each fragment of each vector has exactly one owner, the only one who may
read or write it. Ownership passes by a message from the owner, never by a clock:

    base[f]     trainer --Departed--> wire --Land | Free--> trainer
    anchor[f]   wire --Land--> trainer --Landed--> wire
    anchor      wire --Start--> trainer --Started--> wire       (all fragments)
    anchor      wire --Evaluate--> trainer --Evaluated--> wire  (all fragments)

At first the trainer owns `base`, the wire process `anchor`. `Evaluate` may overlap a `Land`: it
passes the other fragments, and `Evaluated` gives those back.

*Race-free*, because it is a token passed over one ordered channel: whoever sends one of these
messages touches the range no more, and whoever receives it has the writes that came before it (a
socket's send and receive order memory). No message can cross another of the same range, since only
the owner may send. So a snapshot in an exchange cannot be overwritten: while it is out, the
trainer skips the fragment's departures, the delta keeps growing, and a later departure carries it.
`Depart` moves no token, so it may cross a `Departed`; it then has no effect.

*Nobody waits for the other.* The trainer polls between steps and answers then. The wire process
starts an exchange with the snapshot that it holds. When that has become old it may send `Free` and
`Depart`, and has a fresh one after one inner step. A second base buffer would save that one step
for 4n bytes of memory and a rule for voiding snapshots older than a landing; not worth it.

*What the wire process may do with `base[f]` while it holds it*: read it, and write it. A landing
that does not contain our snapshot (catching up, a failed round that others finished, any landing of
a method that goes ahead) needs the old start as base, or the steps since then would be lost: write
it into `base[f]`, then `Land` as not planned. Without a snapshot in hand, send `Depart` and do so
when `Departed` comes. A departure of the schedule that meanwhile finds the snapshot out is made up
for right after such a landing.

*A consistent checkpoint*: before it copies what it will write, the trainer lands all that came
before `Save`, and the wire process sends no `Land` between `Save` and `Staged`. So the wire
process's half is its outer state at the moment it sent `Save`. What comes after `Staged` is in
neither half, even while both are being written.

*Crashes*: the memory has no name and dies with its last process. If the trainer dies, all tokens
are void: the wire process makes a new interchange and sends `Resume` or `Start` to a new trainer.
If the wire process dies, the trainer sees its socket close and exits.
"""

import contextlib
import mmap
import os
import tempfile

import torch
from torch import Tensor

from protocol.errors import ConfigError

_FLOAT_BYTES = 4


class Interchange:
    """Two shared flat vectors. See the module docstring for who may touch them.

    Attributes:
        base: `[n]` fp32, theta as it was at departure.
        anchor: `[n]` fp32, the anchor to land, start from or evaluate.
    """

    def __init__(self, fd: int, num_elements: int) -> None:
        """Maps an open file; use `create` or `open`."""
        self.fd = fd
        self.num_elements = num_elements
        # Never closed by hand: the tensors point into the mapping, which goes with the last one.
        memory = mmap.mmap(fd, 2 * num_elements * _FLOAT_BYTES)
        both = torch.frombuffer(memory, dtype=torch.float32)
        self.base: Tensor = both[:num_elements]
        self.anchor: Tensor = both[num_elements:]

    @classmethod
    def create(cls, num_elements: int) -> "Interchange":
        """Allocate zeroed memory without a name, to hand to a child process by its `fd`.

        It is memory of the machine and not of /dev/shm, which containers cap at 64 MiB.

        Raises:
            ConfigError: there is too little memory.
        """
        num_bytes = 2 * num_elements * _FLOAT_BYTES
        fd = _anonymous_file()
        try:
            os.ftruncate(fd, num_bytes)
            if hasattr(os, "posix_fallocate"):  # better refused here than killed at some write
                os.posix_fallocate(fd, 0, num_bytes)
        except OSError as error:
            os.close(fd)
            raise ConfigError(
                f"no room for {num_bytes / 1e6:.0f} MB of memory shared with the trainer: {error}"
            ) from error
        return cls(fd, num_elements)

    @classmethod
    def open(cls, fd: int, num_elements: int) -> "Interchange":
        """Map the memory behind an inherited file descriptor.

        Raises:
            ConfigError: it has another size, so the two processes disagree on the model.
        """
        expected, found = 2 * num_elements * _FLOAT_BYTES, os.fstat(fd).st_size
        if found != expected:
            raise ConfigError(f"the shared memory has {found} bytes, the model needs {expected}")
        return cls(fd, num_elements)

    def close(self) -> None:
        """Drop our descriptor and vectors; the memory goes when nobody maps it any more."""
        with contextlib.suppress(AttributeError):
            del self.base, self.anchor
            os.close(self.fd)


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("thinwire-interchange")
    fd, path = tempfile.mkstemp(prefix="thinwire-")  # mode 0600, and nameless at once
    os.unlink(path)
    return fd
