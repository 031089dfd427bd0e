"""One life of a node of hivemind's DHT, inside our own event loop, on one libp2p daemon of ours.

Only this file and the guard import hivemind. Nothing of it is trusted: a validator checks every
record that is stored or comes back, the storage is bounded, and readers check everything again.
"""

import asyncio
import contextlib
import contextvars
import logging
import math
import random
import socket
import warnings
from collections.abc import Coroutine
from typing import Any, TypeVar

from peer.net.directory_guard import BoundedStorage, RecordValidator, record_key
from peer.net.p2pd import P2pd, maddr_of
from peer.net.record_rules import RecordRules
from peer.net.swarm_clock import SwarmClock
from protocol.errors import TransportError
from protocol.identity import PeerId
from protocol.record import Record
from protocol.ticket import Address

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # importing hivemind uses what torch and others deprecate
    import hivemind.dht.node
    import hivemind.dht.protocol
    import hivemind.dht.routing
    import hivemind.utils.timed_storage
    from hivemind.dht.node import DHTNode
    from hivemind.dht.routing import DHTID
    from hivemind.p2p import P2P, PeerID
    from hivemind.p2p.p2p_daemon_bindings.utils import raise_if_failed, read_pbmsg_safe, write_pbmsg
    from hivemind.proto import dht_pb2, p2pd_pb2
    from hivemind.utils.multiaddr import Multiaddr

logger = logging.getLogger(__name__)
T = TypeVar("T")

OPERATION_S = 15.0
KNOCK_S = 2.0
CONTACT_S = 5.0
PING_S = 3.0
LAST_WORK_S = 1.0
LOST_S = 5.0
"""Who did not answer is asked again so much later, however often it did not answer before."""

_WALL = SwarmClock()
_clock: contextvars.ContextVar[SwarmClock] = contextvars.ContextVar("clock", default=_WALL)


def _swarm_time() -> float:
    return _clock.get().now_unix_s()


def _own_time() -> float:
    return _clock.get().own_unix_s()


# hivemind has the wall clock in module globals. A context, which every task inherits from the one
# that made it, gives each directory in a process its own. hivemind.dht.protocol uses it only to
# answer pings: what we say there is our vote.
for _module in (hivemind.utils.timed_storage, hivemind.dht.routing, hivemind.dht.node):
    _module.get_dht_time = _swarm_time
hivemind.dht.protocol.get_dht_time = _own_time


