"""One life in a run with domains: how it begins, what it waits for, and why it ends."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from peer.config import PeerConfig
from peer.domains import kept
from peer.domains.desk import Desk
from peer.domains.guide import DOMAINS, PATIENCE_S, QUIET_S, SETTLE_S, Guide
from peer.domains.kept import KEPT, KeptStates
from peer.domains.stay import COPY_S, FAR_ROUNDS, LOOK_S, SURE_S, Stay
from peer.driver import Driver
from peer.method import mixing_of
from peer.mixing import Mixing
from peer.net.config import WireConfig
from peer.net.wire_memory import MemoryNetwork, MemoryWire
from peer.presence import REFRESH_S
from peer.status import PeerStatus
from peer.train.model import initial_anchor, layout_of_run
from protocol.card import Card, Kept
from protocol.domains import domain_manifest
from protocol.errors import ConfigError
from protocol.manifest import Manifest
from protocol.ticket import Address, Ticket
from tests.unit.peer.domains.hall import IDS, Hall
from tests.unit.peer.domains.small_run import (
    DILOCO,
    FOUNDER,
    RUN,
    TOTAL_STEPS,
    bits_of,
    final_state,
    run_of,
    state_at,
)

TWO = run_of({"law": DILOCO, "wiki": DILOCO})
OURS, OTHER, THIRD = 1, 2, 3
IDLE_S = 200.0
HERE = ("10.0.0.1:4000",)


class Quiet:
    """Stands for a driver all of whose work has landed, or not."""

    has_nothing_to_give = True


class Ours:
    """A stay and what is around it."""

    def __init__(self, run: Manifest, folder: Path, **settings: Any) -> None:
        self.run, self.folder = run, folder
        self.hall = Hall(run)
        self.loop, self.status = self.hall.loop, PeerStatus()
        self.status.waits.now_s = self.loop.time  # type: ignore[method-assign]
        self.presence = self.hall.enter(OURS)
        folder.mkdir(exist_ok=True)
        self.kept = KeptStates(folder, run)
        self.network, self.driver = MemoryNetwork(), Quiet()
        self.events: list[dict[str, Any]] = []
        basics: dict[str, Any] = {
            "wanted": None,
            "may_read": False,
            "memory_bytes": 0,
            "flops_per_s": 1,
        }
        guide = Guide(run, self.presence, self.kept, self.status, **(basics | settings))
        self.stay = Stay(*(run, guide, self.kept, self.presence), status=self.status, events=self)
        config = WireConfig(run_id=run.run_id, progress_s=2.0)
        desk = self.stay.desk(None)
        self.wire = MemoryWire(self.network, IDS[OURS], config, inbox=desk)
        self.stay.follow(self.wire, self.card)

    def write(self, event: str, **fields: Any) -> None:
        self.events.append({"event": event, **fields})

    def card(self) -> Card:
        return Card(wire_addresses=HERE, step=self.status.step, round=self.status.round)

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def choose(self) -> str:
        return str(self.do(self.stay.guide.choose(self.card)))

    def keep(self, domain: str, step: int = TOTAL_STEPS) -> None:
        is_final = step == TOTAL_STEPS
        state = state_at(domain, step, is_final=is_final, run=self.run)
        self.do(self.kept.keep(domain, state))

    def meet(self, number: int, domain: str = "", step: int = 0, **fields: Any) -> None:
        """Somebody is there from now on."""
        card = Card(wire_addresses=HERE, domain=domain, step=step, **fields)
        self.hall.show(number, card)
        self.presence.cards = {**self.presence.cards, IDS[number]: card}

    def donate(self, number: int, folder: Path, domain: str) -> None:
        """Somebody keeps a domain's last state, and gives it."""
        folder.mkdir()
        states = KeptStates(folder, self.run)
        self.do(states.keep(domain, final_state(domain, run=self.run)))
        config = WireConfig(run_id=self.run.run_id, progress_s=2.0)
        desk = Desk("", None, states)
        MemoryWire(self.network, IDS[number], config, inbox=desk)
        self.meet(number, kept=states.cards())

    def training(self) -> "asyncio.Task[None]":
        work = self.stay.train(self.card, cast("Driver", self.driver))
        return self.loop.create_task(work)

    def finish(self, step: int = TOTAL_STEPS) -> None:
        """Our trainer has made its last step."""
        self.status.step, self.status.is_done = step, True

    def go(self, seconds: float) -> None:
        self.loop.run_until(self.loop.time() + seconds)

    def names(self) -> list[str]:
        return [event["event"] for event in self.events]


