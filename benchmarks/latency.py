"""A pair against a tree: how long does an outer step wait for messages that carry nothing?

    python -m benchmarks.latency
    python -m benchmarks.latency --sizes 64 256 --groups 32 64

**Paper:** Kolehmainen et al. 2025, NoLoCo, arXiv:2506.10911v1, Sec. 5.3, Fig. 5.
**Symbols:** `t_c` = one message, log-normal; a tree all-reduce takes about 2 log2(n) of them.

All over the same virtual network, with messages of equal mean time and growing deviation:

    binary    reduce to the root of a full binary tree whose leaves are the members, and broadcast:
              the baseline of the paper's figures, where every inner node waits for two messages
    binomial  the same where inner nodes are members, too, and wait for no message from themselves
    pair      the product's `PairExchange`: agreement is question and answer, the exchange is from
              then until both have what they fetched
    group     the product's `GroupExchange`: agreement is from the last departure to the closing of
              the roster, the exchange from then until all have landed. Not a tree: all send to all
    ideal     two messages each way at once, the paper's formula: 2 (1 + erf(sigma / 2)) t_c

Then trainers that wait for the landing (Fig. 5B): inner steps are log-normal with mu = 1 and
sigma^2 = 0.5, and messages take next to nothing. Ends with one JSON object.
"""

import argparse
import json
import math
import random
import statistics
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import facts
from peer.sim.clock import VirtualClock
from peer.sim.crowd import Crowd, CrowdSpec, Entry
from peer.sim.network import LinkSpec, VirtualNetwork
from protocol.identity import PeerId

MESSAGE_S = 0.02
"""Mean time of a message."""
DEVIATIONS = (0.25, 0.53, 1.31)
"""Standard deviation of a message's time over its mean."""
PAPER = {64: (6.5, 7.1, 9.8), 256: (8.7, 9.9, 14.9), 1024: (11.0, 12.6, 20.8)}
"""Binary tree over ideal pair, by Monte Carlo, of the same three deviations."""
STEP_MU, STEP_VARIANCE, STEPS = 1.0, 0.5, 100
"""Of the inner steps of Fig. 5B."""


def link(deviation: float, message_s: float = MESSAGE_S) -> LinkSpec:
    """Returns a link on which only the number of messages in a row counts."""
    return LinkSpec(
        up_bps=math.inf, down_bps=math.inf, latency_s=message_s / 2, latency_cv=deviation
    )


# ---- the baseline


