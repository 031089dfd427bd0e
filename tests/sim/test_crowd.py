"""Thousands of peers in small: what holds for sixty of them must hold for all."""

import math
import statistics
from collections import defaultdict

import pytest

from peer.sim.crowd import Crowd, CrowdSpec, Entry
from peer.sim.crowd_directory import MAX_RECORDS, CrowdDirectory
from peer.sim.crowd_peer import CrowdPeer
from protocol.identity import PeerId

FEW = 30
"""All of them fit into one room."""


def run(seed: int, *, intervals: int, keeps_journal: bool = False, **settings: object) -> Crowd:
    spec = CrowdSpec(**settings)  # type: ignore[arg-type]
    crowd = Crowd(spec, seed=seed, keeps_journal=keeps_journal)
    crowd.run(spec.entry_s + intervals * spec.interval_s)
    return crowd


def settle(crowd: Crowd) -> None:
    """Lets all exchanges end that have begun."""
    crowd.is_over = True
    crowd.run(crowd.clock.now_s + 2 * crowd.spec.interval_s)


def living(crowd: Crowd) -> list[CrowdPeer]:
    return list(crowd.peers.values())


def entries(crowd: Crowd) -> list[Entry]:
    assert crowd.journal is not None
    return crowd.journal


def test_equal_seeds_give_equal_runs_and_others_do_not() -> None:
    one, same, other = (run(seed, intervals=4, num_peers=60, churn_frac=0.1) for seed in (1, 1, 2))
    assert one.digest() == same.digest() != other.digest()
    assert one.total() == same.total()
    assert one.clock.num_events == same.clock.num_events
    assert one.mean() == same.mean()


@pytest.mark.parametrize("mixing", ["pairs", "all"])
def test_every_token_is_landed_pending_or_lost(mixing: str) -> None:
    crowd = run(3, intervals=8, num_peers=12, churn_frac=0.2, mixing=mixing)
    total = crowd.total()
    assert total.lost_tokens > 0
    assert total.landed_tokens > total.trained_tokens / 2
    pending = [peer.trainer.tokens for peer in living(crowd)]
    assert min(pending) >= 0
    assert total.trained_tokens == total.landed_tokens + sum(pending) + total.lost_tokens
    spec = crowd.spec
    most = spec.num_peers * crowd.clock.now_s / spec.step_s * spec.step_tokens
    assert 0.8 * most < total.trained_tokens < 1.2 * most  # they entered over an interval


def test_nobody_is_in_two_exchanges_and_no_exchange_has_three_sides() -> None:
    crowd = run(4, intervals=8, num_peers=60, churn_frac=0.2, keeps_journal=True)
    now_in: dict[PeerId, bytes] = {}
    sides: defaultdict[bytes, list[PeerId]] = defaultdict(list)
    for _, peer, event, exchange_id in entries(crowd):
        if event == "begins":
            assert peer not in now_in
            now_in[peer] = exchange_id
            sides[exchange_id].append(peer)
        elif event in ("lands", "fails"):
            assert now_in.pop(peer) == exchange_id
    assert sum(event == "fails" for _, _, event, _ in entries(crowd)) > 0
    assert len(sides) > 150
    assert all(len(set(peers)) == len(peers) <= 2 for peers in sides.values())


@pytest.mark.parametrize(
    ("momentum", "gamma", "factor"),
    [(0.5, 0.7, 0.834), (0.5, 0.3, 0.787), (0.0, 1.0, 0.695), (0.0, 0.7, 0.738)],
)
def test_values_come_together_at_least_as_fast_as_in_random_pairs_and_their_mean_stays(
    momentum: float, gamma: float, factor: float
) -> None:
    """The factors are those of 64 replicas that are paired at random in every outer step.

    Without momentum that is sqrt(1 - gamma + gamma^2 / 2), a little less for so few. Paces waver,
    or those who have just landed together would be ready together again, and again mix.
    """
    spec = CrowdSpec(
        num_peers=FEW, entry_s=10.0, step_cv=2.0, pace_cv=0.0, momentum=momentum, gamma=gamma
    )
    factors = []
    for seed in range(4):
        crowd = Crowd(spec, seed=seed)
        crowd.run(spec.entry_s)
        mean_at_first = crowd.mean()
        crowd.run(2 * spec.interval_s)
        spread, before = crowd.spread(), crowd.total()
        crowd.run(16 * spec.interval_s)
        num_steps = (crowd.total().done - before.done) / FEW
        assert num_steps > 13
        factors.append((crowd.spread() / spread) ** (1 / num_steps))
        settle(crowd)
        assert crowd.mean() == pytest.approx(mean_at_first, abs=1e-12)
    measured = statistics.geometric_mean(factors)
    assert measured <= 1.04 * factor
    assert measured >= 0.93 * factor  # whoever met lately comes last: a little faster than random


