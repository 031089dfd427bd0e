"""Fetching a fragment's state from several peers at once.

Each donor is asked for its index. What most of them have is believed, and its blocks are fetched
from all who have it, a run of blocks at a time, about as many as the donor brings in `RUN_S`. Every
block is checked as it comes; a donor whose blocks are wrong, that is silent, or whose connection
breaks twice without bringing anything is left out, and what it still owed goes to the others. In
the end, who has nothing left to do fetches the rest of a run that will take much longer, too.

If all donors fail, what has come is kept, and the next attempt goes on with the same state as long
as any donor still has it (`peer.pins`).
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from peer.blobs import BytesSink, StateShare, StateSink
from peer.ports import Wire
from peer.telemetry import EventLog
from peer.vigil import Vigil
from protocol.errors import MalformedMessage, NotAvailable, RemoteError, TransportError
from protocol.identity import PeerId
from protocol.machine import BlobRef
from protocol.state_index import StateIndex, index_bytes, parse_index

MAX_DONORS = 8
STREAMS_PER_DONOR = 2
"""While one run ends the other is under way."""
FIRST_STREAMS = 2
MORE_BLOCKS_PER_S = 0.25
"""A stream that brings so much leaves room for more; on a thin link they starve each other."""
RUN_S = 2.0
FIRST_BLOCKS = 4
"""Of a first run, when nothing is known of the donor."""
SLOW_S = 4.0
"""A run that will take so long is fetched from somebody else, too, when all others are done."""
AGAIN_S = 0.5
MAX_FAILURES = 2
"""Without a block between them."""

Survey = list[tuple[PeerId, StateIndex]]
"""Who has one state, and the index that each gave; they may differ in the lineage."""


def agreed(survey: Survey) -> StateIndex:
    """Returns the index whose lineage most of them have."""
    count = Counter(index.lineage.to_bytes() for _, index in survey)
    return max((index for _, index in survey), key=lambda index: count[index.lineage.to_bytes()])


class Sizes(Protocol):
    """What is known of states before they come; `peer.mixing.Mixing` has it."""

    @property
    def is_common(self) -> bool:
        """Whether all peers' anchors are to be equal."""

    def round_of(self, fragment: int) -> int:
        """Returns the round of the state that is here already."""

    def state_lengths(self, fragment: int) -> list[int]:
        """Returns the lengths of the vectors in a `state`, in elements."""

    def state_bytes(self, fragment: int) -> int:
        """Returns the size of a `state`."""