class DirectoryNode:
    """A DHT node. Make it with `start`; when its daemon dies, make another.

    Attributes:
        daemon: Ours alone.
        dht: hivemind's node.
    """

    def __init__(
        self, daemon: P2pd, rules: RecordRules, storage: BoundedStorage, clock: SwarmClock
    ) -> None:
        self.daemon = daemon
        self.dht: DHTNode
        self._rules = rules
        self._storage = storage
        self._clock = clock
        self._p2p: Any = None
        self._running: set[asyncio.Task[Any]] = set()
        self._context = contextvars.copy_context()
        self._context.run(_clock.set, clock)

    @classmethod
    async def start(
        cls,
        daemon: P2pd,
        our_id: PeerId,
        rules: RecordRules,
        *,
        storage: BoundedStorage,
        cache: BoundedStorage,
        clock: SwarmClock,
    ) -> "DirectoryNode":
        """Returns a node that knows nobody yet.

        Args:
            daemon: Closed together with the node, or now if this fails.
            our_id: Its place among the nodes follows from this, so it comes back to it.
            rules: For what is stored or comes back.
            storage: Where it stores what is stored with it; outlives it.
            cache: Where it stores what others ask it to cache.
            clock: Its time, and what learns from the time that others have.
        """
        node = cls(daemon, rules, storage, clock)
        try:
            await node._as_ours(node._open(our_id, cache))
        except BaseException:
            await node.close()
            raise
        return node

    async def store(self, record: Record, data: bytes) -> bool:
        """Stores a record of ours; returns whether anybody took it.

        Raises:
            TransportError: it took too long, or hivemind failed.
        """
        key = record_key(self._rules.run_id, record.topic)
        work = self.dht.store(key, data, record.expires_unix_s, subkey=record.owner)
        return bool(await self._in_time(work, f"storing our record under {record.topic!r}"))

    async def find(self, topic: str) -> dict[object, object]:
        """Returns what there is under a topic, by owner; neither can be trusted yet.

        Raises:
            TransportError: it took too long, or hivemind failed.
        """

        async def find() -> dict[object, object]:
            key = record_key(self._rules.run_id, topic)
            # "Sufficient" must be what no answer reaches, not even a lie about infinity: the
            # search would end there, and one peer could hide all others.
            found = await self.dht.get_many([key], sufficient_expiration_time=math.nan)
            # The search merged what it found into the storage's own dictionary.
            self._storage.trim()
            values = found[key].value if found[key] is not None else {}
            if not isinstance(values, dict):
                return {}
            return {owner: getattr(item, "value", None) for owner, item in values.items()}

        return await self._in_time(find(), f"reading {topic!r}")

    @property
    def neighbours(self) -> frozenset[PeerId]:
        """The nodes that we know, and that answered when we last asked."""
        return frozenset(PeerId(str(p)) for p in self.dht.protocol.routing_table.peer_id_to_uid)

    async def contact(self, address: Address) -> bool:
        """Asks whoever listens at an address to know us; returns whether that peer answered."""
        try:
            return await self._as_ours(self._contact(address))
        except Exception as error:  # noqa: BLE001 - boundary: hivemind may raise anything
            logger.debug("%s does not answer: %r", address, error)
            return False

    async def ping_some(self, count: int) -> None:
        """Asks a few of the nodes that we know for the time."""
        known = list(self.dht.protocol.routing_table.peer_id_to_uid)
        some = random.sample(known, min(count, len(known)))
        await asyncio.gather(
            *(self._as_ours(self._ping(peer)) for peer in some), return_exceptions=True
        )

    async def mingle(self) -> None:
        """Meets the nodes near us, through those that we know; then they know us, too."""
        with contextlib.suppress(TransportError):
            await self._in_time(self.dht.find_nearest_nodes([self.dht.node_id]), "meeting others")

    async def is_alive(self) -> bool:
        """Returns whether the daemon answers."""
        try:
            async with asyncio.timeout(PING_S):
                await self._ask_daemon(p2pd_pb2.Request(type=p2pd_pb2.Request.IDENTIFY))
        except Exception as error:  # noqa: BLE001 - boundary: it may answer with anything
            logger.debug("the libp2p daemon does not answer: %r", error)
            return False
        return True

    async def close(self) -> None:
        """Ends node and daemon; afterwards no process or socket of ours is left.

        Whoever waits for an answer of the node is told that there will be none.
        """
        if hasattr(self, "dht") and self._p2p is not None:
            self.dht.is_alive = False  # its shutdown() asks the daemon, which is about to end
            # Searches leave tasks behind when they are cancelled, but not when nobody answers.
            self.dht.protocol.wait_timeout = 0
            for call in self._p2p._client.control._pending_calls.values():
                if not call.done():
                    call.set_exception(ConnectionError("the libp2p daemon is about to end"))
            if self._running:
                await asyncio.wait(self._running, timeout=LAST_WORK_S)
        running = tuple(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        p2p, self._p2p = self._p2p, None
        if p2p is not None:
            control = p2p._client.control
            tasks = [control._read_task, control._write_task, p2p._listen_task]
            await p2p.shutdown()  # cancels its tasks, but does not wait for them
            await asyncio.gather(*(t for t in tasks if t is not None), return_exceptions=True)
        await self.daemon.close()

    async def _open(self, our_id: PeerId, cache: BoundedStorage) -> None:
        run_dir, socket_path = self.daemon.run_dir, self.daemon.socket_path
        # A class of its own, since hivemind keeps the folder of its sockets in a class attribute.
        private: Any = type("PrivateP2P", (P2P,), {"_UNIX_SOCKET_PREFIX": f"/unix{run_dir}/"})
        self._p2p = await private.replicate(Multiaddr(f"/unix{socket_path}"))
        self.dht = await DHTNode.create(
            p2p=self._p2p,
            node_id=DHTID.generate(our_id),
            record_validator=RecordValidator(self._rules, self._clock),
            ensure_bootstrap_success=False,
            strict=False,
            blacklist_time=LOST_S,
            backoff_rate=1.0,
            # Caches would answer with old records, and are one more place to fill.
            cache_locally=False,
            cache_nearest=0,
            cache_on_store=False,
            cache_refresh_before_expiry=0,
            reuse_get_requests=False,
        )
        self.dht.protocol.storage = self._storage
        self.dht.protocol.cache = cache

    async def _contact(self, address: Address) -> bool:
        peer_id = PeerID.from_base58(address.peer_id)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(KNOCK_S + CONTACT_S):
            found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
            hosts = {str(entry[4][0]) for entry in found}
            # libp2p shuns an address that did not answer, longer each time, up to five minutes.
            # So it is told only of those where somebody listens.
            async with asyncio.timeout(KNOCK_S):
                is_open = await asyncio.gather(*(_is_open(host, address.port) for host in hosts))
            listening = [host for host, yes in zip(hosts, is_open, strict=True) if yes]
            if not listening:
                return False
            maddrs = [Multiaddr(maddr_of(host, address.port)) for host in listening]
            await self._ask_daemon(
                p2pd_pb2.Request(
                    type=p2pd_pb2.Request.CONNECT,
                    connect=p2pd_pb2.ConnectRequest(
                        peer=peer_id.to_bytes(), addrs=[maddr.to_bytes() for maddr in maddrs]
                    ),
                )
            )
            return await self._ping(peer_id)

    async def _ping(self, peer_id: PeerID) -> bool:
        protocol = self.dht.protocol
        asked_s = self._clock.steady_s()
        request = dht_pb2.PingRequest(peer=protocol.node_info)
        answer = await protocol.get_stub(peer_id).rpc_ping(request, timeout=PING_S)
        if self._clock.learn(PeerId(str(peer_id)), answer.dht_time, asked_s=asked_s):
            # What was stored and shunned by another time would stay for too long, or for ever.
            self._storage.clear()
            self.dht.blacklist.clear()
        self.dht.blacklist.register_success(peer_id)
        node_id = DHTID.from_bytes(answer.peer.node_id)
        await protocol.update_routing_table(node_id, peer_id, responded=True)
        return True

    async def _ask_daemon(self, request: Any) -> None:
        # hivemind's own client leaves its socket open when it is cancelled.
        reader, writer = await asyncio.open_unix_connection(str(self.daemon.socket_path))
        try:
            await write_pbmsg(writer, request)
            answer = p2pd_pb2.Response()
            await read_pbmsg_safe(reader, answer)
            raise_if_failed(answer)
        finally:
            writer.close()

    async def _in_time(self, work: Coroutine[Any, Any, T], what: str) -> T:
        try:
            return await self._as_ours(work)
        except TimeoutError:
            raise TransportError(f"{what} took too long") from None
        except Exception as error:
            raise TransportError(f"{what} failed: {error!r}") from error

    async def _as_ours(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs hivemind's code under our clock; it goes on even if nobody waits for it any more."""
        task = asyncio.get_running_loop().create_task(work, context=self._context)
        self._running.add(task)
        task.add_done_callback(self._on_done)
        done, _ = await asyncio.wait({task}, timeout=OPERATION_S)
        if not done:
            raise TimeoutError
        if task.cancelled():  # by `close`; whoever waits is not cancelled
            raise ConnectionError("the node is being closed")
        return task.result()

    def _on_done(self, task: "asyncio.Task[Any]") -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # perhaps nobody else asks for it


async def _is_open(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
