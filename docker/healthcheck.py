"""Exit 0 if this node or peer accepts connections on both its ports, else 1 with one line.

The ports are THINWIRE_PORT and the next one, as `--listen` has them: the wire (gRPC), which the
peer's own process serves, and the directory (libp2p), which its daemon does.
"""

import os
import socket
import sys

TIMEOUT_S = 3.0


def main() -> int:
    """Try both ports on this machine."""
    first = int(os.environ.get("THINWIRE_PORT", "7000"))
    for port in (first, first + 1):
        try:
            socket.create_connection(("127.0.0.1", port), TIMEOUT_S).close()
        except OSError as error:
            print(f"nothing answers on port {port}: {error}")  # noqa: T201 - docker inspect shows it
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