def test_a_large_swarm_costs_a_peer_what_a_small_one_does() -> None:
    work = []
    for num_peers in (60, 300):
        crowd = run(5, intervals=2, num_peers=num_peers)
        before = crowd.total()
        crowd.run(crowd.clock.now_s + 3 * crowd.spec.interval_s)
        after = crowd.total()
        names = ("notes", "topics_read", "topics_published", "records_read", "bulk_bytes")
        rounds = after.intervals - before.intervals
        work.append([(getattr(after, name) - getattr(before, name)) / rounds for name in names])
    for few, many in zip(*work, strict=True):
        assert many < 1.6 * few  # five times as many peers, and rooms are not all equally full


def test_under_churn_whoever_survives_keeps_landing() -> None:
    crowd = run(6, intervals=12, num_peers=80, churn_frac=0.2, keeps_journal=True)
    now_s, interval_s = crowd.clock.now_s, crowd.spec.interval_s
    deaths = [peer for _, peer, event, _ in entries(crowd) if event == "dies"]
    assert 100 < len(deaths) < 300
    total = crowd.total()
    assert total.notes_to_dead > len(deaths) / 10
    old = {peer.peer_id for peer in living(crowd) if peer.tally.intervals >= 4}
    lately = {
        peer
        for time_s, peer, event, _ in entries(crowd)
        if event == "lands" and time_s > now_s - 3 * interval_s
    }
    assert len(old) > 20
    assert old <= lately
    assert max(peer.machine.round for peer in living(crowd) if peer.machine) >= 11


def test_newcomers_take_over_a_state_and_learn_who_is_there() -> None:
    crowd = run(7, intervals=3, num_peers=FEW)
    values = {peer.value.phi for peer in living(crowd)}
    newcomer = crowd.join()
    crowd.run(crowd.clock.now_s + 5)
    assert newcomer.machine is not None
    assert newcomer.machine.round > 0
    assert newcomer.value.phi in values
    crowd.run(crowd.clock.now_s + 3 * crowd.spec.interval_s)
    assert newcomer.tally.done > 0


def test_groups_move_as_much_as_a_ring_and_agree() -> None:
    num_peers, part_bytes = 6, 1e6
    crowd = run(
        8,
        intervals=4,
        num_peers=num_peers,
        mixing="all",
        part_bytes=part_bytes,
        pace_cv=0.0,
        grace_s=20.0,
    )
    settle(crowd)
    rounds = {
        (peer.machine.round, peer.machine.anchor_digest) for peer in living(crowd) if peer.machine
    }
    assert len(rounds) == 1
    total = crowd.total()
    assert total.done == num_peers * next(iter(rounds))[0]
    ring = 2 * (num_peers - 1) / num_peers * part_bytes
    assert total.bulk_bytes / total.done == pytest.approx(ring, rel=0.02)


def test_a_blocking_trainer_makes_no_step_until_it_has_landed() -> None:
    crowd = run(9, intervals=8, num_peers=FEW, is_blocking=True, keeps_journal=True)
    total = crowd.total()
    assert total.landed_tokens == total.done * crowd.spec.interval_steps * crowd.spec.step_tokens
    assert total.alone == 0


def test_records_expire_and_a_full_topic_takes_no_more() -> None:
    directory = CrowdDirectory()
    for number in range(MAX_RECORDS + 1):
        directory.publish("peers", PeerId(str(number)), expires_s=10 + number, now_s=0.0)
    assert directory.num_refused == 1
    assert len(directory.read("peers", now_s=0.0)) == MAX_RECORDS
    assert PeerId("0") not in directory.read("peers", now_s=10.0)
    directory.publish("peers", PeerId("late"), expires_s=math.inf, now_s=10.0)
    assert list(directory.read("peers", now_s=1e9)) == ["late"]
    assert not directory.read("nobody's", now_s=0.0)
