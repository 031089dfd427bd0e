"""The directory over hivemind's DHT, inside our own event loop, on a libp2p daemon of our own.

Only this file and its guard import hivemind. Nothing of it is trusted: a validator checks every
record that is stored or comes back, the storage is bounded, and readers check everything again.
"""

import asyncio
import contextlib
import logging
import math
import socket
import warnings
from collections.abc import Sequence
from typing import Any

from peer.net.directory_guard import BoundedStorage, RecordValidator, node_key, record_key
from peer.net.p2pd import P2pd, maddr_of
from peer.net.record_rules import TOPICS, RecordRules
from protocol.errors import RemoteError, TransportError
from protocol.identity import Identity, PeerId
from protocol.manifest import RunId
from protocol.record import Record
from protocol.ticket import Address

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # importing hivemind uses what torch and others deprecate
    from hivemind.dht.node import DHTNode
    from hivemind.p2p import P2P, PeerID
    from hivemind.utils.multiaddr import Multiaddr
    from hivemind.utils.timed_storage import get_dht_time

logger = logging.getLogger(__name__)

_CONTACT_S = 5.0
_REPING_S = 10.0
_OPERATION_S = 15.0


class HivemindDirectory:
    """Implements `peer.ports.Directory`. Make it with `start`."""

    def __init__(
        self, identity: Identity, rules: RecordRules, *, daemon: P2pd, bootstrap: Sequence[Address]
    ) -> None:
        self._identity = identity
        self._rules = rules
        self._daemon = daemon
        self._bootstrap = [a for a in bootstrap if a.peer_id != identity.peer_id]
        self._own: dict[str, Record] = {}
        self._p2p: P2P | None = None
        self._node: DHTNode | None = None
        self._storage = self._new_storage()
        self._multiaddrs = tuple(f"{maddr}/p2p/{identity.peer_id}" for maddr in daemon.maddrs)
        self._keep_contact: asyncio.Task[None] | None = None
        self._has_joined = not self._bootstrap

    @classmethod
    async def start(
        cls,
        identity: Identity,
        run_id: RunId,
        *,
        listen_host: str = "127.0.0.1",
        listen_port: int = 0,
        announce_host: str | None = None,
        bootstrap: Sequence[Address] = (),
        max_records: int = 256,
        topics: Sequence[str] = TOPICS,
    ) -> "HivemindDirectory":
        """Returns a directory that listens, and has tried to meet others.

        Call it in a thread that lives as long as the directory shall.

        Args:
            identity: signs our records, and is our libp2p identity.
            run_id: whose records are stored and read.
            listen_host: an IP address; "0.0.0.0" for all.
            listen_port: 0 for any.
            announce_host: the IP address that others reach us at, if it is another one.
            bootstrap: where to enter. They are tried again in the background, so none of them needs
                to answer now.
            max_records: how many owners a topic may have.
            topics: the only ones that exist, besides rooms.

        Raises:
            ConfigError: cannot listen there.
        """
        daemon = await P2pd.start(
            identity,
            listen_host=listen_host,
            listen_port=listen_port,
            announce_host=announce_host,
        )
        rules = RecordRules(run_id, topics=topics, max_records=max_records)
        directory = cls(identity, rules, daemon=daemon, bootstrap=bootstrap)
        try:
            await directory._open()
        except BaseException:
            await directory.close()
            raise
        return directory

    @property
    def daemon_pid(self) -> int:
        """The process whose sockets are ours too."""
        return self._daemon.pid

    async def publish(self, topic: str, payload: bytes, *, lifetime_s: float) -> None:
        """Sets our own record under `topic`, until `lifetime_s` from now.

        It is not renewed: publish again before it expires.

        Raises:
            LimitExceeded: the payload is too large, or would live too long.
            TransportError: nobody could store it; try again later.
        """
        node = self._open_node()
        record, data = self._rules.sign(
            self._identity,
            topic,
            payload,
            lifetime_s=lifetime_s,
            now_unix_s=get_dht_time(),
            previous=self._own.get(topic),
        )
        self._own[topic] = record
        key, expires = record_key(self._rules.run_id, topic), record.expires_unix_s
        try:
            async with asyncio.timeout(_OPERATION_S):
                is_stored = await node.store(key, data, expires, subkey=record.owner)
        except TimeoutError:
            raise TransportError(f"storing our record under {topic!r} took too long") from None
        self._check_contact()
        if not is_stored:
            raise TransportError(f"nobody stored our record under {topic!r}")

    async def read(self, topic: str) -> list[Record]:
        """Returns every valid, living record under `topic`, by owner; our own included.

        Raises:
            TransportError: nobody could be asked.
        """
        node = self._open_node()
        self._rules.check_topic(topic)
        self._check_contact()
        key = record_key(self._rules.run_id, topic)
        try:
            async with asyncio.timeout(_OPERATION_S):
                # "Sufficient" must be what no answer reaches, not even a lie about infinity: the
                # search would end there, and one peer could hide all others.
                found = await node.get_many([key], sufficient_expiration_time=math.nan)
        except TimeoutError:
            raise TransportError(f"reading {topic!r} took too long") from None
        # The search merged what it found into the storage's own dictionary.
        self._storage.trim()
        values = found[key].value if found[key] is not None else {}
        records = self._valid(topic, values if isinstance(values, dict) else {})
        return [records[owner] for owner in sorted(records)]

    def multiaddrs(self) -> Sequence[str]:
        """Returns libp2p addresses at which others can enter the directory through us."""
        return self._multiaddrs

    async def close(self) -> None:
        """Leaves; afterwards no process or socket of ours is left."""
        if self._keep_contact is not None:
            self._keep_contact.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keep_contact
        node, self._node = self._node, None
        p2p, self._p2p = self._p2p, None
        if node is not None:
            node.is_alive = False  # its shutdown() asks the daemon, which we are about to kill
        if p2p is not None:
            control = p2p._client.control
            tasks = [control._read_task, control._write_task, p2p._listen_task]
            await p2p.shutdown()  # cancels its tasks, but does not wait for them
            await asyncio.gather(*(t for t in tasks if t is not None), return_exceptions=True)
        await self._daemon.close()

    async def _open(self) -> None:
        run_dir, socket_path = self._daemon.run_dir, self._daemon.socket_path
        # A class of its own, since hivemind keeps the folder of its sockets in a class attribute.
        private: Any = type("PrivateP2P", (P2P,), {"_UNIX_SOCKET_PREFIX": f"/unix{run_dir}/"})
        self._p2p = await private.replicate(Multiaddr(f"/unix{socket_path}"))
        self._node = await DHTNode.create(
            p2p=self._p2p,
            record_validator=RecordValidator(self._rules),
            ensure_bootstrap_success=False,
            strict=False,
            # Caches would answer with old records, and are one more place to fill.
            cache_locally=False,
            cache_nearest=0,
            cache_on_store=False,
            cache_refresh_before_expiry=0,
            reuse_get_requests=False,
        )
        self._node.protocol.storage = self._storage
        self._node.protocol.cache = self._new_storage()
        if self._bootstrap:
            if not await self._contact():
                logger.warning(
                    "none of %d bootstrap addresses answers; trying on in the background",
                    len(self._bootstrap),
                )
            self._keep_contact = asyncio.create_task(self._contact_for_ever())

    def _new_storage(self) -> BoundedStorage:
        lasting = [node_key(self._rules.run_id, topic) for topic in self._rules.topics]
        return BoundedStorage(self._rules.max_records, lasting)

    async def _contact_for_ever(self) -> None:
        # Peers that started at once, or were split, find each other again through this.
        while True:
            await asyncio.sleep(_REPING_S if self._has_joined else 1.0)
            try:
                await self._contact()
            except Exception as error:  # noqa: BLE001 - boundary: hivemind may raise anything
                logger.debug("contacting bootstrap peers: %r", error)

    async def _contact(self) -> bool:
        """Pings all bootstrap peers; returns whether one answered."""
        node = self._open_node()
        async with asyncio.TaskGroup() as group:
            pings = [group.create_task(self._ping(node, address)) for address in self._bootstrap]
        has_answer = any(ping.result() for ping in pings)
        if has_answer and not self._has_joined:
            self._has_joined = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CONTACT_S):
                    await node.find_nearest_nodes([node.node_id])  # meets everybody's neighbours
            logger.info("the directory is joined")
        return has_answer

    async def _ping(self, node: DHTNode, address: Address) -> bool:
        peer_id = PeerID.from_base58(address.peer_id)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONTACT_S):
                found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
                maddrs = [Multiaddr(maddr_of(str(entry[4][0]), address.port)) for entry in found]
                await node.p2p._client.connect(peer_id, maddrs)
                return await node.protocol.call_ping(peer_id) is not None
        except Exception as error:  # noqa: BLE001 - boundary: hivemind may raise anything
            logger.debug("bootstrap peer %s does not answer: %r", address.peer_id, error)
            return False

    def _valid(self, topic: str, values: dict[object, object]) -> dict[PeerId, Record]:
        records: dict[PeerId, Record] = {}
        own = self._own.get(topic)
        if own is not None and own.expires_unix_s > get_dht_time():
            records[own.owner] = own
        for owner, item in values.items():
            data = getattr(item, "value", None)
            if owner in records or not isinstance(owner, str) or not isinstance(data, bytes):
                continue
            if len(records) >= self._rules.max_records:
                break
            with contextlib.suppress(RemoteError):
                record = self._rules.parse(topic, owner, data, now_unix_s=get_dht_time())
                records[record.owner] = record
        return records

    def _open_node(self) -> DHTNode:
        if self._node is None:
            raise TransportError("the directory is closed")
        return self._node

    def _check_contact(self) -> None:
        if not self._has_joined:
            raise TransportError("no peer of the directory has answered yet")
