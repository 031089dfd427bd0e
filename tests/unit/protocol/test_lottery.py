from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.identity import PeerId
from protocol.lottery import donor_order, duty_order, leader_order, partner_order

PEERS = [PeerId(f"peer{number}") for number in range(8)]
peer_lists = st.lists(st.text("abcdef", min_size=1).map(PeerId), unique=True, max_size=12)


@given(peers=peer_lists, round=st.integers(0, 1 << 40), data=st.data())
def test_orders_are_permutations_that_do_not_depend_on_the_order_given(
    peers: list[PeerId], round: int, data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(peers))
    order = leader_order(peers, run_id="run", fragment=0, round=round)
    assert sorted(order) == sorted(peers)
    assert order == leader_order(shuffled, run_id="run", fragment=0, round=round)
    ours = PeerId("ours")
    partners = partner_order(ours, [*peers, ours], run_id="run", fragment=0, round=round)
    assert sorted(partners) == sorted(peers)
    assert partners == partner_order(ours, shuffled, run_id="run", fragment=0, round=round)


@pytest.mark.parametrize("round", range(50))
def test_some_two_are_each_others_first_choice(round: int) -> None:
    first = {
        peer: partner_order(peer, PEERS, run_id="run", fragment=0, round=round)[0] for peer in PEERS
    }
    assert any(first[first[peer]] == peer for peer in PEERS)


@pytest.mark.parametrize("round", range(20))
def test_no_three_ask_in_a_circle(round: int) -> None:
    """The draw is symmetric, so it ranks all couples; first choices only circle in twos."""
    first = {
        peer: partner_order(peer, PEERS, run_id="run", fragment=0, round=round)[0] for peer in PEERS
    }
    for peer in PEERS:
        at = peer
        for _ in range(len(PEERS)):
            at = first[at]
        assert first[first[at]] == at


@pytest.mark.parametrize(
    "change", [{"run_id": "other"}, {"fragment": 1}, {"round": 1}], ids=lambda c: next(iter(c))
)
def test_run_fragment_and_round_are_drawn_anew(change: dict[str, object]) -> None:
    base: dict[str, object] = {"run_id": "run", "fragment": 0, "round": 0}
    assert leader_order(PEERS, **base) != leader_order(PEERS, **base | change)  # type: ignore[arg-type]
    orders = [
        [partner_order(peer, PEERS, **fields) for peer in PEERS]  # type: ignore[arg-type]
        for fields in (base, base | change)
    ]
    assert orders[0] != orders[1]


def test_everybody_leads_equally_often() -> None:
    leads = Counter(
        leader_order(PEERS, run_id="run", fragment=0, round=round)[0] for round in range(4000)
    )
    assert all(400 < leads[peer] < 600 for peer in PEERS)  # 500 each, five deviations of 21


def test_everybody_meets_everybody_equally_often() -> None:
    firsts = Counter(
        partner_order(PEERS[0], PEERS, run_id="run", fragment=0, round=round)[0]
        for round in range(3500)
    )
    assert all(400 < firsts[peer] < 600 for peer in PEERS[1:])
    assert PEERS[0] not in firsts


def test_newcomers_ask_different_donors_of_those_who_are_farthest() -> None:
    rounds = {PeerId(name): 9 for name in "abcdef"} | {PeerId("late"): 8, PeerId("new"): 1}
    orders = {
        ours: donor_order(PeerId(ours), rounds, run_id="run", slack_frac=0.0) for ours in "uvwxyz"
    }
    assert len({order[0] for order in orders.values()}) > 2
    assert all(order[-2:] == (PeerId("late"), PeerId("new")) for order in orders.values())
    assert all(set(order) == rounds.keys() for order in orders.values())


def test_who_is_a_little_behind_is_as_good_a_donor_where_rounds_mean_little() -> None:
    rounds = {PeerId(f"p{number}"): 91 + number for number in range(10)} | {PeerId("new"): 80}
    orders = [
        donor_order(PeerId(f"o{number}"), rounds, run_id="run", slack_frac=0.1)
        for number in range(40)
    ]
    assert len({order[0] for order in orders}) > 5
    assert {order[-1] for order in orders} == {PeerId("new")}


@given(peers=peer_lists, data=st.data())
def test_a_duty_falls_to_peers_in_an_order_that_no_other_peer_changes(
    peers: list[PeerId], data: st.DataObject
) -> None:
    order = duty_order(data.draw(st.permutations(peers)), run_id="run", duty="keep law")
    assert sorted(order) == sorted(peers)
    some = [peer for peer in peers if data.draw(st.booleans())]
    assert duty_order(some, run_id="run", duty="keep law") == tuple(
        peer for peer in order if peer in some
    )


def test_each_run_and_duty_is_drawn_anew() -> None:
    order = duty_order(PEERS, run_id="run", duty="keep law")
    assert order != duty_order(PEERS, run_id="run", duty="keep math")
    assert order != duty_order(PEERS, run_id="other", duty="keep law")
