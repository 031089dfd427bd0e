"""Entering a swarm with nothing but a ticket: find the run, and take its state from a peer."""

import asyncio
import logging
import random
import statistics
from collections.abc import Awaitable, Callable, Sequence

from torch import Tensor

from peer.catch_up import CatchingUp, agreed
from peer.config import PeerConfig
from peer.method import check_method
from peer.mixing import Mixing
from peer.needs import require_memory
from peer.net.knock import ADVICE, knock
from peer.net.wire import fetch_manifest
from peer.presence import Presence
from peer.remedies import newer_run, remedy
from peer.run_folder import Run
from peer.train.recipes import operator_globs
from peer.train.replica import choose_device
from protocol.errors import (
    ConfigError,
    MalformedMessage,
    RemoteError,
    RunMismatch,
    TransportError,
)
from protocol.identity import Identity, PeerId
from protocol.lottery import donor_order
from protocol.manifest import Manifest, verify_manifest
from protocol.models import OwnSpec
from protocol.state_index import StateIndex
from protocol.ticket import Ticket

logger = logging.getLogger(__name__)

ASK_AGAIN_S = 0.3
KNOCK_S = 3.0
OWN_LOOP = (
    "this run's model lives in a training loop of your own, which joins with three lines: "
    "`with thinwire.join(ticket, model=model, optimizer=optimizer) as swarm:`, around the loop "
    "`for batch in data:`, and `swarm.step(tokens=..., loss=...)` after each step of the optimizer"
)
MAX_FRAGMENTS = 4
"""Under way at once."""
SLACK_FRAC = 0.1
"""Without a common anchor, rounds differ from peer to peer and mean little."""


async def find_run(identity: Identity, config: PeerConfig, presence: Presence) -> Run:
    """Returns the run that the ticket promises, asking whoever is in the directory.

    Raises:
        ConfigError: nobody could tell us within `config.wait_s`, or all who are there refuse us.
    """
    ticket, loop = config.ticket, asyncio.get_running_loop()
    deadline_s = loop.time() + config.wait_s
    problem = ""
    while loop.time() < deadline_s:
        await presence.refresh_quietly()
        refusals: list[str] = []
        asked = list(presence.cards.items())
        random.shuffle(asked)  # no stranger can choose an id that is always asked first
        for peer_id, card in asked:
            if loop.time() >= deadline_s:
                break
            try:
                data, signature = await fetch_manifest(
                    identity,
                    peer_id,
                    card.wire_addresses,
                    run_id=ticket.run_id,
                    secret=ticket.secret,
                )
                return Run(_verified(data, signature, ticket), signature)
            except RunMismatch as error:
                problem = f"{peer_id}: {error}"
                refusals.append(str(error))
            except (RemoteError, TransportError) as error:
                problem = f"{peer_id}: {error}"
        if refusals and len(refusals) == len(asked):  # asking again would not help
            raise ConfigError(": ".join((refusals[0], *(remedy(refusals[0]) or ()))))
        await asyncio.sleep(ASK_AGAIN_S)
    raise ConfigError(
        f"nobody at {places(config)} could tell us about the run within {config.wait_s:g} s: "
        f"{await _advice(ticket, problem)}; thinwire doctor TICKET says more"
    )


def _verified(data: bytes, signature: bytes, ticket: Ticket) -> Manifest:
    try:
        return verify_manifest(data, signature, run_id=ticket.run_id, founder=ticket.founder)
    except MalformedMessage as error:  # but hash and signature are right: nobody has another one
        raise ConfigError(newer_run(str(error))) from None


async def _advice(ticket: Ticket, problem: str) -> str:
    """Returns why the directory is empty, or out of reach, and what to do.

    Args:
        ticket: Of the run.
        problem: With somebody who is in the directory; empty if nobody is.
    """
    if problem and (known := remedy(problem)):
        return "; ".join((problem, *known))
    if problem:
        return (
            f"{problem}; is the bootstrap node or another peer running, and can this machine reach "
            "it? A newer ticket may help"
        )
    knocks = await asyncio.gather(*(knock(address, wait_s=KNOCK_S) for address in ticket.addresses))
    if any(each.outcome == "open" for each in knocks):
        return (
            f"somebody listens there, but nobody in its directory is in run {ticket.run_id[:12]}: "
            "the run is over, or that node serves another one now; ask for a newer ticket"
        )
    return "; ".join(dict.fromkeys(ADVICE[each.outcome] for each in knocks))


