"""What a wire must know: where to listen, which run it serves, and the run's limits."""

from dataclasses import dataclass

from peer.net.pace import NO_CAP, Cap
from protocol.manifest import RunId

GRPC_MAX_MESSAGE_BYTES = 4 << 20
"""gRPC's own limit, well above ours, so that it is us who refuse, and can say whom."""

DIAL_S = 5.0
"""How long connecting and saying Hello may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WireConfig:
    """See the module docstring. The limits' defaults are those of a manifest."""

    run_id: RunId
    manifest_bytes: bytes | None = None
    """Handed to peers that say Hello."""
    manifest_signature: bytes = b""
    secret: bytes | None = None
    """The ticket's secret; None in open runs."""
    listen_host: str = "127.0.0.1"
    listen_port: int = 0
    chunk_bytes: int = 256 * 1024
    max_message_bytes: int = 64 * 1024
    progress_s: float = 3.0
    max_streams_per_peer: int = 32
    num_fragments: int = 1
    max_peers: int = 128
    domain: str = ""
    """Where we train, in a run with domains: notes for another one are refused."""
    software: str = "thinwire"
    relay_bps: float = 2e6
    """What we pass on for one caller that cannot reach somebody else, in bit/s, and for all of them
    together four times that: as much as a home's uplink can spare. 0 relays nothing."""
    up: Cap = NO_CAP
    """Of all that we send."""
    down: Cap = NO_CAP
    """Of all that we fetch."""
    may_compress: bool = True
    """Whether chunks go through zstd where the link is thin; not in the simulator, whose bytes
    stand for others."""
    most_connections: int = 16
    """To one partner, for bulk data; see `peer.net.width`."""


def channel_options() -> list[tuple[str, int]]:
    """Returns the gRPC options that both ends share."""
    return [
        ("grpc.max_receive_message_length", GRPC_MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", GRPC_MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.lookahead_bytes", 8 << 20),
    ]
