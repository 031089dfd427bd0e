"""Metrics for Prometheus: what a peer knows of itself, read when somebody asks, and not before.

`Collector` turns `PeerStatus` and its waits into metric families; nothing is counted twice, and the
hot path pays nothing. No label holds a peer's id, so a swarm of any size has the same few series.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from peer.status import PeerStatus
from protocol.errors import ConfigError


class StatusCollector(Collector):
    """One peer's metrics. It is read in the server's thread, while the event loop goes on.

    Args:
        status: Of the peer.
    """

    def __init__(self, status: PeerStatus) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Yields what is known now; what is not known yet is left out."""
        yield from self._training()
        yield from self._swarm()
        yield from self._waiting()

    def _training(self) -> Iterator[Metric]:
        status = self._status
        yield _gauge("step", "Inner steps done, on the run's count", status.step)
        yield _counter("tokens", "Tokens that this peer trained on", status.tokens)
        yield _gauge("tokens_per_second", "Training speed", status.tokens_per_s)
        losses = (
            ("training", status.loss_bits_per_byte),
            ("validation", status.validation_bits_per_byte),
        )
        for name, loss in losses:
            if not math.isnan(loss):
                yield _gauge(f"{name}_loss_bits_per_byte", f"The {name} loss", loss)
        yield _counter(
            "trainer_overhead_seconds",
            "Time between steps for snapshots, landings and checkpoints",
            status.overhead_s,
        )
        yield _counter(
            "trainer_waited_seconds", "Time for which the network held training up", status.waited_s
        )
        yield _gauge(
            "longest_gap_seconds",
            "The longest time between the ends of two inner steps",
            status.longest_gap_s,
        )

    def _swarm(self) -> Iterator[Metric]:
        status = self._status
        yield _gauge("round", "Rounds landed, on the run's count", status.round)
        yield _gauge("other_peers", "Other peers that train now", len(status.members))
        exchanges = CounterMetricFamily(
            "thinwire_exchanges", "Exchanges, by how they ended", labels=["outcome"]
        )
        exchanges.add_metric(["done"], status.exchanges_done)
        exchanges.add_metric(["failed"], status.exchanges_failed)
        yield exchanges
        yield _counter(
            "contributions", "Landings that contained this peer's work", status.contributions
        )
        yield _counter("sent_bytes", "Sent to other peers", status.sent_bytes)
        yield _counter("received_bytes", "Received from other peers", status.received_bytes)

    def _waiting(self) -> Iterator[Metric]:
        status = self._status
        waits = GaugeMetricFamily("thinwire_waits", "Waits now, by what for", labels=["what"])
        oldest = GaugeMetricFamily(
            "thinwire_oldest_wait_seconds", "Age of the oldest of them", labels=["what"]
        )
        for what, (number, age_s) in sorted(status.waits.ages().items()):
            waits.add_metric([what], number)
            oldest.add_metric([what], age_s)
        yield waits
        yield oldest
        yield _gauge(
            "longest_loop_lag_seconds",
            "The longest time by which the event loop was late",
            status.longest_lag_s,
        )
        since = (
            ("trainer_silence_seconds", "Since the trainer told its progress", status.progressed_s),
            ("checkpoint_age_seconds", "Since the last checkpoint", status.checkpointed_s),
        )
        for name, help_text, since_s in since:
            if since_s is not None:
                yield _gauge(name, help_text, status.waits.now_s() - since_s)


class MetricsServer:
    """Serves metrics over HTTP, in a thread of its own, until it is closed.

    Args:
        status: What to tell.
        host, port: Where to listen; port 0 for any.

    Raises:
        ConfigError: it cannot listen there.
    """

    def __init__(self, status: PeerStatus, host: str, port: int) -> None:
        registry = CollectorRegistry()
        registry.register(StatusCollector(status))
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as error:
            raise ConfigError(
                f"--metrics: cannot listen on {host}:{port} ({error.strerror}); "
                "choose another address or port"
            ) from None
        self.port: int = self._server.server_port

    def close(self) -> None:
        """Stops listening; waits for the thread, half a second at most."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def served(status: PeerStatus, place: tuple[str, int] | None) -> Iterator[None]:
    """Serves a peer's metrics while the block runs.

    Args:
        status: What to tell.
        place: Host and port; None for nowhere.

    Raises:
        ConfigError: nothing can listen there.
    """
    server = MetricsServer(status, *place) if place else None
    try:
        yield
    finally:
        if server is not None:
            server.close()


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"thinwire_{name}", help_text, value)


def _counter(name: str, help_text: str, value: float) -> Metric:
    return CounterMetricFamily(f"thinwire_{name}", help_text, value)
