"""Dialling over several ways: who is tried when, who wins, and what becomes of the others."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.net import ways
from peer.net.ways import WAYS, Candidate, Way, race
from protocol.errors import RemoteError, ThinwireError, TransportError

ALL = [Candidate(way, f"{way} {n}") for way in WAYS for n in range(2)]
OUTCOMES = ("welcome", "dead", "refused", "silent")


class Network:
    """Candidates answer as the test says; others are silent until they are cancelled."""

    def __init__(self, outcomes: dict[str, str]) -> None:
        self.outcomes = outcomes
        self.tried: list[str] = []
        self.open: set[str] = set()
        self.active = 0

    async def attempt(self, at: Candidate) -> str:
        self.tried.append(at.address)
        self.active += 1
        try:
            await asyncio.sleep(0)
            match self.outcomes.get(at.address, "silent"):
                case "welcome":
                    self.open.add(at.address)
                    return at.address
                case "dead":
                    raise TransportError(f"{at.address} is dead")
                case "refused":
                    raise RemoteError(f"{at.address} refuses us")
            await asyncio.Event().wait()
            raise AssertionError
        finally:
            self.active -= 1

    async def undo(self, address: str) -> None:
        self.open.remove(address)

    async def race(self, candidates: Sequence[Candidate] = ALL, first: Way = "direct") -> str:
        async with asyncio.timeout(10):
            return await race(candidates, self.attempt, first=first, undo=self.undo)


async def test_a_worse_way_is_not_tried_while_a_better_one_may_answer() -> None:
    network = Network({each.address: "welcome" for each in ALL})
    assert (await network.race()).startswith("direct")
    assert all(address.startswith("direct") for address in network.tried)


async def test_the_way_that_is_named_comes_first_and_then_the_best() -> None:
    network = Network({each.address: "dead" for each in ALL})
    with pytest.raises(TransportError):
        await network.race(first="relayed")
    assert [address.split()[0] for address in network.tried[::2]] == [
        "relayed",
        "direct",
        "reverse",
    ]


async def test_when_all_of_a_way_have_failed_the_next_is_tried_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ways, "HEAD_START_S", 1e6)
    network = Network({"direct 0": "dead", "direct 1": "refused", "reverse 1": "welcome"})
    assert await network.race() == "reverse 1"
    assert "relayed 0" not in network.tried


async def test_a_way_that_is_silent_is_overtaken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "HEAD_START_S", 0.01)
    network = Network({"relayed 1": "welcome"})
    assert await network.race() == "relayed 1"
    assert len(network.tried) == len(ALL)


async def test_a_refusal_says_more_than_a_dead_address() -> None:
    outcomes = {each.address: "dead" for each in ALL} | {"reverse 0": "refused"}
    with pytest.raises(RemoteError, match="reverse 0 refuses us"):
        await Network(outcomes).race()


@given(data=st.data(), first=st.sampled_from(WAYS))
def test_whoever_welcomes_us_is_found_and_nothing_else_is_left_open(
    data: st.DataObject, first: Way
) -> None:
    candidates = data.draw(st.lists(st.sampled_from(ALL), min_size=1, unique=True))
    outcomes = {each.address: data.draw(st.sampled_from(OUTCOMES)) for each in candidates}
    outcomes[candidates[0].address] = data.draw(st.sampled_from(OUTCOMES[:3]))
    if "welcome" not in outcomes.values():  # or it would be waited for until somebody gives up
        outcomes = {each: "dead" if how == "silent" else how for each, how in outcomes.items()}
    network = Network(outcomes)

    async def run() -> str | ThinwireError:
        try:
            return await network.race(candidates, first)
        except ThinwireError as error:
            return error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ways, "HEAD_START_S", 0.0)
        winner = asyncio.run(run())
    if "welcome" in outcomes.values():
        assert isinstance(winner, str)
        assert outcomes[winner] == "welcome"
        assert network.open == {winner}
    else:
        assert isinstance(winner, RemoteError if "refused" in outcomes.values() else TransportError)
        assert not network.open
    assert network.active == 0
