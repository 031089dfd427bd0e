"""What a wire must know: where to listen, which run it serves, and the run's limits."""

from dataclasses import dataclass

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
    max_streams_per_peer: int = 8
    num_fragments: int = 1
    max_peers: int = 128
    software: str = "thinwire"


def channel_options() -> list[tuple[str, int]]:
    """Returns the gRPC options that both ends share."""
    return [
        ("grpc.max_receive_message_length", GRPC_MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", GRPC_MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
    ]
