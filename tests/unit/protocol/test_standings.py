import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.card import Card
from protocol.identity import PeerId
from protocol.manifest import manifest_from
from protocol.standings import Standing, standings
from tests.unit.protocol.domain_cards import (
    FOUNDER,
    NAMES,
    PEERS,
    RUN,
    TOTAL_STEPS,
    card,
    copy,
    final,
    swarms,
)

A, B, C = PEERS[:3]


def standing(domain: str, cards: dict[PeerId, Card]) -> Standing:
    return next(found for found in standings(RUN, cards) if found.domain == domain)


def test_all_domains_are_told_in_the_manifests_order_even_with_nobody_there() -> None:
    found = standings(RUN, {})
    assert [each.domain for each in found] == list(NAMES)
    assert [each.words for each in found] == [
        *("waiting for a peer", "waiting for a peer", "waits for seed", "waits for seed")
    ]
    assert {each.total_steps for each in found} == {TOTAL_STEPS}


def test_peers_and_holders_are_there_and_the_farthest_counts() -> None:
    holder = card("law", TOTAL_STEPS, role="holder")
    cards = {B: card("law", 40), A: holder, C: card("seed", 90)}
    law = standing("law", cards)
    assert law == Standing("law", (A, B), TOTAL_STEPS, TOTAL_STEPS, False, "", 0, 0)
    assert law.words == "training"
    cards[A] = card("law", 20)
    assert standing("law", cards).remaining_steps == TOTAL_STEPS - 40


def test_who_was_told_to_stop_before_the_budget_leaves_the_domain_to_others() -> None:
    law = standing("law", {A: card("law", 20, role="holder")})
    assert (law.peers, law.words) == ((), "waiting for a peer")


@pytest.mark.parametrize("role", ["left", "bootstrap"])
def test_who_left_and_bootstrap_nodes_train_nowhere(role: str) -> None:
    law = standing("law", {A: card("law", 40, role=role)})
    assert (law.peers, law.step, law.words) == ((), 0, "waiting for a peer")


def test_a_kept_state_may_be_farther_than_anybody_there() -> None:
    cards = {A: card("law", 40), B: card("seed", 290, kept=(copy("law", 70), copy("law", 60)))}
    law = standing("law", cards)
    assert (law.step, law.copies, law.copy_step, law.is_done) == (70, 1, 70, False)


def test_a_domain_is_done_while_somebody_keeps_its_final_state() -> None:
    keeps = card(kept=(final("law"),))
    assert standing("law", {A: keeps}).words == "done"
    assert standing("law", {A: keeps, B: card("law", 10)}).is_done
    gone = card(kept=(final("law"),), role="left")
    law = standing("law", {A: gone})
    assert (law.is_done, law.copies, law.step) == (False, 0, 0)


def test_a_budget_that_is_used_up_is_not_done_before_its_end_is_kept() -> None:
    law = standing("law", {A: card("law", TOTAL_STEPS + 5)})
    assert (law.words, law.remaining_steps) == ("training", 0)


def test_branches_wait_until_their_seed_is_done() -> None:
    assert standing("math", {A: card("seed", 299)}).waits_for == "seed"
    assert standing("math", {A: card(kept=(copy("seed", 299),))}).waits_for == "seed"
    assert standing("math", {A: card(kept=(final("seed"),))}).waits_for == ""
    assert standing("math", {A: card("math")}).waits_for == "seed"  # it waits there


def test_a_branch_that_has_begun_does_not_wait_for_a_seed_that_was_lost() -> None:
    assert standing("math", {A: card("math", 10)}).words == "training"
    assert standing("math", {A: card(kept=(copy("math", 10),))}).words == "waiting for a peer"


def test_what_strangers_invent_is_ignored() -> None:
    strangers = {A: card("cooking", 10, kept=(final("cooking"),))}
    assert standings(RUN, strangers) == standings(RUN, {})


@given(cards=swarms, data=st.data())
def test_no_order_of_the_cards_changes_anything(
    cards: dict[PeerId, Card], data: st.DataObject
) -> None:
    shuffled = dict(data.draw(st.permutations(list(cards.items()))))
    assert standings(RUN, shuffled) == standings(RUN, cards)


@given(cards=swarms)
def test_nobody_is_in_two_domains_and_open_ones_have_something_to_wait_for(
    cards: dict[PeerId, Card],
) -> None:
    found = standings(RUN, cards)
    there = [peer for each in found for peer in each.peers]
    assert len(there) == len(set(there))
    for each in found:
        assert each.is_open == (each.words in ("training", "waiting for a peer"))
        assert each.copy_step <= each.step
        assert 0 <= each.remaining_steps <= each.total_steps
        assert each.copies or not each.is_done


def test_a_seed_that_all_have_branched_from_is_over_though_its_last_state_is_lost() -> None:
    domains = [
        {"name": "seed", "is_expert": False},
        {"name": "law", "branch_from": "seed"},
        {"name": "math", "branch_from": "seed"},
    ]
    run = manifest_from({"founder": FOUNDER.peer_id, "domains": domains})
    begun = {A: card("law", 10)}
    assert not standings(run, begun)[0].is_done
    assert standings(run, begun | {B: card("math", 1)})[0].is_done


def test_a_last_state_that_falls_short_of_the_budget_is_not_believed() -> None:
    assert not standing("law", {A: card(kept=(final("law", TOTAL_STEPS - 1),))}).is_done
