"""A blob in stripes, in virtual time, over connections that break off, come and go."""

import asyncio
import itertools
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peer.net.download import MIN_HALF_BYTES, Download
from peer.net.transfer import Stripe
from peer.net.width import Width
from peer.ports import Sink
from protocol.errors import (
    LimitExceeded,
    NotAvailable,
    ThinwireError,
    TransportError,
)
from tests.blobs import KeptSink
from tests.unit.peer.net.test_transfer import virtually

GRAIN = MIN_HALF_BYTES
GRAIN_S = 0.1


class FixedWidth(Width):
    """As wide as a test wants it, and it remembers what it was told."""

    def __init__(self, wanted: int) -> None:
        super().__init__()
        self.wanted = wanted
        self.windows: list[tuple[float, int, bool]] = []
        self.times_s: list[tuple[float, float]] = []
        self.then: dict[int, int] = {}
        """What is wanted after so many windows."""

    def on_window(
        self,
        goodput_bps: float,
        *,
        num_connections: int,
        began_s: float,
        now_s: float,
        is_capped: bool = False,
    ) -> int:
        self.times_s.append((began_s, now_s))
        self.windows.append((goodput_bps, num_connections, is_capped))
        self.wanted = self.then.get(len(self.windows), self.wanted)
        return self.wanted