def last(domain: str) -> Kept:
    return Kept(domain, 15, TOTAL_STEPS, is_final=True)


Enter = Callable[..., Ours]


@pytest.fixture
def enter(tmp_path: Path) -> Iterator[Enter]:
    """Lets us enter a run."""
    made: list[Ours] = []

    def enter(run: Manifest, **settings: Any) -> Ours:
        made.append(Ours(run, tmp_path / "ours", **settings))
        return made[-1]

    yield enter
    for ours in made:
        ours.loop.close()
        assert not ours.loop.problems


@pytest.fixture
def ours(enter: Enter) -> Ours:
    """Who trains law, of two domains."""
    made = enter(TWO, wanted="law")
    assert made.choose() == "law"
    return made


# ---- the end


def test_a_life_ends_when_its_domain_is_over_and_quiet(ours: Ours) -> None:
    training = ours.training()
    ours.status.step, ours.status.round = 100, 5
    ours.go(10 * QUIET_S)
    assert not training.done()
    ours.finish()
    ours.status.contributions = 15
    ours.go(QUIET_S - LOOK_S)
    assert not training.done(), "what others contributed may still land"
    ours.go(3 * LOOK_S)
    assert training.done()
    assert ours.stay.goes_on
    assert ours.stay.has_finished


def test_a_landing_makes_us_wait_anew(ours: Ours) -> None:
    training = ours.training()
    ours.finish()
    for contributions in range(1, 8):
        ours.go(QUIET_S - 2 * LOOK_S)
        ours.status.contributions = contributions
    assert not training.done()
    ours.go(QUIET_S + 3 * LOOK_S)
    assert training.done()


def test_landings_of_others_keep_nobody(ours: Ours) -> None:
    training = ours.training()
    ours.finish()
    for round in range(1, 8):
        ours.go(QUIET_S - 2 * LOOK_S)
        ours.status.round = round
    assert training.done()


def test_who_waits_for_a_straggler_does_not_wait_for_ever(ours: Ours) -> None:
    training = ours.training()
    ours.finish()
    ours.meet(OTHER, "law", TOTAL_STEPS - 1)
    ours.go(PATIENCE_S - 5)
    assert not training.done()
    ours.go(10)
    assert training.done()
    assert ours.stay.has_finished


