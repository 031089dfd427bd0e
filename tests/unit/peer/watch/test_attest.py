"""What others say of one's work, added up by who could have seen the same."""

import math

from hypothesis import given
from hypothesis import strategies as st

from peer.watch.attest import Attested, Testimony, most_seers
from protocol.identity import PeerId
from protocol.report import Report
from tests.unit.peer.watch.swarms import KEYS, A, B, C, D, manifest_of, report_of, saw

IDS = [key.peer_id for key in KEYS]
tokens = st.integers(0, 1000)


def witnesses_of_a(said: list[int]) -> list[Report]:
    return [report_of(peer, witnesses=saw((A, n))) for peer, n in zip(IDS[1:], said, strict=False)]


@given(said=st.lists(tokens, max_size=7), claimed=tokens)
def test_where_all_see_the_same_averages_the_best_witness_counts(
    said: list[int], claimed: int
) -> None:
    attested = Testimony(witnesses_of_a(said)).of(A, claimed_tokens=claimed, most_seers=math.inf)
    assert attested.tokens == min(claimed, max([0, *said]))
    assert attested.witnesses == sum(n > 0 for n in said)


@given(said=st.lists(tokens, max_size=7), claimed=tokens)
def test_where_everybody_sees_its_own_exchanges_the_words_add_up(
    said: list[int], claimed: int
) -> None:
    attested = Testimony(witnesses_of_a(said)).of(A, claimed_tokens=claimed, most_seers=1)
    assert attested.tokens == min(claimed, sum(said))


@given(landings=st.lists(st.tuples(tokens, st.sets(st.sampled_from(IDS[1:]), max_size=3))))
def test_in_groups_no_landing_counts_twice(landings: list[tuple[int, set[PeerId]]]) -> None:
    """Each landing is of A and up to three others, who all saw it."""
    saw_of = {peer: sum(n for n, group in landings if peer in group) for peer in IDS[1:]}
    testimony = Testimony(witnesses_of_a(list(saw_of.values())))
    attested = testimony.of(A, claimed_tokens=10**9, most_seers=3)
    assert attested.tokens <= sum(n for n, group in landings if group)
    assert attested.tokens >= max(saw_of.values())


def test_how_many_see_an_average_is_the_mixings_of_the_domain() -> None:
    assert most_seers(manifest_of("all"), "") == math.inf
    assert most_seers(manifest_of("pairs"), "") == 1
    assert most_seers(manifest_of("groups"), "") == manifest_of("groups").method.group_size - 1


def test_nobody_is_its_own_witness() -> None:
    ours = report_of(A, witnesses=saw((A, 500)))
    assert Testimony([ours]).of(A, claimed_tokens=500, most_seers=1) == Attested(0, 0)


def test_who_names_somebody_twice_says_it_once() -> None:
    twice = report_of(B, witnesses=saw((A, 100), (A, 90)))
    attested = Testimony([twice]).of(A, claimed_tokens=1000, most_seers=1)
    assert attested == Attested(100, 1)


def test_what_is_said_of_one_is_not_said_of_another() -> None:
    testimony = Testimony([report_of(B, witnesses=saw((A, 100), (C, 40)))])
    assert testimony.of(C, claimed_tokens=1000, most_seers=math.inf) == Attested(40, 1)
    assert testimony.of(D, claimed_tokens=1000, most_seers=math.inf) == Attested(0, 0)