def check_run(run: Run, config: PeerConfig) -> None:
    """Refuses a run that this machine cannot or should not join.

    Raises:
        ConfigError: says why.
    """
    if config.has_own_loop:
        if run.manifest.domains:
            raise ConfigError("a run with domains is not for a loop of your own: use thinwire join")
        check_method(run.manifest)
        return
    if isinstance(run.manifest.model, OwnSpec):
        raise ConfigError(OWN_LOOP)
    if run.manifest.domains:
        return  # each domain is looked at for itself
    globs = operator_globs(run.manifest.data.recipe)
    if globs and not config.allow_text_recipe:
        raise ConfigError(
            f"this run would train on your files {globs[0]!r}, and the model "
            "that others get may remember them; if you agree, add --allow-text"
        )
    check_method(run.manifest)
    require_memory(run.manifest, choose_device(config.device))


async def fetch_state(
    mixing: Mixing,
    catching_up: CatchingUp,
    presence: Presence,
    manifest: Manifest,
    *,
    wait_s: float,
) -> tuple[PeerId | None, int]:
    """Takes anchors, outer state and rounds from the peers that are farthest.

    Returns:
        One of the donors, and the median of the steps of the run that they say they are at; or
        None and 0 when nobody has come farther than what is here, or nobody could give it
        within `wait_s`: then the exchange will tell us that we are behind, and we catch up.
    """
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + wait_s
    slack_frac = SLACK_FRAC if manifest.method.mixing != "all" else 0.0
    todo = list(range(len(mixing.outer)))

    async def load(fragment: int, vectors: list[Tensor], index: StateIndex) -> None:
        # Hashing a large model takes seconds in which others must be answered.
        await asyncio.to_thread(
            mixing.load_state_blob, fragment, vectors, index.round, lineage=index.lineage
        )

    while True:
        rounds, steps = presence.progress()
        here = min(mixing.round_of(fragment) for fragment in range(len(mixing.outer)))
        rounds = {peer: round for peer, round in rounds.items() if round > here}
        donors = donor_order(presence.our_id, rounds, run_id=manifest.run_id, slack_frac=slack_frac)
        if donors:
            todo = await fetch_fragments(
                donors, todo, catching_up, load, is_common=mixing.is_common
            )
        if donors and not todo:
            return donors[0], statistics.median_low(steps[peer] for peer in donors)
        if not donors or loop.time() >= deadline_s:
            return None, 0
        await asyncio.sleep(ASK_AGAIN_S)
        await presence.refresh_quietly()


Take = Callable[[int, list[Tensor], StateIndex], Awaitable[None]]
"""Uses a fragment's vectors."""


async def fetch_fragments(
    donors: Sequence[PeerId],
    fragments: Sequence[int],
    catching_up: CatchingUp,
    take: Take,
    *,
    is_common: bool,
) -> list[int]:
    """Fetches states, and returns the fragments that could not be had.

    Args:
        donors: In the order in which they are asked.
        fragments: Of which.
        catching_up: How one is fetched.
        take: What becomes of each.
        is_common: Whether the donors' anchors are to be equal.
    """
    # Where anchors are common, all donors give one fragment; elsewhere each gives another one.
    at_once = asyncio.Semaphore(1 if is_common else min(MAX_FRAGMENTS, len(donors)))
    missing: list[int] = []

    async def fetch(fragment: int) -> None:
        first = 0 if is_common else fragment % len(donors)
        turn = [*donors[first:], *donors[:first]]
        # Elsewhere no two states are equal, either, so those who have one are asked one by one.
        attempts = [turn] if is_common else [[donor] for donor in turn]
        async with at_once:
            for asked in attempts:
                try:
                    survey = await catching_up.survey(fragment, asked)
                    state = await catching_up.fetch(fragment, survey)
                    await take(fragment, state.whole(), agreed(survey))
                except (RemoteError, TransportError) as error:
                    logger.info("fragment %d could not be had: %s", fragment, error)
                else:
                    return
        missing.append(fragment)

    async with asyncio.TaskGroup() as group:
        for fragment in fragments:
            group.create_task(fetch(fragment))
    return sorted(missing)


def places(config: PeerConfig) -> str:
    """Returns where the ticket's peers should be, for people."""
    return ", ".join(f"{address.host}:{address.port}" for address in config.ticket.addresses)