class CatchingUp:
    """See the module docstring. Errors are those of `fetch`.

    Args:
        sizes: Of the states that are to come.
        wire: Where donors are.
        progress_s: The run's.
        events: Where donors that lie are named.
        domain: Whose states, if not that in which we train.
    """

    def __init__(
        self,
        sizes: Sizes,
        wire: Wire,
        *,
        progress_s: float,
        events: EventLog,
        domain: str = "",
    ) -> None:
        self._sizes = sizes
        self._domain = domain
        self._vigil = Vigil(wire, progress_s=progress_s)
        self._events = events
        self._unfinished: dict[int, StateSink] = {}
        """By fragment, what came before all donors failed."""
        self._under_way: dict[int, StateSink] = {}

    def progress(self) -> tuple[int, int]:
        """Returns how many bytes have come, of how many, of the states under way."""
        sinks = self._under_way.values()
        return sum(s.received_bytes for s in sinks), sum(s.size_bytes for s in sinks)

    async def survey(
        self, fragment: int, donors: Sequence[PeerId], others: Sequence[PeerId] = ()
    ) -> Survey:
        """Returns who has the state that most of the donors have, and its index.

        Args:
            fragment: Of which.
            donors: Whose state is wanted.
            others: Who may have the same.

        Raises:
            TransportError: none of the donors answered.
        """
        wanted = dict.fromkeys(donors[:MAX_DONORS])
        asked = [*wanted, *(peer for peer in others if peer not in wanted)][:MAX_DONORS]
        self._forget_what_is_past(fragment)
        begun = self._unfinished.get(fragment)
        if begun is not None:
            found = await self._indexes(fragment, asked, begun.index.name)
            if any(donor in wanted for donor, _ in found):
                return found
            del self._unfinished[fragment]
        found = await self._indexes(fragment, asked, b"")
        theirs = [index for donor, index in found if donor in wanted]
        if not theirs:
            raise TransportError(f"none of {len(wanted)} peers could say what its state is")
        count = Counter(index.name for index in theirs)
        chosen = max(theirs, key=lambda index: (count[index.name], index.round)).name
        return [(donor, index) for donor, index in found if index.name == chosen]

    async def fetch(self, fragment: int, survey: Survey) -> StateSink:
        """Returns the state that these donors have.

        Raises:
            TransportError: all donors failed; the next call goes on from here.
        """
        index = survey[0][1]
        state = self._unfinished.pop(fragment, None)
        if state is None or state.index.name != index.name:
            state = StateSink(self._sizes.state_lengths(fragment), index)
        self._under_way[fragment] = state
        loop, donors = asyncio.get_running_loop(), [donor for donor, _ in survey]
        began_s, here_bytes = loop.time(), state.received_bytes
        self._events.write(
            "state_fetch_begins", fragment=fragment, round=index.round, donors=donors
        )
        try:
            ref = BlobRef("state", fragment, index.name, domain=self._domain)
            await _Gathering(self._vigil, ref, state, donors, self._tell).run()
            self._events.write(
                "state_fetched",
                fragment=fragment,
                round=index.round,
                digest=index.anchor_digest.hex(),
                size_bytes=state.size_bytes,
                already_bytes=here_bytes,
                took_s=loop.time() - began_s,
            )
        finally:
            del self._under_way[fragment]
            if state.missing:
                self._unfinished[fragment] = state
        return state

    def _forget_what_is_past(self, fragment: int) -> None:
        """Lets go of what came of a state that is of no use any more."""
        begun = self._unfinished.get(fragment)
        here = self._sizes.round_of(fragment)
        if begun and self._sizes.is_common and here >= begun.index.round:
            del self._unfinished[fragment]

    async def _indexes(self, fragment: int, donors: Sequence[PeerId], name: bytes) -> Survey:
        size_bytes = index_bytes(self._sizes.state_bytes(fragment))

        async def ask(donor: PeerId) -> StateIndex:
            sink = BytesSink(size_bytes)
            ref = BlobRef("index", fragment, name, domain=self._domain)
            await self._vigil.fetch(donor, ref, sink)
            index = parse_index(sink.data)
            if name and index.name != name:
                raise MalformedMessage("the index of another state")
            return index

        asked = donors[:MAX_DONORS]
        answers = await asyncio.gather(*map(ask, asked), return_exceptions=True)
        found: Survey = []
        for donor, answer in zip(asked, answers, strict=True):
            if isinstance(answer, StateIndex):
                found.append((donor, answer))
            elif not isinstance(answer, TransportError | RemoteError):
                raise answer
            elif not isinstance(answer, NotAvailable):
                self._tell(donor, str(answer))
        return found

    def _tell(self, donor: PeerId, reason: str) -> None:
        self._events.write("donor_dropped", src=donor, reason=reason)


