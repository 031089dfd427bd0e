"""The wire and the directory: the only room that opens sockets to other peers."""

import os

# Read by gRPC's core when it is first loaded, so they are set before any module here imports it.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # its fork handlers only spam: we never fork
os.environ.setdefault(
    "GRPC_VERBOSITY", "NONE"
)  # strangers could fill the terminal: we log refusals
