"""Runs a command that ends when its parent does: `python leash.py PARENT_PID COMMAND ...`.

It becomes the command, so the process id is the command's. It imports nothing of ours, and is run
as a file, so that it costs a few milliseconds.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel for SIGKILL at the parent's death, and become the command."""
    parent_pid, *command = sys.argv[1:]
    if sys.platform == "linux":  # elsewhere the demo's own clean-up has to do
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent_pid):  # it died before we asked
        sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
