from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.card import Card
from protocol.identity import PeerId
from protocol.manifest import Manifest
from protocol.placement import LATE_FRAC, choice, keepers
from protocol.standings import standings
from tests.unit.protocol.domain_cards import (
    FLOPS,
    GIB,
    NAMES,
    NEEDED_BYTES,
    PEERS,
    RUN,
    TOTAL_STEPS,
    card,
    copy,
    final,
    manifest_of,
    swarms,
)

Cards = dict[PeerId, Card]
FREE = manifest_of(("law", "math", "wiki"))
"""Three domains that wait for nothing."""


def able_of(told: Card, manifest: Manifest = RUN) -> frozenset[str]:
    """What a peer can do, if memory is all that matters; surely what it does."""
    memory_bytes = told.memory_bytes or max(NEEDED_BYTES.values())
    fitting = {d.name for d in manifest.domains if NEEDED_BYTES[d.name] <= memory_bytes}
    return frozenset(fitting | {told.domain})


def chosen(cards: Mapping[PeerId, Card], peer: PeerId, manifest: Manifest = RUN) -> str | None:
    able = able_of(cards[peer], manifest)
    return choice(manifest, cards, our_id=peer, able=able, flops=FLOPS, needed_bytes=NEEDED_BYTES)


def choices(cards: Mapping[PeerId, Card], manifest: Manifest = RUN) -> dict[PeerId, str | None]:
    """Where all who would train go, each by its own decision."""
    willing = [peer for peer, told in cards.items() if told.role == "peer"]
    return {peer: chosen(cards, peer, manifest) for peer in willing}


def applied(cards: Cards, moves: Mapping[PeerId, str | None]) -> Cards:
    return cards | {
        peer: replace(cards[peer], domain=domain or "", step=0)
        for peer, domain in moves.items()
        if domain != cards[peer].domain
    }


def open_domains(cards: Cards, manifest: Manifest = RUN) -> dict[str, tuple[PeerId, ...]]:
    return {each.domain: each.peers for each in standings(manifest, cards) if each.is_open}


def late_domains(cards: Cards) -> set[str]:
    return {
        each.domain
        for each in standings(RUN, cards)
        if each.remaining_steps < LATE_FRAC * each.total_steps
    }


@given(cards=swarms)
def test_no_open_domain_stays_empty_while_somebody_could_be_spared(cards: Cards) -> None:
    moves = choices(cards)
    count = Counter(moves.values())
    holders = {told.domain for told in cards.values() if told.role == "holder"}
    for domain in open_domains(cards).keys() - count.keys() - holders:
        for peer, place in moves.items():
            if domain in able_of(cards[peer]):
                assert place is not None
                assert count[place] == 1


@given(cards=swarms)
def test_nobody_chooses_a_domain_that_is_closed_or_too_large(cards: Cards) -> None:
    allowed = open_domains(cards).keys()
    late = late_domains(cards)
    for peer, place in choices(cards).items():
        fitting = allowed & able_of(cards[peer])
        assert place in fitting if fitting - late else place in {*fitting, None}


@given(cards=swarms, data=st.data())
def test_a_domain_that_we_are_not_able_to_train_is_never_ours(
    cards: Cards, data: st.DataObject
) -> None:
    able = data.draw(st.frozensets(st.sampled_from(NAMES)))
    our_id = data.draw(st.sampled_from(sorted(cards)))
    ours = choice(RUN, cards, our_id=our_id, able=able, flops=FLOPS, needed_bytes=NEEDED_BYTES)
    allowed = open_domains(cards).keys() & able
    assert ours in allowed if allowed - late_domains(cards) else ours in {*allowed, None}


@given(cards=swarms, data=st.data())
def test_no_order_of_the_cards_changes_anything(cards: Cards, data: st.DataObject) -> None:
    shuffled = dict(data.draw(st.permutations(list(cards.items()))))
    assert choices(shuffled) == choices(cards)


@given(cards=swarms)
def test_who_has_moved_stays(cards: Cards) -> None:
    """Only new places count here, so progress is that of kept states, which stays."""
    cards = {peer: replace(told, step=0) for peer, told in cards.items()}
    moved = applied(cards, choices(cards))
    again = choices(moved)
    assert again == {peer: moved[peer].domain or None for peer in again}


@given(cards=swarms)
def test_rescue_moves_one_peer_per_empty_domain_and_empties_none(cards: Cards) -> None:
    moves = choices(cards)
    before = open_domains(cards)
    after = Counter(moves.values())
    movers = {
        peer: place
        for peer, place in moves.items()
        if cards[peer].domain in before.keys() & able_of(cards[peer])
        and place != cards[peer].domain
    }
    assert all(not before[str(place)] for place in movers.values())
    assert len(set(movers.values())) == len(movers)
    assert all(after[place] == 1 for place in movers.values())
    assert all(after[cards[peer].domain] for peer in movers)


