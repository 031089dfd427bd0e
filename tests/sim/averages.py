"""Landings looked at from outside: is the average that landed one of what was offered, in full?

What each member offered, and its tokens, are noted when it is. From anchor and momentum before and
after a landing follows the average that must have been used, and each part of that has to be the
weighted mean of contributions: of all members', or of all but some that broke off. Half of one, or
one that counted twice, is in no such mean.
"""

from collections import defaultdict
from itertools import combinations, pairwise

import torch
from torch import Tensor

from optim.outer.copy import OuterCopy
from optim.outer.eager import Eager
from optim.outer.nesterov import Nesterov
from optim.outer.noloco import NoLoCo
from peer.mixing import Mixing, OuterState
from peer.sim.peer import SimPeer
from protocol.identity import PeerId
from protocol.machine import Effect, Fetch, Land, Offer, Reduce

Key = tuple[int, bytes]

ROUNDING = {"fp32": 1e-5, "int8": 4 / 127}
"""Of a codec, twice over, relative to the largest value that it encodes."""


class Averages:
    """See the module docstring."""

    def __init__(self) -> None:
        self.num_checked = 0
        self.num_partial = 0
        """Parts in which not everybody is."""
        self._offered: defaultdict[Key, dict[PeerId, Tensor]] = defaultdict(dict)
        self._tokens: defaultdict[Key, dict[PeerId, int]] = defaultdict(dict)

    def watch(self, peer: SimPeer) -> None:
        """Looks at a peer's landings from now on."""
        mixing, us = peer.mixing, peer.peer_id
        offer, land = mixing.offer, mixing.land

        def offering(effect: Offer, theta: Tensor) -> Tensor | None:
            copy = mixing.outer[effect.fragment].copy
            outgoing = mixing._rule.rule.outgoing(copy.start, theta).reshape(-1)
            self._offered[effect.fragment, effect.exchange_id][us] = outgoing
            return offer(effect, theta)

        def landing(effect: Land) -> OuterState:
            before = mixing.outer[effect.fragment].copy
            new = land(effect)
            self._check(mixing, effect, before, new.copy)
            return new

        mixing.offer, mixing.land = offering, landing  # type: ignore[method-assign]

    def note(self, us: PeerId, effect: Effect) -> None:
        """Notes the weights that a machine gives."""
        match effect:
            case Fetch() if effect.ref.kind == "part":
                key = effect.ref.fragment, effect.ref.exchange_id
                self._tokens[key][effect.src] = effect.tokens
            case Reduce():
                key = effect.ref.fragment, effect.ref.exchange_id
                self._tokens[key][us] = effect.own_tokens

    def _check(self, mixing: Mixing, effect: Land, before: OuterCopy, after: OuterCopy) -> None:
        key = effect.fragment, effect.exchange_id
        offered, tokens = self._offered[key], self._tokens[key]
        average = average_of(mixing._rule.rule, before, after)
        rounding = ROUNDING[mixing._codecs[effect.terms.codec].name]
        bounds = effect.terms.bounds(len(average))
        for part, (start, stop) in enumerate(pairwise(bounds)):
            if start == stop:
                continue
            members = sorted(set(offered) & set(tokens))
            groups = [g for n in range(len(members), 0, -1) for g in combinations(members, n)]
            largest = max(float(offered[member][start:stop].abs().max()) for member in members)
            for group in groups:
                weight = sum(tokens[member] for member in group)
                mean = sum(
                    (offered[member][start:stop] * (tokens[member] / weight) for member in group),
                    torch.zeros(stop - start),
                )
                far = float((mean - average[start:stop]).abs().max())
                if far <= rounding * largest + 1e-5:
                    self.num_partial += len(group) < len(members)
                    break
            else:
                raise AssertionError(f"part {part} of {key} is no mean of what was offered")
        self.num_checked += 1


def average_of(rule: object, before: OuterCopy, after: OuterCopy) -> Tensor:
    """Returns the average that took an outer copy from there to here, `[m]`.

    Raises:
        AssertionError: no average does.
    """
    old, new = before.state["momentum"], after.state["momentum"]
    match rule:
        case Nesterov() | Eager():
            average = new - rule.momentum * old
            step = rule.lr * (average + rule.momentum * new)
            torch.testing.assert_close(after.anchor, before.anchor - step, atol=1e-5, rtol=1e-4)
        case NoLoCo():
            average = (new - rule.momentum * old) / rule.lr + before.anchor
            torch.testing.assert_close(after.anchor, before.anchor + new, atol=1e-5, rtol=1e-4)
        case _:
            raise NotImplementedError(rule)
    assert after.round == before.round + 1
    return average
