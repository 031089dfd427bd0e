"""What is kept of what has landed: little for late peers, for a partner what it still needs."""

from collections.abc import Iterator

import pytest
import torch

from optim.outer.noloco import NoLoCo
from peer.mixing import KEPT_EXCHANGES, Mixing
from protocol.machine import BlobRef, Fetch, Land, Reduce
from tests.unit.peer.test_mixing import (
    ID,
    SOMEBODY,
    collect,
    equally,
    exchange,
    fetch_of,
    frames_of,
    gather,
    has_all,
    mixing_of,
    nothing,
    offer_of,
    offered,
    vectors,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads only slow tensors of this size down."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_who_has_landed_keeps_every_average_and_no_contribution() -> None:
    members = [mixing_of(codec="int8") for _ in range(3)]
    parts = [BlobRef("part", 0, ID, part) for part in range(3)]
    landing = gather(members, vectors(3), [1, 2, 3])
    for mixing in members:
        made = [mixing.made(ref) for ref in parts]
        mixing.land(landing)
        assert all(grains is not None and grains.is_withdrawn for grains in made)
        assert [mixing.made(ref) for ref in parts] == [None] * 3
        assert all(has_all(mixing, BlobRef("average", 0, ID, part)) for part in range(3))


def test_a_listener_keeps_what_it_replayed_for_the_next_one() -> None:
    member, late, later = (mixing_of() for _ in range(3))
    (landed,) = exchange([member], vectors(1), [1])
    fetch, landing = fetch_of("average", 0, 1), Land(0, 0, ID, equally(1), rebase_on_anchor=True)
    for giver, taker in ((member, late), (late, later)):
        collect(taker, fetch, frames_of(giver, fetch.ref))
        assert taker.land(landing).digest == landed.digest


def exchange_alone(mixing: Mixing, fragment: int, id: bytes) -> BlobRef:
    """Lands one exchange of one fragment; returns what late peers would ask for."""
    theta = mixing.outer[fragment].anchor * 0.9
    offered(mixing, offer_of(1, id, fragment), theta)
    average = BlobRef("average", fragment, id)
    mixing.reduce(Reduce(average, 1), nothing)
    mixing.land(Land(fragment, 0, id, equally(1)))
    return average


def test_of_small_averages_those_of_the_last_exchanges_are_kept() -> None:
    mixing = mixing_of(codec="int4", num_fragments=2)
    averages = [exchange_alone(mixing, 0, bytes([n]) * 16) for n in range(KEPT_EXCHANGES + 1)]
    assert [has_all(mixing, ref) for ref in averages] == [False, *[True] * KEPT_EXCHANGES]


def test_a_pair_that_is_through_can_still_be_fetched_from_while_other_fragments_go_on() -> None:
    rule = NoLoCo()
    ours, theirs = (mixing_of(rule=rule, num_fragments=2) for _ in range(2))
    refs = [BlobRef("part", fragment, ID) for fragment in (0, 1)]
    for fragment, ref in enumerate(refs):
        for mixing in (ours, theirs):
            offered(mixing, offer_of(1, ID, fragment), mixing.outer[fragment].anchor * 0.9)
        fetch = Fetch(SOMEBODY, ref, equally(1), 1)
        collect(ours, fetch, frames_of(theirs, ref))
        ours.reduce(Reduce(BlobRef("average", fragment, ID), 1, is_shared=False), nothing)
        ours.land(Land(fragment, 0, ID, equally(1)))
    for fragment, ref in enumerate(refs):  # fp32: more than is kept for late peers
        fetch = Fetch(SOMEBODY, ref, equally(1), 1)
        collect(theirs, fetch, frames_of(ours, ref))
        made = ours.made(ref)
        assert made is not None
        assert not made.is_withdrawn
        ours.open(fragment, b"n" * 16, equally(1))  # they have had a whole round
        assert ours.made(ref) is None