def binary(num_members: int) -> list[int]:
    """Returns the parents in a full binary tree, as in a heap; the leaves are the members."""
    return [max(0, (node - 1) // 2) for node in range(2 * num_members - 1)]


def binomial(num_members: int) -> list[int]:
    """Returns the parents in a binomial tree: a member's number without its lowest bit."""
    return [member & (member - 1) for member in range(num_members)]


class Tree:
    """An all-reduce over a tree: reduce to node 0, and broadcast from there.

    Args:
        parents: Of each node; node 0 is its own.
        network: Empty so far.
        deviation: Of the messages.
    """

    def __init__(self, parents: list[int], network: VirtualNetwork, deviation: float) -> None:
        self._network = network
        self._parents = parents
        self._ids = [PeerId(str(node)) for node in range(len(parents))]
        self._children: list[list[int]] = [[] for _ in parents]
        for node, parent in enumerate(parents):
            if node:
                self._children[parent].append(node)
        self._missing: list[int] = []
        for node_id in self._ids:
            network.add(node_id, link(deviation))

    def begin(self) -> None:
        """All have their contributions now; the network's clock tells how long it takes."""
        self._missing = [len(children) for children in self._children]
        for node, children in enumerate(self._children):
            if not children:
                self._up(node)

    def _up(self, node: int) -> None:
        parent = self._parents[node]
        self._send(node, parent, partial(self._reduced, parent))

    def _reduced(self, node: int) -> None:
        self._missing[node] -= 1
        if not self._missing[node]:
            if node:
                self._up(node)
            else:
                self._down(node)

    def _down(self, node: int) -> None:
        for child in self._children[node]:
            self._send(node, child, partial(self._down, child))

    def _send(self, src: int, dst: int, arrive: Callable[[], None]) -> None:
        self._network.note(self._ids[src], self._ids[dst], 0.0, arrive)


def tree_s(parents: list[int], deviation: float, *, seed: int) -> float:
    """Returns the mean time of an all-reduce over a tree."""
    clock, repeats = VirtualClock(), max(20, 100_000 // len(parents))
    tree = Tree(parents, VirtualNetwork(clock, random.Random(seed)), deviation)
    for _ in range(repeats):
        tree.begin()
        while clock.step():
            pass
    return clock.now_s / repeats


# ---- the product's machines


def _spec(num_peers: int, link: LinkSpec, **settings: Any) -> CrowdSpec:
    empty = {"part_bytes": 0.0, "state_bytes": 0.0, "entry_s": 1.0}
    return CrowdSpec(num_peers=num_peers, link=link, **(empty | settings))


def _by_exchange(crowd: Crowd) -> dict[bytes, dict[str, list[Entry]]]:
    """Returns what happened in each exchange, by event."""
    exchanges: dict[bytes, dict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
    for entry in crowd.journal or ():
        exchanges[entry[3]][entry[2]].append(entry)
    del exchanges[b""]
    return exchanges


def pair_s(deviation: float, *, num_peers: int, rounds: int, seed: int) -> dict[str, float]:
    """Returns mean times of the pairs in a swarm, and questions for each of them."""
    crowd = Crowd(_spec(num_peers, link(deviation)), seed=seed, keeps_journal=True)
    crowd.run((rounds + 1) * crowd.spec.interval_s)
    agreements, exchanges, num_asked = [], [], 0
    for events in _by_exchange(crowd).values():
        num_asked += len(events["asks"])
        if len(events["fetches"]) == len(events["begins"]) == 2:
            asked_s, began_s = events["asks"][0][0], events["begins"][1][0]
            agreements.append(began_s - asked_s)
            exchanges.append(events["fetches"][1][0] - began_s)
    return {
        "agreement_s": statistics.fmean(agreements),
        "exchange_s": statistics.fmean(exchanges),
        "questions": num_asked / len(exchanges),
        "count": len(exchanges),
    }


def group_s(num_peers: int, deviation: float, *, rounds: int, seed: int) -> dict[str, float]:
    """Returns mean times of exchanges of all, and the notes of a member for each of them."""
    spec = _spec(
        num_peers,
        link(deviation),
        mixing="all",
        interval_steps=1,
        step_s=5.0,
        step_cv=0.0,
        pace_cv=0.0,
        is_blocking=True,
        grace_s=5.0,
        refresh_s=1.0,
    )
    crowd = Crowd(spec, seed=seed, keeps_journal=True)
    crowd.run(spec.entry_s + (rounds + 1.5) * spec.interval_s)
    departed_s = [time_s for time_s, _, event, _ in crowd.journal or () if event == "departs"]
    agreements, exchanges = [], []
    for events in _by_exchange(crowd).values():
        if len(events["lands"]) == num_peers:
            closed_s = events["begins"][0][0]
            agreements.append(closed_s - max(time_s for time_s in departed_s if time_s <= closed_s))
            exchanges.append(events["lands"][-1][0] - closed_s)
    return {
        "agreement_s": statistics.fmean(agreements),
        "exchange_s": statistics.fmean(exchanges),
        "notes": crowd.total().notes / crowd.total().done,
        "count": len(exchanges),
    }


def compare(sizes: list[int], groups: list[int], *, seed: int) -> list[dict[str, Any]]:
    """Returns the ratios of tree and group to pair, by size and deviation."""
    results = []
    for column, deviation in enumerate(DEVIATIONS):
        pair = pair_s(deviation, num_peers=64, rounds=30, seed=seed)
        both_s = pair["agreement_s"] + pair["exchange_s"]
        sigma = math.sqrt(math.log1p(deviation**2))
        ideal_s = 2 * (1 + math.erf(sigma / 2)) * MESSAGE_S
        for size in sizes:
            binomial_s = tree_s(binomial(size), deviation, seed=seed)
            binary_s = tree_s(binary(size), deviation, seed=seed)
            result = {
                "n": size,
                "deviation": deviation,
                "binary_messages": binary_s / MESSAGE_S,
                "binomial_messages": binomial_s / MESSAGE_S,
                "ideal_messages": ideal_s / MESSAGE_S,
                "exchange_messages": pair["exchange_s"] / MESSAGE_S,
                "agreement_messages": pair["agreement_s"] / MESSAGE_S,
                "questions": pair["questions"],
                "paper": PAPER[size][column] if size in PAPER else None,
                "binary_over_ideal": binary_s / ideal_s,
                "binary_over_exchange": binary_s / pair["exchange_s"],
                "binary_over_both": binary_s / both_s,
                "binomial_over_exchange": binomial_s / pair["exchange_s"],
                "binomial_over_both": binomial_s / both_s,
            }
            results.append(result)
        for size in groups:
            group = group_s(size, deviation, rounds=4, seed=seed)
            results.append(
                {
                    "n": size,
                    "deviation": deviation,
                    "group_agreement_messages": group["agreement_s"] / MESSAGE_S,
                    "group_exchange_messages": group["exchange_s"] / MESSAGE_S,
                    "group_notes": group["notes"],
                    "group_over_exchange": group["exchange_s"] / pair["exchange_s"],
                    "group_over_both": (group["agreement_s"] + group["exchange_s"]) / both_s,
                }
            )
    return results


# ---- trainers that wait


def blocking_s(num_peers: int, mixing: str, *, rounds: int, seed: int) -> float:
    """Returns the mean time of a round of the product's machines, over its mean training time.

    Groups train faster, or else they would say again and again that they are ready.
    """
    cv = math.sqrt(math.expm1(STEP_VARIANCE))
    scale = 0.01 if mixing == "all" else 1.0
    step_s = scale * math.exp(STEP_MU + STEP_VARIANCE / 2)
    spec = _spec(
        num_peers,
        link(0.25, scale * MESSAGE_S),
        mixing=mixing,
        interval_steps=STEPS,
        step_s=step_s,
        step_cv=cv,
        pace_cv=0.0,
        is_blocking=True,
        grace_s=1e4,
        refresh_s=100.0,
        lifetime_s=300.0,
        exchange_s=1e3,
    )
    crowd = Crowd(spec, seed=seed)
    crowd.run(spec.entry_s + 3 * spec.interval_s)
    before, began_s = crowd.total(), crowd.clock.now_s
    crowd.run(began_s + rounds * spec.interval_s)
    done = crowd.total().intervals - before.intervals
    return (crowd.clock.now_s - began_s) * num_peers / done / spec.interval_s


def recursion_s(num_peers: int, *, rounds: int, seed: int) -> tuple[float, float]:
    """Returns the same for a barrier of all and for pairs drawn beforehand, without any messages.

    This is the simulation of Fig. 5B.
    """
    rng, sigma = random.Random(seed), math.sqrt(STEP_VARIANCE)
    all_s, pairs_s = 0.0, [0.0] * num_peers
    for _ in range(rounds):
        took_s = [
            math.fsum(rng.lognormvariate(STEP_MU, sigma) for _ in range(STEPS))
            for _ in range(num_peers)
        ]
        all_s += max(took_s)
        pairs_s = [before_s + each_s for before_s, each_s in zip(pairs_s, took_s, strict=True)]
        order = rng.sample(range(num_peers), num_peers)
        for one, other in zip(order[::2], order[1::2], strict=True):
            pairs_s[one] = pairs_s[other] = max(pairs_s[one], pairs_s[other])
    mean_s = rounds * STEPS * math.exp(STEP_MU + STEP_VARIANCE / 2)
    return all_s / mean_s, statistics.fmean(pairs_s) / mean_s


# ---- results


def latency_table(results: list[dict[str, Any]]) -> Table:
    """Returns the ratios for people."""
    columns = {
        "n": ("n", "{}"),
        "dev": ("deviation", "{}"),
        "binary": ("binary_messages", "{:.1f}"),
        "binomial": ("binomial_messages", "{:.1f}"),
        "ideal": ("ideal_messages", "{:.2f}"),
        "agree": ("agreement_messages", "{:.2f}"),
        "exchange": ("exchange_messages", "{:.2f}"),
        "paper": ("paper", "{}"),
        "bin/ideal": ("binary_over_ideal", "{:.1f}"),
        "bin/exch": ("binary_over_exchange", "{:.1f}"),
        "bin/both": ("binary_over_both", "{:.1f}"),
        "binom/exch": ("binomial_over_exchange", "{:.1f}"),
        "binom/both": ("binomial_over_both", "{:.1f}"),
    }
    table = Table(title="tree against pair; times in mean message times")
    for heading in columns:
        table.add_column(heading, justify="right")
    for result in results:
        if "binary_messages" in result:
            table.add_row(*(form.format(result[key]) for key, form in columns.values()))
    return table


def group_table(results: list[dict[str, Any]]) -> Table:
    """Returns what the product's groups take, for people."""
    columns = {
        "n": ("n", "{}"),
        "std/mean": ("deviation", "{}"),
        "agree": ("group_agreement_messages", "{:.2f}"),
        "exchange": ("group_exchange_messages", "{:.2f}"),
        "notes each": ("group_notes", "{:.0f}"),
        "group/exch": ("group_over_exchange", "{:.1f}"),
        "group/both": ("group_over_both", "{:.1f}"),
    }
    table = Table(title="all with all against pair; times in mean message times")
    for heading in columns:
        table.add_column(heading, justify="right")
    for result in results:
        if "group_notes" in result:
            table.add_row(*(form.format(result[key]) for key, form in columns.values()))
    return table


def main() -> None:
    """Measures latencies and blocking, prints tables and one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency")
    parser.add_argument("--sizes", type=int, nargs="*", default=[64, 256, 1024], help="of trees")
    parser.add_argument("--groups", type=int, nargs="*", default=[16, 64], help="of all with all")
    parser.add_argument("--blocking", type=int, nargs="*", default=[64, 1024])
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    machine, console = facts(), Console(width=130)
    results = compare(options.sizes, options.groups, seed=options.seed)
    console.print(latency_table(results))
    console.print(group_table(results))
    blocking = []
    for size in options.blocking:
        barrier, drawn = recursion_s(size, rounds=30, seed=options.seed)
        result = {
            "n": size,
            "barrier": barrier,
            "drawn_pairs": drawn,
            "pairs": blocking_s(size, "pairs", rounds=30, seed=options.seed),
            "group": blocking_s(size, "all", rounds=10, seed=options.seed)
            if size in options.groups
            else None,
        }
        blocking.append(result)
        group = f"{result['group']:.3f}" if result["group"] else "-"
        console.print(
            f"n = {size}, {STEPS} inner steps, a round over its training: "
            f"barrier {barrier:.3f}, drawn pairs {drawn:.3f} ({barrier / drawn - 1:+.0%}); "
            f"the product's group {group}, pairs {result['pairs']:.3f} "
            f"({barrier / result['pairs'] - 1:+.0%})"
        )
    print(
        json.dumps(
            {
                "benchmark": "latency",
                "machine": machine,
                "seed": options.seed,
                "message_s": MESSAGE_S,
                "latency": results,
                "blocking": blocking,
            }
        )
    )


if __name__ == "__main__":
    main()