def test_an_operator_who_ends_training_early_does_not_end_the_domain(ours: Ours) -> None:
    training = ours.training()
    ours.finish(step=TOTAL_STEPS // 2)
    ours.go(10 * PATIENCE_S)
    assert not training.done()


def test_work_of_ours_that_has_not_landed_is_waited_for(ours: Ours) -> None:
    training = ours.training()
    ours.finish()
    ours.driver.has_nothing_to_give = False
    ours.go(10 * PATIENCE_S)
    assert not training.done()
    ours.driver.has_nothing_to_give = True
    ours.go(2 * LOOK_S)
    assert training.done()


def test_who_is_behind_when_others_are_done_takes_their_state_and_goes(
    ours: Ours, tmp_path: Path
) -> None:
    training = ours.training()
    ours.status.step = 120
    ours.go(20.0)
    ours.donate(OTHER, tmp_path / "other", "law")
    ours.go(10.0)
    assert training.done()
    assert ours.stay.goes_on
    assert not ours.stay.has_finished, "our state is not the last one"
    assert "domain law has reached its budget elsewhere" in ours.status.notices
    assert bits_of(ours.do(ours.kept.load("law"))) == bits_of(final_state("law", run=TWO))


def test_who_only_says_that_a_domain_is_done_ends_it_for_nobody(ours: Ours) -> None:
    training = ours.training()
    ours.status.step = 120
    ours.meet(OTHER, "wiki", kept=(last("law"),))
    ours.go(600.0)
    assert not training.done()
    ours.finish()
    ours.go(QUIET_S + 3 * LOOK_S)
    assert training.done()
    assert ours.stay.has_finished


def crowded(enter: Enter) -> Ours:
    """Who trains law with two who will not go, while wiki has somebody."""
    made = enter(TWO)
    made.meet(OTHER, "law", 40, stays=True)
    made.meet(THIRD, "law", 40, stays=True)
    made.meet(4, "wiki", 40, stays=True)
    made.meet(5, "wiki", 40, stays=True)
    made.meet(6, "wiki", 40, stays=True)
    assert made.choose() == "law"
    made.status.step = 40
    return made


def test_a_domain_that_loses_its_last_peer_is_rescued_by_one_of_a_crowd(
    enter: Enter, tmp_path: Path
) -> None:
    ours = crowded(enter)
    training = ours.training()
    ours.go(60.0)
    assert not training.done()
    for number in (4, 5, 6):
        ours.meet(number, "wiki", role="left")
    ours.go(SURE_S - 2 * LOOK_S)
    assert not training.done()
    ours.go(4 * LOOK_S)
    assert training.done()
    assert ours.stay.goes_on
    assert not ours.stay.has_finished
    assert {"event": "domain_left", "to": "wiki"} in ours.events


def test_a_need_that_comes_and_goes_moves_nobody(enter: Enter, tmp_path: Path) -> None:
    ours = crowded(enter)
    training = ours.training()
    for _ in range(10):
        for number in (4, 5, 6):
            ours.meet(number, "wiki", role="left")
        ours.go(SURE_S - 2 * LOOK_S)
        ours.meet(4, "wiki", 40)  # its card was late
        ours.go(2 * LOOK_S)
    assert not training.done()


def test_the_last_one_of_a_domain_stays(ours: Ours) -> None:
    ours.status.step = 40
    training = ours.training()
    ours.go(60.0)  # wiki has nobody, but law would have nobody then
    assert not training.done()


def test_leaving_while_training_is_no_other_life(ours: Ours) -> None:
    training = ours.training()
    ours.go(5.0)
    training.cancel()
    ours.go(1.0)
    assert training.cancelled()
    assert not ours.stay.goes_on
    assert not asyncio.all_tasks(ours.loop), "nobody copies any more"


# ---- with nothing to train


def idling(enter: Enter, tmp_path: Path) -> tuple[Ours, "asyncio.Task[None]"]:
    ours = enter(TWO)
    ours.keep("law")
    ours.donate(OTHER, tmp_path / "other", "wiki")
    assert ours.choose() == ""
    work = ours.stay.idle(ours.card, lambda: None)
    return ours, ours.loop.create_task(work)


def test_who_has_nothing_to_train_fetches_all_experts_and_gives_them(
    enter: Enter, tmp_path: Path
) -> None:
    ours, idle = idling(enter, tmp_path)
    ours.go(IDLE_S)
    assert not idle.done()
    state = ours.do(ours.kept.load("wiki"))
    assert bits_of(state) == bits_of(final_state("wiki", run=TWO))
    said = ours.hall.card_of(OURS)
    assert said is not None
    assert (said.role, said.domain) == ("peer", "")
    assert sorted(each.domain for each in said.kept) == ["law", "wiki"]
    assert ours.status.phase == (
        "every domain has reached its budget; 2 of 2 experts are here, for others too"
    )
    idle.cancel()
    ours.go(5.0)
    said = ours.hall.card_of(OURS)
    assert said is not None
    assert said.role == "left"
    assert not ours.stay.goes_on
    assert not asyncio.all_tasks(ours.loop)


def test_who_has_nothing_to_train_goes_where_there_is_work_again(enter: Enter) -> None:
    """All who had the last state of a domain are gone before we could fetch it."""
    ours = enter(TWO)
    ours.keep("law")
    ours.meet(OTHER, "", kept=(last("wiki"),))  # and gives nothing
    assert ours.choose() == ""
    idle = ours.loop.create_task(ours.stay.idle(ours.card, lambda: None))
    ours.go(60.0)
    assert not idle.done()
    ours.meet(OTHER, role="left")
    ours.go(REFRESH_S + SURE_S + 3 * LOOK_S)
    assert idle.done()
    idle.result()
    assert ours.stay.goes_on
    said = ours.hall.card_of(OURS)
    assert said is not None
    assert (said.role, said.domain, said.wire_addresses) == ("coming", "", ())
    assert said.kept == ours.kept.cards(), "its next life has them still"


def test_a_directory_out_of_reach_ends_no_idle_life(enter: Enter, tmp_path: Path) -> None:
    ours, idle = idling(enter, tmp_path)
    ours.hall.is_out_of_reach = True
    ours.go(IDLE_S)
    assert not idle.done()
    idle.cancel()
    ours.go(5.0)
    assert idle.cancelled()


def test_a_named_domain_that_others_finish_while_it_waits_is_no_mistake(
    enter: Enter, tmp_path: Path
) -> None:
    ours = enter(RUN, wanted="math")
    assert ours.choose() == ""  # it waits for its seed
    idle = ours.loop.create_task(ours.stay.idle(ours.card, lambda: None))
    ours.go(20.0)
    ours.meet(OTHER, "law", kept=(last("seed"), last("math")))
    ours.go(40.0)
    assert idle.done()
    idle.result()


# ---- the last state


def mixing_at(run: Manifest, domain: str, step: int) -> Mixing:
    """A mixing that has come to a step of its domain."""
    mixing = mixing_of(domain_manifest(run, domain), IDS[OURS])
    for fragment, each in enumerate(state_at(domain, step, run=run).fragments):
        vectors = [vector.clone() for vector in each.vectors]
        mixing.load_state_blob(fragment, vectors, each.round, lineage=each.lineage)
    return mixing


@pytest.mark.parametrize("domain", ["law", "math", "wiki"])
def test_the_last_state_is_kept_as_it_is(domain: str, enter: Enter) -> None:
    ours = enter(RUN, wanted=domain)
    ours.keep("seed")
    assert ours.choose() == domain
    mixing = mixing_at(RUN, domain, 280)
    ours.do(ours.stay.keep_final(mixing.outer))
    assert ours.kept.is_final(domain)
    state = ours.do(ours.kept.load(domain))
    assert (state.step, state.is_final) == (TOTAL_STEPS, True)
    for fragment, outer in zip(state.fragments, mixing.outer, strict=True):
        assert (fragment.round, fragment.lineage) == (outer.round, outer.lineage)
        assert torch.equal(fragment.vectors[0], outer.anchor)
    assert ours.names()[-1] == "domain_done"


def test_after_a_full_disk_we_do_not_go_on_and_the_domain_is_not_done(
    ours: Ours, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise ConfigError("cannot write: No space left on device")

    monkeypatch.setattr(kept, "TensorFile", full)
    ours.stay.goes_on = ours.stay.guide.is_going = True
    with pytest.raises(ConfigError, match=r"^the expert of law was not kept: .*No space left"):
        ours.do(ours.stay.keep_final(mixing_at(TWO, "law", 280).outer))
    assert not ours.stay.goes_on
    assert not ours.stay.guide.is_going
    assert "domain_done" not in ours.names()
    assert not ours.kept.is_final("law")


def test_a_model_that_has_diverged_is_no_expert(ours: Ours) -> None:
    mixing = mixing_at(TWO, "law", 280)
    mixing.outer[0].anchor[0] = float("nan")
    with pytest.raises(ConfigError, match="diverged"):
        ours.do(ours.stay.keep_final(mixing.outer))
    assert not ours.kept.is_final("law")


# ---- the beginning


def prepared(ours: Ours, domain: str, mixing: Mixing | None = None) -> Mixing:
    child = domain_manifest(ours.run, domain)
    mixing = mixing or mixing_of(child, IDS[OURS])
    ours.do(ours.stay.prepare(mixing))
    return mixing


def anchor_of(mixing: Mixing) -> torch.Tensor:
    return torch.cat([outer.anchor for outer in mixing.outer])


@pytest.mark.parametrize("domain", ["law", "math", "wiki"])
def test_a_domain_that_lost_everybody_goes_on_from_our_copy(domain: str, enter: Enter) -> None:
    ours = enter(RUN, wanted=domain)
    ours.keep("seed")
    ours.keep(domain, 240)
    assert ours.choose() == domain
    mixing = prepared(ours, domain)
    copy = state_at(domain, 240)
    for outer, fragment in zip(mixing.outer, copy.fragments, strict=True):
        assert (outer.round, outer.digest) == (fragment.round, fragment.anchor_digest)
        assert torch.equal(outer.anchor, fragment.vectors[0])
        rest = [outer.copy.state[name] for name in sorted(outer.copy.state)]
        for vector, expected in zip(rest, fragment.vectors[1:], strict=True):
            assert torch.equal(vector, expected)
        assert all(outer.lineage.knows(r, name) for r, name in fragment.lineage.tokens)


def test_a_copy_that_is_older_than_our_checkpoint_does_not_take_its_place(ours: Ours) -> None:
    ours.keep("law", 100)
    mixing = mixing_at(TWO, "law", 200)
    before = anchor_of(mixing)
    prepared(ours, "law", mixing)
    assert torch.equal(anchor_of(mixing), before)
    assert mixing.round_of(0) == state_at("law", 200, run=TWO).round


def test_a_damaged_copy_is_named_and_we_begin_without_it(ours: Ours) -> None:
    ours.keep("law", 100)
    path = ours.folder / KEPT / "law.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    mixing = prepared(ours, "law")
    assert torch.equal(anchor_of(mixing), initial_anchor(domain_manifest(TWO, "law")))
    assert "our copy of law is of no use" in ours.status.notices[-1]
    assert ours.kept.cards() == ()


def by_name(flat: torch.Tensor, run: Manifest, domain: str) -> dict[str, torch.Tensor]:
    layout = layout_of_run(domain_manifest(run, domain))
    return {entry.name: flat[entry.start : entry.stop] for entry in layout.entries}


def assert_branched(mixing: Mixing) -> None:
    seed = torch.cat([f.vectors[0] for f in final_state("seed").fragments])
    theirs, found = by_name(seed, RUN, "seed"), by_name(anchor_of(mixing), RUN, "math")
    assert found.keys() == theirs.keys()
    for name, value in found.items():
        assert torch.equal(value, theirs[name])
    assert len(mixing.outer) == 3, "the seed is in one piece"
    for outer in mixing.outer:
        assert outer.round == 0
        assert not any(bool(vector.any()) for vector in outer.copy.state.values())


def test_a_branch_begins_at_the_last_anchor_of_its_seed(enter: Enter, tmp_path: Path) -> None:
    ours = enter(RUN, wanted="math")
    ours.keep("seed")
    assert ours.choose() == "math"
    assert_branched(prepared(ours, "math"))
    assert {"event": "branched", "of": "seed", "step": TOTAL_STEPS} in ours.events


def test_a_seed_that_others_keep_is_fetched_first(enter: Enter, tmp_path: Path) -> None:
    ours = enter(RUN, wanted="math")
    ours.donate(OTHER, tmp_path / "other", "seed")
    assert ours.choose() == "math"
    assert_branched(prepared(ours, "math"))
    assert ours.kept.is_final("seed")


def test_a_seed_whose_copy_is_damaged_is_fetched_from_others(enter: Enter, tmp_path: Path) -> None:
    ours = enter(RUN, wanted="math")
    ours.keep("seed")
    ours.donate(OTHER, tmp_path / "other", "seed")
    assert ours.choose() == "math"
    path = ours.folder / KEPT / "seed.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert_branched(prepared(ours, "math"))


def test_a_seed_that_nobody_can_give_now_is_waited_for(enter: Enter, tmp_path: Path) -> None:
    ours = enter(RUN, wanted="math")
    ours.meet(OTHER, kept=(last("seed"),))  # and gives nothing
    assert ours.choose() == "math"
    mixing = mixing_of(domain_manifest(RUN, "math"), IDS[OURS])
    preparing = ours.loop.create_task(ours.stay.prepare(mixing))
    ours.go(300)
    assert not preparing.done()
    assert "last state of seed" in ours.status.phase
    ours.donate(OTHER + 1, tmp_path / "other", "seed")
    ours.go(300)
    assert preparing.done()
    assert_branched(mixing)


def test_copies_whose_keepers_cannot_be_called_just_now_are_waited_for(
    ours: Ours, tmp_path: Path
) -> None:
    between = Card(wire_addresses=(), role="coming", kept=(Kept("law", 7, 140, is_final=False),))
    ours.hall.show(OTHER, between)
    mixing = mixing_of(domain_manifest(TWO, "law"), IDS[OURS])
    preparing = ours.loop.create_task(ours.stay.prepare(mixing))
    ours.go(COPY_S / 2)
    assert not preparing.done()
    ours.meet(OTHER, kept=between.kept)
    ours.go(10)
    assert preparing.done()


def test_copies_that_nobody_ever_gives_are_not_waited_for_for_ever(ours: Ours) -> None:
    lost = Kept("law", 7, 140, is_final=False)
    ours.hall.show(OTHER, Card(wire_addresses=(), role="coming", kept=(lost,)))
    began_s = ours.loop.time()
    prepared(ours, "law")
    assert COPY_S <= ours.loop.time() - began_s < 2 * COPY_S


def test_where_anchors_are_not_common_a_checkpoint_of_long_ago_is_left(enter: Enter) -> None:
    ours = enter(RUN, wanted="wiki")  # of pairs
    assert ours.choose() == "wiki"
    far = 200 + FAR_ROUNDS * domain_manifest(RUN, "wiki").method.schedule.interval_steps
    ours.meet(OTHER, "wiki", step=far)
    assert not ours.stay.is_behind(200)
    ours.meet(OTHER, "wiki", step=far + 1)
    assert ours.stay.is_behind(200)


def test_a_branch_that_has_begun_needs_its_seed_no_more(enter: Enter, tmp_path: Path) -> None:
    ours = enter(RUN, wanted="math")
    ours.meet(OTHER, "math", step=60, round=3)
    assert ours.choose() == "math"
    mixing = prepared(ours, "math")
    assert torch.equal(anchor_of(mixing), initial_anchor(domain_manifest(RUN, "math")))
    assert "branched" not in ours.names()


@pytest.mark.parametrize(
    ("copies", "members", "role", "is_behind"),
    [
        ([], 0, "peer", False),
        ([150], 0, "peer", False),
        ([200], 0, "peer", False),
        ([240], 0, "peer", True),
        ([240], 0, "coming", True),
        ([240], 0, "left", False),  # it took its copy along
        ([240], 1, "peer", False),  # whoever trains there tells us where they are
        ([150, 240], 0, "holder", True),
    ],
)
def test_who_went_on_without_us(
    copies: list[int], members: int, role: str, is_behind: bool, ours: Ours
) -> None:
    for number, step in enumerate(copies, 5):
        kept_state = Kept("law", step // 20, step, is_final=False)
        ours.meet(number, "wiki", kept=(kept_state, Kept("wiki", 99, 299, False)), role=role)
    for number in range(members):
        ours.meet(10 + number, "law", step=20)
    assert ours.stay.is_behind(200) == is_behind


def test_our_own_copy_may_be_farther_than_our_checkpoint(ours: Ours) -> None:
    ours.keep("law", 240)
    assert ours.stay.is_behind(200)
    assert not ours.stay.is_behind(240)


def test_a_stay_begins_where_the_operator_wants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hall = Hall(TWO)
    monkeypatch.setattr("peer.domains.stay.flops_per_s", lambda device: 77)
    ticket = Ticket(TWO.run_id, FOUNDER.peer_id, (Address("10.0.0.1", 1, IDS[5]),))
    config = PeerConfig(ticket=ticket, directory=tmp_path, device="cpu", domain="wiki")
    bare: Callable[[], Card] = lambda: Card(wire_addresses=())  # noqa: E731

    async def begin(config: PeerConfig) -> Stay:
        presence, status = hall.enter(OURS), PeerStatus()
        events = cast("Any", None)
        return await Stay.begin(TWO, config, presence, bare, status=status, events=events)

    stay = hall.loop.run_until_complete(begin(config))
    assert stay.domain == "wiki"
    assert hall.loop.time() == pytest.approx(SETTLE_S)
    said = hall.card_of(OURS)
    assert said is not None
    assert said.flops_per_s == 77
    manifest, folder = stay.child(tmp_path)
    assert (manifest, folder) == (domain_manifest(TWO, "wiki"), tmp_path / DOMAINS / "wiki")
    with pytest.raises(ConfigError, match="no domain 'cooking'"):
        hall.loop.run_until_complete(begin(replace(config, domain="cooking")))
