"""What every wire must do in a run with domains, over sockets and in memory."""

from dataclasses import replace
from typing import Any

import pytest

from protocol.errors import NotAvailable, RemoteError
from protocol.machine import BlobRef
from protocol.messages import Ready
from tests.blobs import BytesSource, fetched

NOTE = Ready(fragment=0, round=3, tokens=7, anchor_digest=b"d" * 32)
STATE = BlobRef("state", 0, b"e" * 16)


async def test_notes_go_from_peer_to_peer_of_one_domain(wires: Any) -> None:
    a, b = await wires.start(domain="law"), await wires.start(domain="law")
    await a.wire.send(b.peer_id, NOTE)
    assert await b.inbox.notes.get() == (a.peer_id, NOTE)


@pytest.mark.parametrize(("ours", "theirs"), [("law", "math"), ("law", ""), ("", "law")])
async def test_notes_for_another_domain_are_refused_and_the_peer_is_not(
    ours: str, theirs: str, wires: Any
) -> None:
    a, b = await wires.start(domain=ours), await wires.start(domain=theirs)
    with pytest.raises(RemoteError, match="does not train in that domain"):
        await a.wire.send(b.peer_id, NOTE)
    assert b.inbox.notes.empty()
    b.inbox.blobs[replace(STATE, domain="wiki")] = BytesSource(b"kept")
    assert await fetched(a.wire, b.peer_id, replace(STATE, domain="wiki"), 4) == b"kept"
    await a.wire.ping(b.peer_id, wait_s=5.0)


async def test_a_fetch_says_of_which_domain_and_without_saying_it_is_ours(wires: Any) -> None:
    a, b = await wires.start(domain="law"), await wires.start(domain="math")
    for domain in ("law", "math", "wiki"):
        b.inbox.blobs[replace(STATE, domain=domain)] = BytesSource(domain.encode())
    assert await fetched(a.wire, b.peer_id, STATE, 3) == b"law"
    for domain in ("law", "math", "wiki"):
        ref = replace(STATE, domain=domain)
        assert await fetched(a.wire, b.peer_id, ref, len(domain)) == domain.encode()
    with pytest.raises(NotAvailable):
        await fetched(a.wire, b.peer_id, replace(STATE, domain="cooking"), 1)


async def test_who_trains_nowhere_fetches_from_those_who_keep_something(wires: Any) -> None:
    a, b = await wires.start(), await wires.start(domain="math")
    b.inbox.blobs[replace(STATE, domain="law")] = BytesSource(b"kept")
    assert await fetched(a.wire, b.peer_id, replace(STATE, domain="law"), 4) == b"kept"


async def test_another_domain_may_have_more_fragments_than_ours(wires: Any) -> None:
    a, b = await wires.start(domain="law"), await wires.start(domain="law")
    ref = BlobRef("state", 7, b"e" * 16, domain="math")
    b.inbox.blobs[ref] = BytesSource(b"kept")
    assert await fetched(a.wire, b.peer_id, ref, 4) == b"kept"
    with pytest.raises((RemoteError, NotAvailable)):
        await fetched(a.wire, b.peer_id, replace(ref, domain="law"), 4)


async def test_in_a_run_without_domains_nobody_speaks_of_them(wires: Any) -> None:
    a, b = await wires.start(), await wires.start()
    b.inbox.blobs[STATE] = BytesSource(b"state")
    assert await fetched(a.wire, b.peer_id, STATE, 5) == b"state"
    assert STATE.domain == ""
