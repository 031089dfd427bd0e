"""Links against closed forms; and, where we may, a laboratory against the clock."""

import contextlib
import os
import socket
import statistics
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.links import Carrier, Lab, Link, Pipe, echoes_s, goodput_bps, why_not

PACKET = bytes(1500)
PACKET_BITS = 8 * len(PACKET)
ENDLESS_S = 1e9

packets = st.lists(st.tuples(st.floats(0, 5), st.integers(20, 1500)), min_size=1, max_size=40)


@given(packets, st.floats(1e4, 1e8))
def test_a_pipe_never_exceeds_its_rate_and_keeps_the_order(
    arrivals: list[tuple[float, int]], bps: float
) -> None:
    pipe, before_s = Pipe(bps, ENDLESS_S), 0.0
    for now_s, size_bytes in sorted(arrivals):
        through_s = pipe.through_at_s(now_s, size_bytes)
        assert through_s is not None
        assert through_s >= max(before_s, now_s) + 8 * size_bytes / bps - 1e-9
        before_s = through_s


@given(packets, st.floats(1e4, 1e8))
def test_a_pipe_is_never_idle_while_something_waits(
    arrivals: list[tuple[float, int]], bps: float
) -> None:
    pipe = Pipe(bps, ENDLESS_S)
    ordered = sorted(arrivals)
    through_s = [pipe.through_at_s(now_s, size_bytes) for now_s, size_bytes in ordered]
    # Of all moments from which on it could have been busy without a pause, the worst one counts.
    for last in range(len(ordered)):
        busy_s = [
            ordered[first][0] + sum(8 * size / bps for _, size in ordered[first : last + 1])
            for first in range(last + 1)
        ]
        assert through_s[last] == pytest.approx(max(busy_s))


def test_a_full_queue_drops_what_comes_last() -> None:
    pipe = Pipe(bps=10 * PACKET_BITS, queue_s=0.35)  # ten packets a second
    through_s = [pipe.through_at_s(0.0, len(PACKET)) for _ in range(6)]
    assert through_s[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert through_s[4:] == [None, None]
    assert pipe.through_at_s(0.1, len(PACKET)) == pytest.approx(0.5)


def test_a_lone_packet_takes_both_rates_and_both_delays() -> None:
    carrier = Carrier(
        {
            "a": Link(up_bps=10 * PACKET_BITS, delay_s=0.02),
            "b": Link(down_bps=20 * PACKET_BITS, delay_s=0.03),
        }
    )
    carrier.take("a", "b", PACKET, now_s=1.0)
    assert list(carrier.arrivals(now_s=1.1)) == []  # still on its way; then in front of b's rate
    assert carrier.next_s() == pytest.approx(1.0 + 0.1 + 0.02 + 0.03)
    assert list(carrier.arrivals(now_s=1.151)) == []
    assert carrier.next_s() == pytest.approx(1.15 + 0.05)
    assert list(carrier.arrivals(now_s=1.201)) == [("b", PACKET)]
    assert carrier.next_s() is None


def test_those_who_send_to_one_host_share_its_down_rate() -> None:
    link = Link(up_bps=1e9, down_bps=10 * PACKET_BITS, delay_s=0.0, queue_s=ENDLESS_S)
    carrier = Carrier(dict.fromkeys("abc", link))
    for src in "ab":
        for _ in range(10):
            carrier.take(src, "c", PACKET, now_s=0.0)
    assert len(list(carrier.arrivals(now_s=1.01))) == 10
    assert len(list(carrier.arrivals(now_s=2.01))) == 10


@given(st.floats(0, 1), st.floats(0, 0.2), st.integers(0, 100))
def test_each_packet_arrives_or_is_counted_as_lost_or_dropped(
    loss_frac: float, queue_s: float, num_packets: int
) -> None:
    link = Link(up_bps=1e6, down_bps=5e5, loss_frac=loss_frac, queue_s=queue_s)
    carrier = Carrier({"a": link, "b": link})
    for _ in range(num_packets):
        carrier.take("a", "b", PACKET, now_s=0.0)
    arrived = list(carrier.arrivals(now_s=ENDLESS_S))
    traffic = carrier.traffic
    gone = traffic["a"].lost_packets + sum(traffic[host].dropped_packets for host in "ab")
    assert len(arrived) + gone == num_packets
    assert traffic["b"].received_bytes == len(PACKET) * len(arrived)


def test_losses_are_as_frequent_as_told_and_the_same_with_the_same_seed() -> None:
    def lost(seed: int) -> int:
        link = Link(loss_frac=0.1, up_bps=1e12, queue_s=ENDLESS_S)
        carrier = Carrier({"a": link, "b": Link()}, seed=seed)
        for _ in range(5000):
            carrier.take("a", "b", PACKET, now_s=0.0)
        return carrier.traffic["a"].lost_packets

    assert 400 < lost(0) < 600
    assert lost(0) == lost(0) != lost(1)


@given(st.floats(0, 0.5), st.integers(0, 5))
def test_jitter_lengthens_delays_by_at_most_what_it_was_told_and_keeps_the_order(
    jitter_s: float, seed: int
) -> None:
    link = Link(up_bps=1e12, down_bps=1e12, delay_s=0.01, jitter_s=jitter_s)
    carrier = Carrier({"a": link, "b": link}, seed=seed)
    arrives_s: dict[int, float] = {}
    for number in range(200):
        now_s = 0.01 * number
        carrier.take("a", "b", number.to_bytes(20, "big"), now_s=now_s)
    while (now_s := carrier.next_s()) is not None:  # type: ignore[assignment]
        for _, packet in carrier.arrivals(now_s=now_s):
            arrives_s[int.from_bytes(packet, "big")] = now_s
    assert list(arrives_s) == sorted(range(200))
    delays_s = [arrives_s[number] - 0.01 * number for number in range(200)]
    assert min(delays_s) >= 0.02 - 1e-9
    assert max(delays_s) <= 0.02 + jitter_s + 1e-6


def test_jitter_uses_its_whole_range() -> None:
    link = Link(up_bps=1e12, down_bps=1e12, delay_s=0.0, jitter_s=0.05)
    carrier, delays_s = Carrier({"a": link, "b": link}), []
    for number in range(1000):
        carrier.take("a", "b", PACKET, now_s=0.05 * number)
        due_s = carrier.next_s()
        assert due_s is not None
        delays_s.append(due_s - 0.05 * number)
        assert list(carrier.arrivals(now_s=0.05 * (number + 1)))
    assert min(delays_s) < 0.005
    assert max(delays_s) > 0.045
    assert statistics.mean(delays_s) == pytest.approx(0.025, rel=0.1)


def test_a_link_that_is_changed_carries_at_its_new_rate_and_delay() -> None:
    slow = Link(up_bps=10 * PACKET_BITS, down_bps=1e12, delay_s=0.0)
    carrier = Carrier({"a": slow, "b": slow})
    carrier.take("a", "b", PACKET, now_s=0.0)
    carrier.change("a", Link(up_bps=20 * PACKET_BITS, delay_s=0.3))
    carrier.take("a", "b", PACKET, now_s=0.0)
    assert carrier.next_s() == pytest.approx(0.1)
    assert len(list(carrier.arrivals(now_s=0.1 + 0.01))) == 1
    assert carrier.next_s() == pytest.approx(0.1 + 0.05 + 0.3)


def test_who_may_not_have_a_laboratory_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "root" in str(why_not())
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda tool: None)
    assert "iproute2" in str(why_not())