@given(cards=swarms, data=st.data())
def test_peers_that_act_one_by_one_in_any_order_come_to_rest(
    cards: Cards, data: st.DataObject
) -> None:
    cards = {peer: replace(told, step=0) for peer, told in cards.items()}
    order = data.draw(st.permutations(sorted(choices(cards))))
    for peer in [*order, *order]:
        cards = applied(cards, {peer: chosen(cards, peer)})
    assert choices(cards) == {peer: cards[peer].domain or None for peer in order}


@given(
    cards=swarms.map(
        lambda cards: {peer: replace(told, domain="", kept=()) for peer, told in cards.items()}
    )
)
def test_a_crowd_that_comes_at_once_spreads_over_all_domains(cards: Cards) -> None:
    cards = {peer: replace(told, memory_bytes=0) for peer, told in cards.items()}
    count = Counter(choices(cards, FREE).values())
    newcomers = sum(told.role == "peer" for told in cards.values())
    assert len(count) == min(newcomers, 3)


def test_the_fastest_takes_what_needs_most_and_the_others_share_the_rest() -> None:
    slow, fast, middle, last = PEERS[:4]
    cards = {
        slow: card(flops_per_s=1),
        fast: card(flops_per_s=9),
        middle: card(flops_per_s=5),
    }
    assert choices(cards, FREE) == {fast: "math", middle: "law", slow: "wiki"}
    cards |= {last: card(flops_per_s=0)}
    assert choices(cards, FREE)[last] == "math"  # 3 / 2 of its steps are more than 2 / 2


def test_a_crowd_divides_in_proportion_to_what_is_left() -> None:
    count = Counter(choices({peer: card() for peer in PEERS[:6]}, FREE).values())
    assert count == {"math": 3, "law": 2, "wiki": 1}


def test_what_is_left_counts_not_what_was_budgeted() -> None:
    there = {PEERS[0]: card("law"), PEERS[1]: card("math", 250), PEERS[2]: card("wiki", 100)}
    assert chosen(there | {PEERS[3]: card()}, PEERS[3], FREE) == "law"


def test_a_peer_with_little_memory_takes_what_fits() -> None:
    small, large = PEERS[:2]
    cards = {small: card(memory_bytes=2 * GIB, flops_per_s=9), large: card(flops_per_s=1)}
    assert choices(cards, FREE) == {small: "law", large: "math"}


def test_unknown_memory_keeps_nobody_out() -> None:
    cards = {PEERS[0]: card("law"), PEERS[1]: card("math"), PEERS[2]: card()}
    assert chosen(cards, PEERS[2], FREE) == "wiki"


@given(peers=st.permutations(PEERS))
def test_when_the_only_peer_of_a_domain_dies_one_of_the_most_crowded_takes_it_over(
    peers: list[PeerId],
) -> None:
    cards = {
        **{peer: card("math", 20) for peer in peers[:3]},
        **{peer: card("wiki", 20) for peer in peers[3:5]},
    }
    moves = choices(cards, FREE)
    assert Counter(moves.values()) == {"math": 2, "wiki": 2, "law": 1}
    keeper = next(peer for peer in peers[:3] if moves[peer] == "math")
    for peer in (keeper, peers[3]):
        cards[peer] = replace(cards[peer], kept=(copy("law", 200),))
    assert choices(cards, FREE)[keeper] == "law"


def test_newcomers_come_before_movers() -> None:
    cards = {PEERS[0]: card("law"), PEERS[1]: card("law"), PEERS[2]: card("math")}
    assert choices(cards | {PEERS[3]: card()}, FREE) == {
        PEERS[0]: "law",
        PEERS[1]: "law",
        PEERS[2]: "math",
        PEERS[3]: "wiki",
    }


@given(peers=st.permutations(PEERS))
def test_a_holder_is_no_reason_to_leave_its_domain_alone(peers: list[PeerId]) -> None:
    trains, holds, other = peers[:3]
    cards = {trains: card("law"), holds: card("law", role="holder"), other: card("math")}
    assert choices(cards, FREE) == {trains: "law", other: "math"}


def test_whoever_is_done_with_a_domain_moves_on_until_all_are_done() -> None:
    cards = {PEERS[0]: card("law", TOTAL_STEPS, kept=(final("law"),))}
    assert chosen(cards, PEERS[0], FREE) == "math"
    kept = (final("law"), final("math"), final("wiki"))
    assert chosen({PEERS[0]: card(kept=kept)}, PEERS[0], FREE) is None


