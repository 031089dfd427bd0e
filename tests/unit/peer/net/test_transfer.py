import array
import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.net import frames, transfer
from peer.ports import Blob
from protocol.errors import NotAvailable, RemoteError, TransportError
from protocol.machine import BlobRef


async def _sent(blob: Blob, *, offset: int = 0, chunk_bytes: int = 100) -> list[bytes]:
    messages: list[bytes] = []

    async def write(message: bytes) -> None:
        messages.append(message)

    await transfer.send_blob(write, blob, offset=offset, chunk_bytes=chunk_bytes, progress_s=1)
    return messages


async def _received(messages: list[bytes], *, max_bytes: int = 10_000) -> Blob:
    stream = iter(messages)

    async def read() -> bytes | None:
        return next(stream, None)

    return await transfer.receive_blob(
        read, max_bytes=max_bytes, chunk_bytes=100, progress_s=1, header_s=1
    )


@given(data=st.binary(max_size=1000))
def test_what_is_sent_is_received(data: bytes) -> None:
    async def scenario() -> None:
        blob = await _received(await _sent(Blob(memoryview(data), round=5)))
        assert bytes(blob.data) == data
        assert blob.round == 5

    asyncio.run(scenario())


@given(messages=st.lists(st.binary(max_size=110), max_size=5))
def test_whatever_comes_only_our_errors_are_raised(messages: list[bytes]) -> None:
    async def scenario() -> None:
        with pytest.raises((RemoteError, TransportError)):
            await _received([b"H\x08\x96\x01", *messages])  # 150 bytes

    asyncio.run(scenario())


@given(data=st.binary(min_size=1, max_size=300), where=st.integers(0), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(data: bytes, where: int, bit: int) -> None:
    async def scenario() -> None:
        messages = await _sent(Blob(memoryview(data)))
        chunk = messages[1 + where % (len(messages) - 2)]
        at = 1 + where % (len(chunk) - 1)
        flipped = chunk[:at] + bytes([chunk[at] ^ 1 << bit]) + chunk[at + 1 :]
        messages[messages.index(chunk)] = flipped
        with pytest.raises(RemoteError, match="hash does not fit"):
            await _received(messages)

    asyncio.run(scenario())


async def test_every_chunk_but_the_last_is_full() -> None:
    messages = await _sent(Blob(memoryview(bytes(250))))
    assert [len(message) - 1 for message in messages[1:-1]] == [100, 100, 50]


async def test_a_blob_of_other_items_than_bytes_is_sent_as_bytes() -> None:
    floats = array.array("f", [1.0, 2.0])
    blob = await _received(await _sent(Blob(memoryview(floats))))
    assert bytes(blob.data) == floats.tobytes()


async def test_from_an_offset_the_trailer_is_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(range(250))
    whole = await _sent(Blob(memoryview(data)))
    for limit in (1 << 20, 10):  # the prefix is hashed in the loop, or beside it
        monkeypatch.setattr(transfer, "_HASH_IN_LOOP_BYTES", limit)
        rest = await _sent(Blob(memoryview(data)), offset=100)
        assert rest == [whole[0], *whole[2:]]
    assert await _sent(Blob(memoryview(data)), offset=250) == [whole[0], whole[-1]]


async def test_a_stalled_receiver_is_given_up() -> None:
    async def write(message: bytes) -> None:
        await asyncio.sleep(10)

    with pytest.raises(TransportError, match=r"took nothing for 0\.05 s"):
        await transfer.send_blob(
            write, Blob(memoryview(b"x")), offset=0, chunk_bytes=100, progress_s=0.05
        )


async def test_a_refusal_carries_its_reason() -> None:
    messages: list[bytes] = []

    async def write(message: bytes) -> None:
        messages.append(message)

    await transfer.send_refusal(write, "not any more")
    with pytest.raises(NotAvailable, match="not any more"):
        await _received(messages)


@given(data=st.binary(max_size=80))
def test_a_request_is_parsed_or_refused(data: bytes) -> None:
    try:
        ref, _ = frames.parse_request(data, num_fragments=4, max_peers=8)
    except RemoteError:
        return
    assert ref.kind in frames.BLOB_KINDS


def test_a_request_names_its_blob() -> None:
    ref = BlobRef("average", 3, b"e" * 16, 7)
    data = frames.request_of(ref, offset=99)
    assert frames.parse_request(data, num_fragments=4, max_peers=8) == (ref, 99)


@pytest.mark.parametrize(
    "ref",
    [
        BlobRef("secret"),
        BlobRef("part", fragment=4),
        BlobRef("part", part=8),
        BlobRef("part", exchange_id=b"short"),
    ],
    ids=["kind", "fragment", "part", "exchange id"],
)
def test_a_request_for_what_no_run_has_is_refused(ref: BlobRef) -> None:
    with pytest.raises(RemoteError):
        frames.parse_request(frames.request_of(ref), num_fragments=4, max_peers=8)
