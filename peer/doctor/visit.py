"""A visit to a run: from the ticket to what the planner makes of the link, step by step.

Nobody sees the doctor in the run: its identity is new each time, no card is its own, and nothing is
written. But it listens where `join` would, since others are asked to dial back.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterable

from peer.doctor import door, needs, reach, speed
from peer.doctor.clock import WatchedClock, clock
from peer.doctor.finding import Finding
from peer.doctor.machine import Machine
from peer.doctor.measuring import dialable, dialled_back, heard, pinged, probed
from peer.doctor.speed import Speed
from peer.net.config import WireConfig
from peer.net.directory_hivemind import HivemindDirectory
from peer.net.knock import Knock, knock
from peer.net.wire import GrpcWire
from peer.ports import Source
from peer.presence import Presence, wire_addresses
from peer.run_folder import Run
from protocol.errors import ConfigError, NotAvailable, ThinwireError, TransportError
from protocol.identity import Identity, PeerId
from protocol.machine import BlobRef
from protocol.manifest import Manifest
from protocol.messages import Note
from protocol.ticket import Ticket

ENTER_S = 12.0
LISTED_S = 10.0
"""A directory that was entered shows whom it has after so long: two announcements."""
LOOK_EVERY_S = 0.5

Say = Callable[[str], None]


class NoInbox:
    """The doctor takes part in nothing."""

    def on_note(self, src: PeerId, note: Note) -> None:
        """Ignored."""

    async def blob(self, src: PeerId, ref: BlobRef) -> Source:
        """Returns nothing, ever.

        Raises:
            NotAvailable: always.
        """
        raise NotAvailable("this is somebody who only looks")


class Visit:
    """What is found on the way into a run; each stage says whether another one makes sense.

    Args:
        machine: From where.
        ticket: Into which run.
        step_s: What an inner step takes; 0 to measure it.
        say: Told what is being done.
    """

    def __init__(self, machine: Machine, ticket: Ticket, *, step_s: float, say: Say) -> None:
        self.findings: list[Finding] = []
        self._machine = machine
        self._ticket = ticket
        self._step_s = step_s
        self._say = say
        self._identity = Identity(secrets.token_bytes(32))
        self._stack = contextlib.AsyncExitStack()
        host, port = machine.listen
        is_free = not any(each.problem for each in machine.ports)
        self._listen = (host, port) if is_free else ("127.0.0.1", 0)
        """Of a port that is not to be had the machine's checks complain."""
        self._knocks: list[Knock] = []
        self._directory: HivemindDirectory
        self._presence: Presence
        self._run: Run
        self._speed = Speed()

    async def make(self) -> None:
        """Goes as far as one gets; what was found is in `findings`."""
        self._note([door.the_ticket(self._ticket), *door.the_folder(self._machine, self._ticket)])
        stages = (self._knock, self._enter, self._meet, self._weigh, self._measure, self._plan)
        async with self._stack:
            try:
                for stage in stages:
                    if not await stage():
                        break
            except asyncio.CancelledError:
                self._say("leaving")
                raise

    async def _knock(self) -> bool:
        self._say("knocking at the ticket's addresses")
        self._knocks = await asyncio.gather(*map(knock, self._ticket.addresses))
        self._note(door.knocked(self._knocks))
        return any(each.outcome == "open" for each in self._knocks)

    async def _enter(self) -> bool:
        self._say("entering the directory")
        host, port = self._listen
        watched = WatchedClock()
        try:
            self._directory = await HivemindDirectory.start(
                self._identity,
                self._ticket.run_id,
                listen_host=host,
                listen_port=port + 1 if port else 0,
                announce_host=self._machine.announce,
                bootstrap=self._ticket.addresses,
                clock=watched,
                on_notice=lambda notice: None,  # of the clock, which is a check of its own
            )
        except ConfigError as error:
            why, fix = "the directory's daemon cannot run here", "pip install hivemind==1.1.12"
            self._note([Finding("directory", "fatal", str(error), why, fix)])
            return False
        self._stack.push_async_callback(self._directory.close)
        self._presence = Presence(self._directory, self._identity.peer_id)
        has_entered = await self._has_entered()
        told = list(clock(watched.ahead_s, self._machine.system))
        self._note(told)
        if any(each.verdict == "fatal" for each in told):
            return False  # nobody's certificate would count, which looks like other troubles
        if not has_entered:
            self._note([door.not_entered(self._knocks)])
        return has_entered

    async def _has_entered(self) -> bool:
        """Returns whether anybody in the directory has answered in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ENTER_S):
                while True:
                    try:
                        await self._presence.refresh()
                    except TransportError:
                        await asyncio.sleep(LOOK_EVERY_S)
                    else:
                        return True
        return False

    async def _meet(self) -> bool:
        presence = self._presence
        self._say("looking for somebody who is in the run")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LISTED_S):
                while not presence.cards:
                    await asyncio.sleep(LOOK_EVERY_S)
                    await presence.refresh_quietly()
        if not presence.cards:
            self._note([door.nobody_listed(self._ticket.run_id)])
            return False
        self._say("asking others about the run")
        answers = await heard(self._identity, self._ticket, presence.cards)
        self._note(door.answered(answers, presence.cards))
        if not answers.manifests:
            return False
        run, finding = door.the_run(self._ticket, answers.manifests)
        self._note([finding])
        if run is not None:
            self._run = run
        return run is not None

    async def _weigh(self) -> bool:
        members = 1 + len(self._presence.members())
        self._note(needs.needs_of(self._machine, self._run.manifest, members=members))
        return True

    async def _measure(self) -> bool:
        machine, cards = self._machine, self._presence.cards
        wire = await self._wire()
        self._say("pinging the others")
        trips_s, num_pinged = await pinged(wire, cards)
        self._note(speed.trips(trips_s, num_pinged))
        self._say("asking others to dial back")
        replies, num_asked = await dialled_back(wire, cards)
        self._note(reach.dialled(replies, machine.listen, num_asked=num_asked))
        self._say("measuring the bandwidth to a peer, with up to 2 MiB each way")
        probes, refusal = await probed(wire, cards)
        places = [place for peer in dialable(cards) for place in cards[peer].wire_addresses]
        local = next(filter(None, map(reach.local_host, places)), "")
        seen = [each.seen_host for each in probes] or reach.seen_by(replies)
        self._note([reach.translation(seen, local)])
        is_dialable = bool(replies) and reach.verdict(replies) == "direct"
        self._note(reach.ways(cards, is_dialable=is_dialable))
        self._note(speed.rates(probes, refusal, up_cap_bps=machine.up.usual_bps))
        self._speed = Speed.of(trips_s, probes)
        return True

    async def _wire(self) -> GrpcWire:
        host, port = self._listen
        manifest, limits = self._run.manifest, self._run.manifest.limits
        config = WireConfig(
            run_id=self._ticket.run_id,
            manifest_bytes=manifest.to_bytes(),
            manifest_signature=self._run.signature,
            secret=self._ticket.secret,
            listen_host=host,
            listen_port=port,
            chunk_bytes=limits.chunk_bytes,
            max_message_bytes=limits.max_message_bytes,
            progress_s=manifest.round.progress_s,
            relay_bps=0.0,
            up=self._machine.up,
            down=self._machine.down,
        )
        addresses = self._presence.addresses
        wire = await GrpcWire.start(self._identity, config, inbox=NoInbox(), addresses=addresses)
        self._stack.push_async_callback(wire.close)
        announced = self._machine.announce
        ours = wire_addresses(
            self._directory, listen_host=host, announce_host=announced, port=wire.listen_port
        )
        wire.reach.relays_of = self._presence.relays
        wire.reach.on_cards({}, ours)
        return wire

    async def _plan(self) -> bool:
        machine, torch = self._machine, self._machine.torch
        own = needs.trainable(machine, self._run.manifest)
        step_s = self._step_s
        is_too_much = any(found.verdict == "fatal" for found in self.findings)
        if not step_s and torch is not None and not torch.problem and not is_too_much:
            self._say("timing a few steps of the run's model")
            step_s = await _timed(own, torch.device)
        cap_bps = machine.up.usual_bps
        self._note(
            speed.utilisation(
                own,
                self._speed,
                peers=1 + len(self._presence.members()),
                step_s=step_s,
                is_capped=self._speed.up_bps > speed.CAPPED_FRAC * cap_bps,
            )
        )
        return False

    def _note(self, findings: Iterable[Finding]) -> None:
        self.findings += findings


async def _timed(manifest: Manifest, device: str) -> float:
    from peer.doctor.step import step_s

    try:
        return await asyncio.to_thread(step_s, manifest, device)
    except (ThinwireError, RuntimeError, ValueError, MemoryError):
        return 0.0  # what is wrong, other checks say