class Partner:
    """The other end: a grain takes GRAIN_S on each connection, and some fail.

    Args:
        sink: Where it puts what was asked for.
        data: What it has.
        fails: Called with the connection, and how many grains this fetch has brought; an error
            that it returns ends the fetch.
    """

    def __init__(
        self,
        sink: KeptSink,
        data: bytes,
        fails: Callable[[int, int], ThinwireError | None] = lambda connection, done: None,
    ) -> None:
        self.sink, self.data, self.fails = sink, data, fails
        self.into: Sink = sink
        self.round = 0
        self.asked: list[tuple[int, int, int]] = []
        """Connection, start and stop of each fetch."""
        self.brought: list[tuple[int, int]] = []
        """Connection and start of each grain."""
        self.given_back: list[int] = []
        self.open: set[int] = set()
        self.most_open = 0
        self.num_bytes = 0
        self.grain_s: dict[int, float] = {}

    async def fetch_stripe(self, stripe: Stripe, connection: int) -> None:
        assert connection not in self.open, "one stripe at a time over each connection"
        self.asked.append((connection, stripe.at, stripe.stop))
        self.open.add(connection)
        self.most_open = max(self.most_open, len(self.open))
        done = 0
        try:
            self.into.begin(self.round)
            while stripe.at < stripe.stop:
                if error := self.fails(connection, done):
                    raise error
                await asyncio.sleep(self.grain_s.get(connection, GRAIN_S))
                if stripe.at >= stripe.stop:
                    return
                start = stripe.at
                stop = min(start + self.into.grain_bytes, len(self.data))
                await self.into.put(start, self.data[start:stop])
                self.num_bytes += stop - start
                self.brought.append((connection, start))
                stripe.at = stop
                done += 1
        except asyncio.CancelledError:
            self.given_back.append(connection)
            raise
        finally:
            self.open.discard(connection)

    async def download(self, width: Width) -> float:
        """Returns how long it took."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        download = Download(
            self.into,
            self.fetch_stripe,
            width,
            received_bytes=lambda: self.num_bytes,
            num_connections=lambda: len(self.open),
            is_capped=lambda goodput_bps: goodput_bps > 8e9,
        )
        await download.run()
        return loop.time() - began_s


def blob(num_grains: int, *, rest: int = 0) -> bytes:
    return bytes(i % 251 for i in range(251)) * (GRAIN * num_grains // 251 + 1) + bytes(rest)


def partner_of(num_grains: int, *, has: Sequence[int] = ()) -> Partner:
    data = blob(num_grains)[: GRAIN * num_grains]
    return Partner(KeptSink(len(data), GRAIN, has), data)


def breaking(connection: int, *, after: int) -> Callable[[int, int], ThinwireError | None]:
    """The first fetch over a connection breaks off after so many grains."""
    left = [TransportError("it broke off")]
    return lambda which, done: left.pop() if left and (which, done) == (connection, after) else None


def assert_whole(partner: Partner) -> None:
    assert partner.sink.data == partner.data  # and KeptSink saw each grain once
    assert not partner.sink.missing()


# ---- one connection


def test_one_connection_fetches_it_in_one_go() -> None:
    partner = partner_of(8)
    assert virtually(partner.download(FixedWidth(1))) == pytest.approx(8 * GRAIN_S)
    assert partner.asked == [(0, 0, 8 * GRAIN)]
    assert_whole(partner)


def test_nothing_that_is_here_is_fetched() -> None:
    partner = partner_of(8, has=(0, 1, 4))
    virtually(partner.download(FixedWidth(1)))
    assert partner.asked == [(0, 2 * GRAIN, 4 * GRAIN), (0, 5 * GRAIN, 8 * GRAIN)]
    partner = partner_of(3, has=(0, 1, 2))
    assert virtually(partner.download(FixedWidth(1))) == 0
    assert partner.asked == []


def test_what_breaks_off_after_progress_goes_on_at_its_byte() -> None:
    partner = partner_of(8)
    partner.fails = breaking(0, after=3)
    virtually(partner.download(FixedWidth(1)))
    assert partner.asked == [(0, 0, 8 * GRAIN), (0, 3 * GRAIN, 8 * GRAIN)]
    assert_whole(partner)


def test_what_breaks_off_without_progress_is_an_error() -> None:
    partner = partner_of(8)
    partner.fails = breaking(0, after=0)
    with pytest.raises(TransportError, match="broke off"):
        virtually(partner.download(FixedWidth(1)))
    assert partner.sink.order == []


def test_who_breaks_off_again_and_again_is_given_up_when_nothing_comes_any_more() -> None:
    partner = partner_of(8)
    budget = [2, 2, 0]  # grains that each fetch may bring
    partner.fails = lambda _, done: (
        TransportError("it broke off") if done == budget[len(partner.asked) - 1] else None
    )
    with pytest.raises(TransportError, match="broke off"):
        virtually(partner.download(FixedWidth(1)))
    assert partner.asked == [(0, at * GRAIN, 8 * GRAIN) for at in (0, 2, 4)]
    assert partner.sink.order == [0, 1, 2, 3]


@pytest.mark.parametrize("error", [LimitExceeded("too large"), NotAvailable("not any more")])
def test_a_refusal_ends_it(error: ThinwireError) -> None:
    partner = partner_of(8)
    partner.fails = lambda _, done: error if done == 0 else None
    with pytest.raises(type(error)):
        virtually(partner.download(FixedWidth(1)))
    assert len(partner.asked) == 1


def test_an_error_that_is_no_weather_ends_it_despite_progress() -> None:
    partner = partner_of(8)
    partner.fails = lambda _, done: LimitExceeded("a lie") if done == 3 else None
    with pytest.raises(LimitExceeded):
        virtually(partner.download(FixedWidth(1)))
    assert len(partner.asked) == 1


# ---- several


def test_four_connections_take_a_quarter_of_the_time() -> None:
    partner = partner_of(64)
    elapsed_s = virtually(partner.download(FixedWidth(4)))
    assert_whole(partner)
    assert partner.most_open == 4
    assert elapsed_s <= (64 / 4 + 2) * GRAIN_S
    assert sorted(partner.asked)[:1] == [(0, 0, 16 * GRAIN)]
    assert len(partner.asked) < 10


def test_who_is_through_takes_the_far_half_of_who_has_most_to_do() -> None:
    partner = partner_of(16)
    partner.grain_s = {0: GRAIN_S, 1: 100.0}
    virtually(partner.download(FixedWidth(2)))
    assert partner.asked[:2] == [(0, 0, 8 * GRAIN), (1, 8 * GRAIN, 16 * GRAIN)]
    assert partner.asked[2] == (0, 12 * GRAIN, 16 * GRAIN)  # 0 is through, 1 has done nothing
    assert_whole(partner)
    slow = [start for connection, start in partner.brought if connection == 1]
    assert slow == [8 * GRAIN]  # it keeps no more than the grain that it has begun


def test_what_is_not_worth_a_request_is_not_divided() -> None:
    partner = partner_of(1)
    virtually(partner.download(FixedWidth(4)))
    assert partner.asked == [(0, 0, GRAIN)]
    assert_whole(partner)


def test_a_stripe_that_breaks_off_among_others_goes_on_at_its_byte() -> None:
    partner = partner_of(32)
    partner.fails = breaking(1, after=3)
    virtually(partner.download(FixedWidth(2)))
    assert (1, 16 * GRAIN, 32 * GRAIN) in partner.asked
    assert (1, 19 * GRAIN, 32 * GRAIN) in partner.asked
    assert_whole(partner)


def test_an_error_of_one_stripe_ends_all() -> None:
    partner = partner_of(32)
    partner.fails = lambda connection, done: LimitExceeded("a lie") if connection == 2 else None
    with pytest.raises(LimitExceeded):
        virtually(partner.download(FixedWidth(4)))
    assert partner.open == set()


def test_whoever_cancels_it_leaves_nothing_under_way() -> None:
    partner = partner_of(32)

    async def scenario() -> None:
        task = asyncio.create_task(partner.download(FixedWidth(3)))
        await asyncio.sleep(0.25)
        assert len(partner.open) == 3
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert partner.open == set()

    virtually(scenario())
    assert sorted(partner.given_back) == [0, 1, 2]


# ---- the width changes


def test_when_the_width_grows_the_far_half_is_taken() -> None:
    partner, width = partner_of(64), FixedWidth(1)
    width.then = {1: 2}
    virtually(partner.download(width))
    assert partner.asked[0] == (0, 0, 64 * GRAIN)
    at = 10 * GRAIN  # after a second
    connection, start, stop = partner.asked[1]
    assert (connection, stop) == (1, 64 * GRAIN)
    assert abs(start - (at + 64 * GRAIN) // 2) <= 2 * GRAIN
    assert_whole(partner)


def test_when_the_width_shrinks_connections_are_given_back_and_nothing_is_lost() -> None:
    partner, width = partner_of(100), FixedWidth(4)
    width.then = {1: 2}
    virtually(partner.download(width))
    assert sorted(partner.given_back) == [2, 3]
    after = {connection for connection, _, _ in partner.asked[4:]}
    assert after <= {0, 1}
    assert_whole(partner)


def test_the_width_learns_what_a_window_has_brought_and_over_how_many() -> None:
    partner, width = partner_of(64), FixedWidth(2)
    virtually(partner.download(width))
    assert len(width.windows) == 3
    for goodput_bps, num_connections, is_capped in width.windows[:2]:
        assert goodput_bps == pytest.approx(2 * 8 * GRAIN / GRAIN_S, rel=0.15)
        assert (num_connections, is_capped) == (2, False)
    assert width.times_s[0][0] == 0
    for (_, ended_s), (began_s, _) in itertools.pairwise(width.times_s):
        assert began_s == ended_s  # exactly, since windows that overlap do not count


def test_a_window_in_which_nothing_could_come_says_nothing() -> None:
    partner, width = partner_of(2), FixedWidth(1)
    partner.grain_s = {0: 3.5}  # it is still in the making
    virtually(partner.download(width))
    assert len(width.windows) == 2  # of seven: those in which a grain came
    assert_whole(partner)


def test_a_window_that_our_cap_limits_is_marked() -> None:
    partner, width = partner_of(64), FixedWidth(1)
    partner.grain_s = {0: 1.5}

    async def scenario() -> None:
        partner.num_bytes = -(10**10)  # others bring much, too
        asyncio.get_running_loop().call_later(0.5, setattr, partner, "num_bytes", 0)
        task = asyncio.create_task(partner.download(width))
        await asyncio.sleep(1.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    virtually(scenario())
    assert [is_capped for _, _, is_capped in width.windows] == [True]


# ---- a state: one stripe of one round


def state_partner(num_grains: int) -> Partner:
    partner = partner_of(num_grains)
    partner.sink.is_divisible = False
    return partner


def test_a_state_is_never_striped_however_wide_the_partner_is() -> None:
    partner, width = state_partner(64), FixedWidth(2)
    width.then = {1: 6}
    assert virtually(partner.download(width)) == pytest.approx(64 * GRAIN_S)
    assert width.wanted == 6
    assert partner.asked == [(0, 0, 64 * GRAIN)]
    assert_whole(partner)


def test_a_state_that_breaks_off_goes_on_as_one_stripe() -> None:
    partner = state_partner(64)
    partner.fails = breaking(0, after=20)
    virtually(partner.download(FixedWidth(4)))
    assert [(start, stop) for _, start, stop in partner.asked] == [
        (0, 64 * GRAIN),
        (20 * GRAIN, 64 * GRAIN),
    ]
    assert partner.most_open == 1
    assert_whole(partner)


def test_who_gives_a_sink_something_else_is_not_asked_again() -> None:
    partner = partner_of(12)
    partner.sink.refuses = NotAvailable("that is of no use")
    with pytest.raises(NotAvailable, match="of no use"):
        virtually(partner.download(FixedWidth(1)))
    assert len(partner.asked) == 1


# ---- whatever happens

failures = st.lists(
    st.tuples(st.integers(0, 5), st.integers(1, 9)), max_size=6
)  # connection, after how many grains
widths = st.dictionaries(st.integers(1, 8), st.integers(1, 6), max_size=5)


@settings(deadline=None, max_examples=60)
@given(
    num_grains=st.integers(1, 60),
    rest=st.integers(0, GRAIN - 1),
    has=st.sets(st.integers(0, 59)),
    first_width=st.integers(1, 6),
    then=widths,
    failures=failures,
    speeds=st.lists(st.floats(0.001, 0.9), min_size=6, max_size=6),
)
def test_each_missing_grain_comes_exactly_once(
    num_grains: int,
    rest: int,
    has: set[int],
    first_width: int,
    then: dict[int, int],
    failures: list[tuple[int, int]],
    speeds: list[float],
) -> None:
    size = GRAIN * (num_grains - 1) + max(1, rest)
    data = blob(num_grains)[:size]
    has = {grain for grain in has if grain < num_grains}
    partner = Partner(KeptSink(size, GRAIN, sorted(has)), data)
    partner.grain_s = dict(enumerate(speeds))
    left = list(failures)

    def fails(connection: int, done: int) -> ThinwireError | None:
        if (connection, done) not in left:
            return None
        left.remove((connection, done))
        return TransportError("it broke off")

    partner.fails = fails
    width = FixedWidth(first_width)
    width.then = then
    virtually(partner.download(width))
    assert sorted(partner.sink.order) == sorted(set(range(num_grains)) - has)
    for grain in partner.sink.order:
        span = slice(grain * GRAIN, (grain + 1) * GRAIN)
        assert partner.sink.data[span] == data[span]
    assert partner.open == set()


@pytest.mark.parametrize("error", [TransportError("no way"), NotAvailable("not made yet")])
def test_a_connection_that_brings_nothing_does_not_end_what_others_bring(
    error: ThinwireError,
) -> None:
    partner = partner_of(32)
    partner.fails = lambda connection, done: error if connection == 1 else None
    virtually(partner.download(FixedWidth(2)))
    assert any(connection == 1 for connection, _, _ in partner.asked)
    assert_whole(partner)


def test_when_nobody_brings_anything_it_ends() -> None:
    partner = partner_of(32)
    partner.fails = lambda connection, done: NotAvailable("gone") if done == 0 else None
    with pytest.raises(NotAvailable):
        virtually(partner.download(FixedWidth(2)))
    assert partner.open == set()
