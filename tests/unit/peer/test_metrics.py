import math

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from peer.metrics import StatusCollector
from peer.status import PeerStatus
from peer.waits import Waits
from protocol.identity import PeerId

NOW_S = 1000.0
SAMPLES = {
    "thinwire_step": 321.0,
    "thinwire_tokens_total": 4_000_000.0,
    "thinwire_tokens_per_second": 1234.5,
    "thinwire_training_loss_bits_per_byte": 1.25,
    "thinwire_validation_loss_bits_per_byte": 1.5,
    "thinwire_trainer_overhead_seconds_total": 2.5,
    "thinwire_trainer_waited_seconds_total": 0.125,
    "thinwire_longest_gap_seconds": 0.75,
    "thinwire_round": 9.0,
    "thinwire_other_peers": 3.0,
    'thinwire_exchanges_total{outcome="done"}': 8.0,
    'thinwire_exchanges_total{outcome="failed"}': 2.0,
    "thinwire_contributions_total": 7.0,
    "thinwire_sent_bytes_total": 5e9,
    "thinwire_received_bytes_total": 6e9,
    'thinwire_waits{what="a quorum"}': 1.0,
    'thinwire_waits{what="an average"}': 2.0,
    'thinwire_oldest_wait_seconds{what="a quorum"}': 100.0,
    'thinwire_oldest_wait_seconds{what="an average"}': 50.0,
    "thinwire_longest_loop_lag_seconds": 0.5,
    "thinwire_trainer_silence_seconds": 10.0,
    "thinwire_checkpoint_age_seconds": 200.0,
}


def busy() -> PeerStatus:
    clock_s = [900.0]
    waits = Waits(lambda: clock_s[0])
    everybody = tuple(PeerId(f"12D3KooW{number}") for number in range(3))
    waits.begin(1, "a quorum", whom=everybody, until="it is there")
    clock_s[0] = 950.0
    waits.begin(2, "an average", "part 1", whom=everybody[:1], within_s=60)
    clock_s[0] = 990.0
    waits.begin(3, "an average", "part 2", whom=everybody[1:2], within_s=60)
    clock_s[0] = NOW_S
    return PeerStatus(
        step=321,
        tokens=4_000_000,
        tokens_per_s=1234.5,
        loss_bits_per_byte=1.25,
        validation_bits_per_byte=1.5,
        overhead_s=2.5,
        longest_gap_s=0.75,
        waited_s=0.125,
        round=9,
        members=everybody,
        exchanges_done=8,
        exchanges_failed=2,
        contributions=7,
        sent_bytes=5_000_000_000,
        received_bytes=6_000_000_000,
        waits=waits,
        progressed_s=990.0,
        longest_lag_s=0.5,
        checkpointed_s=800.0,
    )


def exposition(status: PeerStatus) -> str:
    registry = CollectorRegistry()
    registry.register(StatusCollector(status))
    return generate_latest(registry).decode()


def samples(text: str) -> dict[str, float]:
    """Reads an exposition as Prometheus does."""
    return {
        sample.name + "".join(f'{{{key}="{value}"}}' for key, value in sample.labels.items()): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_prometheus_reads_what_the_peer_knows() -> None:
    assert samples(exposition(busy())) == SAMPLES


def test_what_is_not_known_yet_is_left_out() -> None:
    text = exposition(PeerStatus())
    assert "nan" not in text.lower()
    found = samples(text)
    missing = {"loss_bits_per_byte", "silence", "checkpoint", "waits", "oldest_wait"}
    assert found.keys() == {name for name in SAMPLES if not any(word in name for word in missing)}
    assert not any(found.values())


def test_each_metric_says_what_it_is() -> None:
    for family in text_string_to_metric_families(exposition(busy())):
        assert family.type in ("counter", "gauge")
        assert family.documentation.strip()


def test_no_label_grows_with_the_swarm() -> None:
    text = exposition(busy())
    assert "12D3KooW" not in text
    assert "part 1" not in text


def test_the_registry_is_our_own() -> None:
    registry = CollectorRegistry()
    for status in (busy(), busy()):  # two peers in one process, as in tests
        CollectorRegistry().register(StatusCollector(status))
    assert generate_latest(registry) == b""


@pytest.mark.parametrize("loss", [math.inf, 0.0])
def test_a_strange_loss_is_told_as_it_is(loss: float) -> None:
    status = busy()
    status.loss_bits_per_byte = loss
    assert samples(exposition(status))["thinwire_training_loss_bits_per_byte"] == loss