class _Gathering:
    """The blocks of one state on their way, from all donors."""

    def __init__(
        self,
        vigil: Vigil,
        ref: BlobRef,
        state: StateSink,
        donors: Sequence[PeerId],
        tell: Callable[[PeerId, str], None],
    ) -> None:
        self._vigil = vigil
        self._ref = ref
        self._state = state
        self._tell = tell
        self._pool = list(state.missing)
        """What nobody has been asked for."""
        self._runs: dict[object, _Run] = {}
        """By stream, what it is at."""
        self._news = asyncio.Condition()
        self._dropped: set[PeerId] = set()
        self._turns = list(donors) * STREAMS_PER_DONOR
        """Whose the next streams are."""
        self._streams: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Returns when all is here.

        Raises:
            TransportError: all donors failed.
        """
        for _ in range(FIRST_STREAMS):
            self._add_stream()
        try:
            while self._state.missing and self._streams:
                done, _ = await asyncio.wait(self._streams, return_when=asyncio.FIRST_COMPLETED)
                for stream in done:
                    self._streams.remove(stream)
                    stream.result()
                    self._add_stream()
        finally:
            for stream in self._streams:
                stream.cancel()
            await asyncio.gather(*self._streams, return_exceptions=True)
        if self._state.missing:
            raise TransportError(
                f"no donor is left, with {len(self._state.missing)} of "
                f"{len(self._state.index.blocks)} blocks still to come"
            )

    def _add_stream(self) -> None:
        self._turns = [donor for donor in self._turns if donor not in self._dropped]
        if self._turns:
            donor = self._turns.pop(0)
            self._streams.append(asyncio.ensure_future(self._fetch_from(donor)))

    async def _fetch_from(self, donor: PeerId) -> None:
        num_failures, stream, blocks_per_s = 0, object(), 0.0
        while self._state.missing and donor not in self._dropped:
            run = await self._take(donor, stream, blocks_per_s)
            if run is None:
                return
            try:
                await self._vigil.fetch(donor, self._ref, run.share)
                num_failures, blocks_per_s = 0, run.blocks_per_s
                if blocks_per_s > MORE_BLOCKS_PER_S:
                    self._add_stream()
            except (TransportError, RemoteError) as error:
                num_failures = 1 if run.num_brought else num_failures + 1
                if isinstance(error, NotAvailable) and self._has_another(donor, stream):
                    return  # it serves one stream, and no more
                if isinstance(error, MalformedMessage) or num_failures >= MAX_FAILURES:
                    self._drop(donor, str(error))
                    return
                if isinstance(error, NotAvailable):  # too many at once, perhaps
                    await asyncio.sleep(AGAIN_S)
            finally:
                await self._give_back(stream)

    def _has_another(self, donor: PeerId, stream: object) -> bool:
        return any(r.donor == donor for other, r in self._runs.items() if other is not stream)

    def _drop(self, donor: PeerId, reason: str) -> None:
        if donor not in self._dropped:
            self._dropped.add(donor)
            self._tell(donor, reason)

    async def _take(self, donor: PeerId, stream: object, blocks_per_s: float) -> "_Run | None":
        """Returns the next run of blocks; None when there will be nothing to do any more."""
        async with self._news:
            while self._state.missing:
                size = int(RUN_S * blocks_per_s) if blocks_per_s else FIRST_BLOCKS
                num_streams = len(self._streams) + len(self._turns)
                size = max(1, min(size, len(self._pool) // num_streams))
                blocks = self._pool[:size] or self._rest_of_the_slowest(donor)
                del self._pool[:size]
                if blocks:
                    run = self._runs[stream] = _Run(donor, StateShare(self._state, blocks))
                    return run
                await self._wait_for_news()
        return None

    async def _wait_for_news(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RUN_S):  # then some run may have become a slow one
                await self._news.wait()

    def _rest_of_the_slowest(self, donor: PeerId) -> list[int]:
        """Returns half of it, for this donor; its own link would only be shared once more."""
        others = (run for run in self._runs.values() if run.donor != donor)
        slowest = max(others, key=lambda run: run.left_s, default=None)
        if slowest is None or slowest.left_s < SLOW_S:
            return []
        taken = {block for run in self._runs.values() if run is not slowest for block in run.blocks}
        rest = [block for block in slowest.share.missing_blocks() if block not in taken]
        return rest[len(rest) // 2 :]

    async def _give_back(self, stream: object) -> None:
        run = self._runs.pop(stream)
        taken = {block for other in self._runs.values() for block in other.blocks}
        async with self._news:
            self._pool += [block for block in run.share.missing_blocks() if block not in taken]
            self._news.notify_all()


class _Run:
    """Some blocks that one donor is asked for."""

    def __init__(self, donor: PeerId, share: StateShare) -> None:
        self.donor = donor
        self.share = share
        self.blocks = share.blocks
        self._began_s = asyncio.get_running_loop().time()

    @property
    def num_brought(self) -> int:
        """The blocks that have come."""
        return len(self.blocks) - len(self.share.missing_blocks())

    @property
    def blocks_per_s(self) -> float:
        """How fast they came."""
        return self.num_brought / max(1e-6, asyncio.get_running_loop().time() - self._began_s)

    @property
    def left_s(self) -> float:
        """How long the rest will take at this rate; at the best if nothing has come yet."""
        took_s = asyncio.get_running_loop().time() - self._began_s
        return len(self.share.missing_blocks()) * took_s / max(1, self.num_brought)
