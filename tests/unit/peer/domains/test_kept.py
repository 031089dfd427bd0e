"""Domains' states on a disk: written, replaced, damaged, and given to others."""

import asyncio
import tempfile
from pathlib import Path

import pytest
import torch
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from optim.layout import layout_of, shapes_of
from peer.domains import kept
from peer.domains.kept import KEPT, DomainState, FragmentState, KeptStates, kept_experts, state_of
from peer.method import mixing_of
from peer.pins import PIN_S
from peer.sim.clock import VirtualClock
from peer.sim.loop import VirtualLoop
from protocol.card import Kept
from protocol.domains import domain_manifest
from protocol.errors import ConfigError, NotAvailable
from protocol.identity import PeerId
from protocol.lineage import EMPTY, MAX_ENTRIES
from protocol.machine import BlobRef
from protocol.state_index import BLOCK_BYTES, parse_index
from tests.unit.peer.domains.small_run import (
    METHODS,
    RUN,
    TOTAL_STEPS,
    bits_of,
    data_of,
    final_state,
    run_of,
    state_at,
)
from tests.unit.peer.small_disk import a_small_disk, fill


def file_of(folder: Path, domain: str) -> Path:
    return folder / KEPT / f"{domain}.safetensors"


@pytest.mark.parametrize("domain", METHODS)
async def test_a_state_comes_back_to_the_bit_in_this_life_and_the_next(
    domain: str, tmp_path: Path
) -> None:
    states = KeptStates(tmp_path, RUN)
    state = state_at(domain, 240)
    await states.keep(domain, state)
    for again in (states, KeptStates(tmp_path, RUN)):
        assert bits_of(await again.load(domain)) == bits_of(state)
        assert again.cards() == (Kept(domain, state.round, 240, is_final=False),)
        assert (again.step(domain), again.is_final(domain)) == (240, False)
    assert [path.name for path in (tmp_path / KEPT).iterdir()] == [f"{domain}.safetensors"]


async def test_strange_bits_and_a_long_past_come_back_too(tmp_path: Path) -> None:
    """NaNs with a payload, negative zeros, and a lineage that fills its place."""
    (first,) = state_at("law", 20).fragments
    bits = torch.randint(-(1 << 31), 1 << 31, first.vectors[0].shape)
    strange = bits.to(torch.int32).view(torch.float32)
    strange[0] = -0.0
    lineage = EMPTY
    for round in range(MAX_ENTRIES + 30):
        lineage = lineage.landed(round + 1, bytes([round % 256]) * 32, tokens=1 << 40)
    fragment = FragmentState(
        MAX_ENTRIES + 40, first.anchor_digest, lineage, [strange, *first.vectors[1:]]
    )
    state = DomainState(60, False, [fragment])
    await KeptStates(tmp_path, RUN).keep("law", state)
    assert bits_of(await KeptStates(tmp_path, RUN).load("law")) == bits_of(state)


async def test_a_domains_round_is_that_of_the_fragment_that_is_least_far(tmp_path: Path) -> None:
    early, late = state_at("math", 100), state_at("math", 200)
    mixed = DomainState(200, False, [late.fragments[0], early.fragments[1], late.fragments[2]])
    states = KeptStates(tmp_path, RUN)
    await states.keep("math", mixed)
    assert states.cards()[0].round == mixed.round == early.round < late.round


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([20, 40, 60, 80]), st.booleans()), min_size=1))
def test_a_newer_state_replaces_an_older_one_and_what_is_final_stays(
    came: list[tuple[int, bool]],
) -> None:
    async def keep_all() -> DomainState:
        states = KeptStates(Path(folder), RUN)
        for draw, (step, is_final) in enumerate(came):
            await states.keep("law", state_at("law", step, is_final=is_final, draw=draw))
        assert states.cards() == KeptStates(Path(folder), RUN).cards()
        return await states.load("law")

    finals = [(draw, step) for draw, (step, is_final) in enumerate(came) if is_final]
    farthest = max(step for step, _ in came)
    firsts = [(draw, step) for draw, (step, _) in enumerate(came) if step == farthest]
    draw, step = best_final(finals) if finals else firsts[0]
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(keep_all())
    assert bits_of(found) == bits_of(state_at("law", step, is_final=bool(finals), draw=draw))


