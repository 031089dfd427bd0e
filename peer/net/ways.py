"""The ways to a peer, and dialling over several of them.

    direct    to an address of its own
    reverse   through a tunnel that it opens to us, since it listens at us
    relayed   through a tunnel that a third peer passes on, at which it listens

A worse way is tried when the better ones have failed, or have said nothing for `HEAD_START_S`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, NamedTuple, Protocol, TypeVar, get_args

from protocol.errors import PeerGone, RemoteError, ThinwireError
from protocol.identity import PeerId

Way = Literal["direct", "reverse", "relayed"]
WAYS: tuple[Way, ...] = get_args(Way)
"""The best first."""
HEAD_START_S = 1.0
"""Of a better way: three round trips of a long link, which is what dialling takes."""

Result = TypeVar("Result")


class Candidate(NamedTuple):
    """Where a peer may answer."""

    way: Way
    address: str
    """For gRPC: host:port, or the local end of a tunnel."""


class Tunnels(Protocol):
    """The ways to peers that cannot be dialled."""

    async def candidates(self, peer_id: PeerId) -> Sequence[Candidate]:
        """Returns tunnels that may lead to a peer; each is opened by dialling it."""


async def race(
    candidates: Sequence[Candidate],
    attempt: Callable[[Candidate], Awaitable[Result]],
    *,
    first: Way,
    undo: Callable[[Result], Awaitable[None]],
) -> Result:
    """Returns the first success; all candidates of one way are tried at once.

    Args:
        candidates: At least one.
        attempt: Tries one; raises a `ThinwireError` when it fails.
        first: The way to begin with; the others follow, the best first.
        undo: Called with a success that came too late.

    Raises:
        ThinwireError: all failed; a refusal comes from the peer itself, so it says more than any
            dead address. `PeerGone` only if all say so.
    """
    loop = asyncio.get_running_loop()
    order = sorted(WAYS, key=lambda way: way != first)
    waves = [[each for each in candidates if each.way == way] for way in order]
    waves = [wave for wave in waves if wave]
    next_at_s = 0.0
    attempts: set[asyncio.Future[Result]] = set()
    pending: set[asyncio.Future[Result]] = set()
    failures: list[ThinwireError] = []
    try:
        while waves or pending:
            if waves and (not pending or loop.time() >= next_at_s):
                wave = {asyncio.ensure_future(attempt(each)) for each in waves.pop(0)}
                attempts |= wave
                pending = pending | wave
                next_at_s = loop.time() + HEAD_START_S
            wait_s = max(0.0, next_at_s - loop.time()) if waves else None
            done, pending = await asyncio.wait(
                pending, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED
            )
            for each in done:
                try:
                    winner = each.result()
                except ThinwireError as error:
                    failures.append(error)
                else:
                    attempts.discard(each)
                    return winner
    finally:
        for each in attempts:
            each.cancel()
        for late in await asyncio.gather(*attempts, return_exceptions=True):
            if not isinstance(late, BaseException):
                await undo(late)
    failures.sort(
        key=lambda error: (not isinstance(error, RemoteError), isinstance(error, PeerGone))
    )
    raise failures[0]