def test_who_asks_wants_to_train_whatever_its_card_says() -> None:
    assert chosen({PEERS[0]: card(role="holder")}, PEERS[0], FREE) == "math"


def test_a_branch_opens_when_its_seed_is_done() -> None:
    cards = {PEERS[0]: card("seed", 299), PEERS[1]: card("law"), PEERS[2]: card()}
    assert chosen(cards, PEERS[2]) == "law"
    cards[PEERS[0]] = card("seed", TOTAL_STEPS, kept=(final("seed"),))
    assert sorted(map(str, choices(cards).values())) == ["law", "math", "wiki"]


@given(cards=swarms, copies=st.integers(0, 4), data=st.data())
def test_keepers_are_peers_of_other_domains_drawn_alike_by_all(
    cards: Cards, copies: int, data: st.DataObject
) -> None:
    shuffled = dict(data.draw(st.permutations(list(cards.items()))))
    for each in standings(RUN, cards):
        drawn = keepers(each, RUN, cards, copies=copies)
        assert drawn == keepers(each, RUN, shuffled, copies=copies)
        elsewhere = {peer for peer, told in cards.items() if told.role in ("peer", "holder")} - set(
            each.peers
        )
        assert len(set(drawn)) == len(drawn)
        assert elsewhere.issuperset(drawn)
        is_needed = each.is_done or len(each.peers) < 3
        assert len(drawn) == (min(copies, len(elsewhere)) if is_needed else 0)


@given(cards=swarms, data=st.data())
def test_keepers_change_only_with_who_comes_and_goes(cards: Cards, data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(sorted(cards)))
    fewer = {peer: told for peer, told in cards.items() if peer != gone}
    farther = {peer: replace(told, step=told.step + 1) for peer, told in cards.items()}
    for each in standings(RUN, cards):
        drawn = keepers(each, RUN, cards)
        assert keepers(each, RUN, farther) == drawn
        left = keepers(each, RUN, fewer)
        assert [peer for peer in drawn if peer != gone] == [p for p in left if p in drawn]
        assert drawn == left or gone in drawn


@pytest.mark.parametrize("copies", [1, 2])
def test_the_duty_of_keeping_is_spread_over_peers(copies: int) -> None:
    names = [f"domain{number}" for number in range(24)]
    manifest = manifest_of(names)
    cards = {peer: card() for peer in PEERS}
    duties = Counter(
        peer
        for each in standings(manifest, cards)
        for peer in keepers(each, manifest, cards, copies=copies)
    )
    assert sum(duties.values()) == 24 * copies
    assert len(duties) >= 6


def test_what_is_nearly_done_needs_nobody_else() -> None:
    done = tuple(final(name) for name in ("math", "wiki"))
    late = {PEERS[0]: card("law", TOTAL_STEPS - 29, kept=done), PEERS[1]: card()}
    assert chosen(late, PEERS[1], FREE) is None
    early = late | {PEERS[0]: card("law", TOTAL_STEPS - 30, kept=done)}
    assert chosen(early, PEERS[1], FREE) == "law"
    assert chosen(late, PEERS[0], FREE) == "law"
    alone = {PEERS[1]: card(kept=(*done, copy("law", TOTAL_STEPS - 1)))}
    assert chosen(alone, PEERS[1], FREE) == "law"


def test_who_was_sent_to_a_domain_is_not_sent_on() -> None:
    cards = {peer: card("law", 10, stays=True) for peer in PEERS[:2]}
    cards |= {PEERS[2]: card("math", 10), PEERS[3]: card("math", 10)}
    assert {chosen(cards, peer, FREE) for peer in PEERS[:2]} == {"law"}
    assert sorted(str(chosen(cards, peer, FREE)) for peer in PEERS[2:4]) == ["math", "wiki"]


def test_nobody_waits_for_one_who_cannot_go() -> None:
    """It lacks the text, and its card says so."""
    math = {peer: card("math", 10) for peer in PEERS[:2]}
    wiki = {PEERS[2]: card("wiki", 10)}
    drawn = next(peer for peer in PEERS[:2] if chosen(math | wiki, peer, FREE) == "law")
    (other,) = set(PEERS[:2]) - {drawn}
    cards = math | wiki | {drawn: card("math", 10, unable=("law",))}
    assert chosen(cards, other, FREE) == "law"
    able = frozenset({"math", "wiki"})
    stays = choice(FREE, cards, our_id=drawn, able=able, flops=FLOPS, needed_bytes=NEEDED_BYTES)
    assert stays == "math"