def best_final(finals: list[tuple[int, int]]) -> tuple[int, int]:
    """Two that are final are of one step, but for liars'; then the farther one stays."""
    farthest = max(step for _, step in finals)
    return next(each for each in finals if each[1] == farthest)


async def test_what_is_no_state_of_this_run_is_ignored_and_named(tmp_path: Path) -> None:
    await KeptStates(tmp_path, RUN).keep("law", state_at("law", 20))
    path = file_of(tmp_path, "law")
    whole = path.read_bytes()
    damaged = [whole[:length] for length in (0, 7, 100, len(whole) // 2, len(whole) - 1)]
    damaged += [b"\xff" * 64, b"\0" * 4096, whole[:8] + b"[" * 99, whole + b"more"]
    for data in damaged:
        path.write_bytes(data)
        states = KeptStates(tmp_path, RUN)
        assert states.cards() == ()
        with pytest.raises(ConfigError, match=r"law\.safetensors"):
            await states.load("law")
        await states.keep("law", state_at("law", 20))
        assert path.read_bytes() == whole
    path.unlink()
    path.mkdir()
    assert KeptStates(tmp_path, RUN).cards() == ()


async def test_another_runs_state_is_none(tmp_path: Path) -> None:
    others = run_of(seed=7)
    await KeptStates(tmp_path, others).keep("law", state_at("law", 20, run=others))
    states = KeptStates(tmp_path, RUN)
    assert states.cards() == ()
    with pytest.raises(ConfigError, match=r"law\.safetensors is of another run"):
        await states.load("law")
    await states.keep("law", state_at("law", 40))
    file_of(tmp_path, "law").rename(file_of(tmp_path, "seed"))  # of another domain
    assert KeptStates(tmp_path, RUN).cards() == ()


@pytest.mark.parametrize("where", [0.2, 0.6, 0.97])
async def test_a_byte_that_the_disk_changed_is_found_before_anybody_trains_from_it(
    where: float, tmp_path: Path
) -> None:
    states = KeptStates(tmp_path, RUN)
    await states.keep("math", state_at("math", 20))
    path = file_of(tmp_path, "math")
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= 1
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"math\.safetensors is damaged"):
        await states.load("math")
    assert states.cards() == (), "it is nobody's copy any more"
    await states.keep("math", state_at("math", 20))
    assert bits_of(await states.load("math")) == bits_of(state_at("math", 20))


async def test_a_full_disk_leaves_the_old_one(tmp_path: Path) -> None:
    with a_small_disk(tmp_path / "disk") as disk:
        states = KeptStates(disk, RUN)
        await states.keep("law", state_at("law", 20))
        filler = fill(disk, but_bytes=30_000)
        with pytest.raises(ConfigError, match="No space left"):
            await states.keep("law", state_at("law", 40))
        for again in (states, KeptStates(disk, RUN)):
            assert again.step("law") == 20
            assert bits_of(await again.load("law")) == bits_of(state_at("law", 20))
        filler.unlink()
        await states.keep("law", state_at("law", 40))
        assert bits_of(await states.load("law")) == bits_of(state_at("law", 40))


async def test_what_a_crash_left_unfinished_is_removed(tmp_path: Path) -> None:
    await KeptStates(tmp_path, RUN).keep("law", state_at("law", 20))
    (tmp_path / KEPT / ".law-4711").write_bytes(b"half a state")
    states = KeptStates(tmp_path, RUN)
    assert [path.name for path in (tmp_path / KEPT).iterdir()] == ["law.safetensors"]
    assert states.step("law") == 20


@pytest.mark.parametrize("domain", METHODS)
async def test_others_get_it_by_its_index_block_by_checked_block(
    domain: str, tmp_path: Path
) -> None:
    states, state = KeptStates(tmp_path, RUN), state_at(domain, 100)
    await states.keep(domain, state)
    for fragment, expected in enumerate(state.fragments):
        packed = await states.blob(BlobRef("index", fragment, domain=domain))
        index = parse_index(await data_of(packed))
        assert packed.round == index.round == expected.round
        assert (index.anchor_digest, index.lineage) == (expected.anchor_digest, expected.lineage)
        by_name = await states.blob(BlobRef("index", fragment, index.name, domain=domain))
        assert await data_of(by_name) == await data_of(packed)
        source = await states.blob(BlobRef("state", fragment, index.name, domain=domain))
        data = await data_of(source)
        assert data == b"".join(v.numpy().tobytes() for v in expected.vectors)
        for block, digest in enumerate(index.blocks):
            start = block * BLOCK_BYTES
            piece = await source.read(start, min(start + BLOCK_BYTES, source.size_bytes))
            assert blake3(piece).digest() == digest


WRONG = [
    BlobRef("state", 0, b"n" * 16, domain="law"),
    BlobRef("index", 0, b"n" * 16, domain="law"),
    BlobRef("index", 1, domain="law"),
    BlobRef("state", 1023, domain="law"),
    BlobRef("part", 0, domain="law"),
    BlobRef("average", 0, b"n" * 16, domain="law"),
    BlobRef("index", 0, domain="math"),
    BlobRef("index", 0, domain="cooking"),
    BlobRef("index", 0, domain="../law"),
    BlobRef("index", 0),
]


@pytest.mark.parametrize("ref", WRONG, ids=str)
async def test_nobody_gets_what_is_not_here(ref: BlobRef, tmp_path: Path) -> None:
    states = KeptStates(tmp_path, RUN)
    await states.keep("law", state_at("law", 20))
    with pytest.raises(NotAvailable):
        await states.blob(ref)


class Reads:
    """Counts how often a state is read from the disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        read_state = kept.read_state

        def counted(*arguments: object) -> DomainState:
            self.count += 1
            return read_state(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(kept, "read_state", counted)


async def test_nothing_is_read_before_somebody_asks_and_then_once_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await KeptStates(tmp_path, RUN).keep("law", state_at("law", 20))
    reads = Reads(monkeypatch)
    states = KeptStates(tmp_path, RUN)
    assert states.cards()
    with pytest.raises(NotAvailable):
        await states.blob(BlobRef("part", domain="law"))
    assert reads.count == 0
    await asyncio.gather(*(states.blob(BlobRef("index", domain="law")) for _ in range(5)))
    await states.blob(BlobRef("index", domain="law"))
    assert reads.count == 1


async def test_who_gave_up_waiting_for_a_large_state_finds_it_when_it_asks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = KeptStates(tmp_path, RUN)
    await states.keep("law", state_at("law", 20))
    reads = Reads(monkeypatch)
    asking = asyncio.create_task(states.blob(BlobRef("index", domain="law")))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await states.blob(BlobRef("index", domain="law"))
    assert reads.count == 1


async def test_a_copy_that_turns_out_damaged_is_listed_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    states = KeptStates(tmp_path, RUN)
    await states.keep("law", final_state("law"))
    path = file_of(tmp_path, "law")
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(NotAvailable, match=r"^our copy is damaged$"):  # where it lies is ours
        await states.blob(BlobRef("index", domain="law"))
    assert states.cards() == ()
    assert not states.is_final("law")
    assert str(path) in caplog.text


def test_memory_is_free_again_when_nobody_has_asked_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = VirtualLoop(VirtualClock())  # type: ignore[abstract]

    async def ask_again_and_again() -> list[int]:
        states = KeptStates(tmp_path, RUN)
        await states.keep("law", state_at("law", 20))
        counts = []
        for pause_s in (0.0, 0.9 * PIN_S, 0.9 * PIN_S, 1.1 * PIN_S):
            await asyncio.sleep(pause_s)
            states.expire(loop.time())
            await states.blob(BlobRef("index", domain="law"))
            counts.append(reads.count)
        return counts

    reads = Reads(monkeypatch)
    assert loop.run_until_complete(ask_again_and_again()) == [1, 1, 1, 2]


async def test_who_fetches_a_state_is_not_disturbed_when_a_newer_one_takes_its_place(
    tmp_path: Path,
) -> None:
    states, old, new = KeptStates(tmp_path, RUN), state_at("law", 20), state_at("law", 40)
    await states.keep("law", old)
    index = parse_index(await data_of(await states.blob(BlobRef("index", domain="law"))))
    under_way = await states.blob(BlobRef("state", 0, index.name, domain="law"))
    await asyncio.gather(
        states.keep("law", new), *(states.blob(BlobRef("index", domain="law")) for _ in range(3))
    )
    (fragment,) = old.fragments
    expected = b"".join(v.numpy().tobytes() for v in fragment.vectors)
    assert await data_of(under_way) == expected
    newer = parse_index(await data_of(await states.blob(BlobRef("index", domain="law"))))
    assert newer.anchor_digest == new.fragments[0].anchor_digest
    with pytest.raises(NotAvailable):
        await states.blob(BlobRef("state", 0, index.name, domain="law"))


async def test_two_copies_that_come_at_once_leave_the_farther_one(tmp_path: Path) -> None:
    states = KeptStates(tmp_path, RUN)
    steps = (40, 200, 100, 60)
    await asyncio.gather(*(states.keep("law", state_at("law", step)) for step in steps))
    assert bits_of(await states.load("law")) == bits_of(state_at("law", 200))


@pytest.mark.parametrize("domain", METHODS)
def test_the_state_of_the_domain_that_we_train_is_what_the_mixing_has(domain: str) -> None:
    mixing = mixing_of(domain_manifest(RUN, domain), PeerId("we"))
    state = state_of(mixing.outer, step=40, is_final=False)
    assert (state.step, state.is_final, state.round) == (40, False, 0)
    for fragment, outer in zip(state.fragments, mixing.outer, strict=True):
        assert fragment.anchor_digest == outer.digest
        assert len(fragment.vectors) == 1 + len(outer.copy.state)
        assert torch.equal(fragment.vectors[0], outer.anchor)


async def test_the_experts_in_a_folder_are_models_and_seeds_are_not(tmp_path: Path) -> None:
    states = KeptStates(tmp_path, RUN)
    for domain in ("seed", "wiki"):
        await states.keep(domain, final_state(domain))
    await states.keep("math", state_at("math", 100))
    math, wiki = kept_experts(tmp_path, RUN)
    assert (math.name, math.step, math.total_steps) == ("math", 100, TOTAL_STEPS)
    assert (wiki.name, wiki.step, wiki.total_steps) == ("wiki", TOTAL_STEPS, TOTAL_STEPS)
    # Parameters by name, from vectors in the order of fragments.
    anchor = torch.cat([f.vectors[0] for f in state_at("math", 100).fragments])
    schedule = domain_manifest(RUN, "math").method.schedule
    layout = layout_of(
        shapes_of(math.model().requires_grad_(True)),
        num_fragments=schedule.fragments,
        pattern=schedule.pattern,
    )
    for entry in layout.entries:
        expected = anchor[entry.start : entry.stop].view(entry.shape)
        assert torch.equal(math.theta[entry.name], expected)


async def test_a_damaged_expert_is_named(tmp_path: Path) -> None:
    await KeptStates(tmp_path, RUN).keep("law", final_state("law"))
    path = file_of(tmp_path, "law")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ConfigError, match=r"law\.safetensors"):
        kept_experts(tmp_path, RUN)
