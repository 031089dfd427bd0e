"""What a cap means, and that no more goes than it allows, to everybody in turn."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from peer.net.pace import BURST_S, LEAST_MESSAGE_BYTES, Cap, Hours, Pace, parse_cap
from peer.sim.clock import VirtualClock
from peer.sim.loop import VirtualLoop
from protocol.errors import ConfigError

NOON = 12 * 60


def play(scene: Callable[[], Awaitable[None]]) -> float:
    """Plays a scene in virtual time, and returns how long it took."""
    loop = VirtualLoop(VirtualClock())
    loop.run_until_complete(scene())
    loop.close()
    assert loop.problems == []
    return loop.time()


def now_s() -> float:
    return asyncio.get_running_loop().time()


def pace_of(bps: float) -> Pace:
    return Pace(Cap(bps), minute_of_day=lambda: NOON)


# ---- what a cap means


@pytest.mark.parametrize(
    ("text", "cap"),
    [
        (None, Cap()),
        ("0", Cap()),
        ("off", Cap()),
        ("20M", Cap(20e6)),
        (" 500 kbit/s ", Cap(500e3)),
        ("20M,08:00-18:00=5M", Cap(20e6, (Hours(480, 1080, 5e6),))),
        ("off, 22:00-6:30 = 1M", Cap(math.inf, (Hours(1320, 390, 1e6),))),
        (
            "20M,08:00-18:00=5M,18:00-24:00=off",
            Cap(20e6, (Hours(480, 1080, 5e6), Hours(1080, 1440, math.inf))),
        ),
    ],
)
def test_a_cap_is_written_as_people_write_it(text: str | None, cap: Cap) -> None:
    assert parse_cap(text) == cap


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a rate"),
        ("fast", "'fast' is not a rate"),
        ("-5M", "is not a rate"),
        ("20M,", "is not a span"),
        ("20M,5M", "'5M' is not a span"),
        ("08:00-18:00=5M", "is not a rate"),
        ("20M,08:00-18:00", "is not a span"),
        ("20M,08:00=5M", "is not a span"),
        ("20M,8-18=5M", "'8' is not a time of day"),
        ("20M,08:00-25:00=5M", "'25:00' is not a time of day"),
        ("20M,08:00-08:00=5M", "no time at all"),
        ("20M,08:00-18:00=fast", "'fast' is not a rate"),
        ("20M;08:00-18:00=5M", "is not a rate"),
    ],
)
def test_what_is_no_cap_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        parse_cap(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["20", "20M,08:00-18:00=5"])
def test_who_forgot_the_letter_is_told_so(text: str) -> None:
    with pytest.raises(ConfigError, match="20M is 20 Mbit/s"):
        parse_cap(text)


@pytest.mark.parametrize(("text", "is_enough"), [("10k", False), ("63k", False), ("64k", True)])
def test_a_cap_on_which_nothing_arrives_in_time_is_refused(text: str, is_enough: bool) -> None:
    if is_enough:
        assert parse_cap(text) == Cap(64e3)
        return
    with pytest.raises(ConfigError, match="nothing arrives in time"):
        parse_cap(text)


def test_nothing_at_all_during_hours_is_refused_since_it_is_read_in_two_ways() -> None:
    with pytest.raises(ConfigError, match="more than nothing"):
        parse_cap("20M,08:00-18:00=0")


@pytest.mark.parametrize(
    ("minute", "bps"),
    [
        *[(0, 1e6), (389, 1e6), (390, 20e6), (479, 20e6), (480, 5e6), (1079, 5e6)],
        *[(1080, 20e6), (1319, 20e6), (1320, 1e6), (1439, 1e6)],
    ],
)
def test_hours_begin_on_the_minute_and_may_cross_midnight(minute: int, bps: float) -> None:
    assert parse_cap("20M,08:00-18:00=5M,22:00-06:30=1M").bps(minute) == bps


def test_the_first_hours_that_match_win() -> None:
    cap = parse_cap("1M,08:00-12:00=2M,00:00-24:00=3M,09:00-10:00=4M")
    assert [cap.bps(60 * hour) for hour in (0, 8, 9, 12, 23)] == [3e6, 2e6, 2e6, 3e6, 3e6]


# ---- how much goes


takes = st.lists(
    st.tuples(st.floats(0, 3), st.integers(1, 300_000)), min_size=1, max_size=30
)  # pauses [s] before, and sizes


@given(bps=st.floats(1e4, 1e9), streams=st.lists(takes, min_size=1, max_size=4))
@example(bps=1e4, streams=[[(0.0, 300_000)] * 3])
def test_no_stretch_of_time_carries_more_than_its_share_a_burst_and_a_message(
    bps: float, streams: list[list[tuple[float, int]]]
) -> None:
    went: list[tuple[float, int]] = []

    async def stream(pace: Pace, takes: list[tuple[float, int]]) -> None:
        for pause_s, num_bytes in takes:
            await asyncio.sleep(pause_s)
            await pace.take(num_bytes)
            went.append((now_s(), num_bytes))

    async def scene() -> None:
        pace = pace_of(bps)
        await asyncio.gather(*(stream(pace, takes) for takes in streams))

    play(scene)
    for first, (begin_s, _) in enumerate(went):
        total = 0
        for at_s, num_bytes in went[first:]:
            allowed = bps * (at_s - begin_s + BURST_S) / 8
            assert total <= allowed * (1 + 1e-9) + 1e-3  # and then one more may go
            total += num_bytes


@given(bps=st.floats(1e4, 1e9), sizes=st.lists(st.integers(1, 300_000), min_size=2, max_size=40))
def test_a_busy_link_carries_all_that_it_may(bps: float, sizes: list[int]) -> None:
    async def scene() -> None:
        pace = pace_of(bps)
        for num_bytes in sizes:
            await pace.take(num_bytes)

    paid_s = 8 * sum(sizes[:-1]) / bps  # the last one goes when the others are paid for
    assert play(scene) == pytest.approx(max(0.0, paid_s - BURST_S), rel=1e-6, abs=1e-6)


def test_a_message_larger_than_the_burst_goes_and_the_next_pays_for_it() -> None:
    async def scene() -> None:
        pace = pace_of(1e6)
        await pace.take(10_000_000)
        assert now_s() == 0
        await pace.take(1)

    assert play(scene) == pytest.approx(80 - BURST_S)


def test_streams_share_the_link_message_by_message() -> None:
    had: Counter[int] = Counter()

    async def stream(pace: Pace, number: int) -> None:
        while True:
            await pace.take(10_000)
            had[number] += 1
            await asyncio.sleep(0)  # it writes
            assert max(had.values()) - min(had[n] for n in range(5)) <= 1

    async def scene() -> None:
        pace = pace_of(8e6)
        streams = [asyncio.create_task(stream(pace, number)) for number in range(5)]
        await asyncio.sleep(2.0)
        assert not any(stream.done() for stream in streams)

    play(scene)
    assert 10_000 * had.total() == pytest.approx(2e6, rel=0.05)


def test_whoever_asked_first_goes_first() -> None:
    order: list[int] = []

    async def ask(pace: Pace, number: int, num_bytes: int) -> None:
        await pace.take(num_bytes)
        order.append(number)

    async def scene() -> None:
        pace = pace_of(1e6)
        sizes = (200_000, 100_000, 1, 50_000, 1)
        await asyncio.gather(*(ask(pace, number, size) for number, size in enumerate(sizes)))

    play(scene)
    assert order == [0, 1, 2, 3, 4]


def test_whoever_gives_up_waiting_costs_the_others_nothing() -> None:
    async def scene() -> None:
        pace = pace_of(1e6)
        await pace.take(125_000)  # a second's worth
        gone = [asyncio.create_task(pace.take(10_000_000)) for _ in range(3)]
        last = asyncio.create_task(pace.take(125_000))
        await asyncio.sleep(0.1)
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        await last

    assert play(scene) == pytest.approx(1 - BURST_S)


def test_without_a_cap_nobody_is_ever_switched_away() -> None:
    pace = Pace(Cap(), clock=lambda: 0.0, minute_of_day=lambda: NOON)
    for _ in range(100):
        coroutine = pace.take(1 << 30)
        with pytest.raises(StopIteration):  # it came to its end without waiting
            coroutine.send(None)


# ---- by the hour


def minutes_since(begin_minute: int) -> Callable[[], int]:
    return lambda: (begin_minute + int(now_s() // 60)) % 1440


def test_another_hour_has_another_rate_within_a_second() -> None:
    went: Counter[int] = Counter()

    async def stream(pace: Pace) -> None:
        while True:
            num_bytes = pace.chunk_bytes(1 << 18)
            await pace.take(num_bytes)
            went[int(now_s() // 60)] += num_bytes

    async def scene() -> None:
        cap = parse_cap("8M,23:59-00:01=800k")
        pace = Pace(cap, minute_of_day=minutes_since(23 * 60 + 58))
        streams = [asyncio.create_task(stream(pace)) for _ in range(3)]
        await asyncio.sleep(4 * 60 - 1e-6)
        assert not any(stream.done() for stream in streams)

    play(scene)
    seconds = [went[minute] / 1e6 for minute in range(4)]  # at 8 Mbit/s
    assert seconds == pytest.approx([60, 6, 6, 60], abs=1)


@pytest.mark.parametrize(("hour", "minute", "bps"), [(0, 0, 8e6), (23, 58, 8e6), (23, 59, 800e3)])
def test_hours_are_those_of_the_clock_on_the_wall(
    hour: int, minute: int, bps: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = time.struct_time((2026, 1, 31, hour, minute, 59, 5, 31, 0))
    monkeypatch.setattr(time, "localtime", lambda: wall)
    assert Pace(parse_cap("8M,23:59-00:00=800k"), clock=lambda: 0.0).bps == bps


def test_a_debt_made_at_a_high_rate_is_not_paid_at_a_low_one() -> None:
    async def scene() -> None:
        pace = Pace(parse_cap("800M,12:01-13:00=64k"), minute_of_day=minutes_since(NOON))
        await asyncio.sleep(59.99)
        await pace.take(10_000_000)  # 0.1 s now; it would be more than two hours at the low rate
        await asyncio.sleep(1.0)
        await pace.take(1)

    assert play(scene) < 62


def test_when_the_cap_ends_all_who_wait_go() -> None:
    async def scene() -> None:
        pace = Pace(parse_cap("64k,12:01-13:00=off"), minute_of_day=minutes_since(NOON))
        await asyncio.sleep(55)
        await asyncio.gather(*(pace.take(1_000_000) for _ in range(5)))
        assert pace.chunk_bytes(12345) == 12345

    assert 60 <= play(scene) < 61.1


# ---- how large a message should be


@given(bps=st.floats(1e4, 1e10), most=st.integers(1, 1 << 20))
def test_a_message_takes_a_fiftieth_of_a_second_within_its_bounds(bps: float, most: int) -> None:
    pace = Pace(Cap(bps), clock=lambda: 0.0, minute_of_day=lambda: NOON)
    size = pace.chunk_bytes(most)
    assert min(most, LEAST_MESSAGE_BYTES) <= size <= most
    if LEAST_MESSAGE_BYTES < size < most:
        assert 8 * size / bps == pytest.approx(0.02, abs=8 / bps)