# ---- with namespaces


@pytest.fixture
def _can_have_lab() -> None:
    if reason := why_not():
        pytest.skip(reason)


needs_lab = pytest.mark.usefixtures("_can_have_lab")


@pytest.mark.net
@needs_lab
def test_a_laboratory_has_the_rate_and_the_delay_that_it_was_told() -> None:
    with Lab({"a": Link(up_bps=8e6, delay_s=0.01), "b": Link(delay_s=0.02)}) as lab:
        round_trips_s = echoes_s(lab, "a", "b", 10)
        bps = goodput_bps(lab, "a", "b", 1 << 19)
        sent_bytes = lab.traffic("a").sent_bytes
    assert statistics.median(round_trips_s) >= 0.06  # nothing is faster than light
    assert min(round_trips_s) < 0.3
    assert 1e6 < bps < 8e6
    assert 1 << 19 < sent_bytes < 1 << 20


@pytest.mark.net
@needs_lab
def test_hosts_of_a_laboratory_have_the_congestion_control_that_they_were_told() -> None:
    links = {"a": Link(congestion="reno"), "b": Link()}
    with Lab(links, congestion="cubic") as lab:
        for name, expected in (("a", "reno"), ("b", "cubic")):
            routes = subprocess.run(
                lab.command(name, "ip", "route"), check=True, capture_output=True
            ).stdout.decode()
            assert f"congctl {expected}" in routes


@needs_lab
def test_who_asks_for_a_congestion_control_that_is_not_here_is_told_so() -> None:
    assert "no such" in str(why_not("no such"))


@pytest.mark.net
@needs_lab
def test_a_laboratory_loses_packets() -> None:
    with Lab({"a": Link(loss_frac=0.5, delay_s=0.0), "b": Link(delay_s=0.0)}) as lab:
        assert 4 < len(echoes_s(lab, "a", "b", 40, patience_s=0.1)) < 36
        assert lab.traffic("a").lost_packets > 4


@pytest.mark.net
@needs_lab
def test_a_host_reaches_other_hosts_and_nothing_else() -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours, Lab({"a": Link()}) as lab:
        with pytest.raises(ConnectionRefusedError):
            lab.on("a", lambda: socket.create_connection(ours.getsockname(), timeout=1.0))
        shown = subprocess.run(
            lab.command("a", "ip", "-oneline", "address"), check=True, capture_output=True
        ).stdout.decode()
        devices = {line.split()[1] for line in shown.splitlines()}
        assert devices == {"lo", "link0"}
        assert lab.address("a") in shown


def doors_open() -> set[str]:
    """Returns the namespaces, pipes and sockets that this process has open."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # other threads open and close theirs
            found.add(os.readlink(f"/proc/self/fd/{number}"))
    return {each for each in found if each.startswith(("net:", "pipe:", "socket:"))}


@pytest.mark.net
@needs_lab
def test_a_laboratory_leaves_nothing_open() -> None:
    before = doors_open()
    with Lab({"a": Link(), "b": Link()}):
        pass
    with pytest.raises(subprocess.CalledProcessError), Lab({"a": Link()}, congestion="none such"):
        pass
    assert doors_open() == before
