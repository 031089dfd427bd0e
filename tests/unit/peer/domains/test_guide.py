"""Where a peer goes, what it says of it, and when a domain is over."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from peer.domains.guide import NEARLY_FRAC, PATIENCE_S, QUIET_S, SETTLE_S, Guide
from peer.domains.kept import KeptStates
from peer.presence import Presence
from peer.run_folder import MANIFEST
from peer.status import PeerStatus
from protocol.card import Card, Kept
from protocol.domains import domain_manifest
from protocol.errors import ConfigError
from protocol.manifest import Manifest, manifest_from, parse_manifest
from tests.unit.peer.domains.hall import IDS, Hall
from tests.unit.peer.domains.small_run import (
    DILOCO,
    FOUNDER,
    RUN,
    TOTAL_STEPS,
    final_state,
    run_of,
    state_at,
)

TWO = run_of({"law": DILOCO, "wiki": DILOCO})
OURS, THEIRS = 1, 2
ENOUGH_BYTES = 1 << 40
BARE = Card(wire_addresses=("10.0.0.1:4000",))


class Newcomer:
    """A guide and what is around it."""

    def __init__(
        self,
        run: Manifest,
        folder: Path,
        *,
        hall: Hall | None = None,
        number: int = OURS,
        **kw: Any,
    ) -> None:
        self.hall = hall or Hall(run)
        self.loop, self.status = self.hall.loop, PeerStatus()
        self.presence: Presence = self.hall.enter(number)
        folder.mkdir(exist_ok=True)
        self.kept = KeptStates(folder, run)
        settings = {
            "wanted": None,
            "may_read": False,
            "memory_bytes": ENOUGH_BYTES,
            "flops_per_s": 10,
        }
        self.guide = Guide(run, self.presence, self.kept, self.status, **(settings | kw))

    def choose(self) -> str:
        found: str = self.loop.run_until_complete(self.guide.choose(lambda: BARE))
        return found

    def keep(self, domain: str, run: Manifest = RUN, *, step: int = TOTAL_STEPS) -> None:
        is_final = step == TOTAL_STEPS
        state = final_state(domain, run=run) if is_final else state_at(domain, step, run=run)
        self.loop.run_until_complete(self.kept.keep(domain, state))


def card(domain: str = "", step: int = 0, **fields: Any) -> Card:
    return Card(wire_addresses=(), domain=domain, step=step, **fields)


def final(domain: str) -> Kept:
    return Kept(domain, 15, TOTAL_STEPS, is_final=True)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    return tmp_path / "ours"  # type: ignore[return-value]


def test_who_comes_says_so_first_and_then_where(folder: Path) -> None:
    newcomer = Newcomer(TWO, folder, memory_bytes=ENOUGH_BYTES, flops_per_s=12)
    newcomer.keep("law", TWO, step=100)
    hall = newcomer.hall
    coming = hall.loop.create_task(newcomer.guide.choose(lambda: BARE))
    hall.loop.run_until(0.9 * SETTLE_S)
    said = hall.card_of(OURS)
    assert said is not None
    assert (said.role, said.domain, said.wire_addresses) == ("coming", "", BARE.wire_addresses)
    assert (said.memory_bytes, said.flops_per_s) == (ENOUGH_BYTES, 12)
    assert said.kept == (Kept("law", 5, 100, is_final=False),)
    domain = hall.loop.run_until_complete(coming)
    said = hall.card_of(OURS)
    assert said is not None
    assert (said.role, said.domain) == ("coming", domain)
    assert domain == newcomer.guide.domain == newcomer.presence.domain == newcomer.status.domain
    assert [each.domain for each in newcomer.status.standings] == ["law", "wiki"]


def test_two_who_come_at_once_go_to_different_domains(tmp_path: Path) -> None:
    hall = Hall(TWO)
    ours = Newcomer(TWO, tmp_path / "ours", hall=hall)
    theirs = Newcomer(TWO, tmp_path / "theirs", hall=hall, number=THEIRS)

    async def both() -> list[str]:
        first = asyncio.create_task(ours.guide.choose(lambda: BARE))
        await asyncio.sleep(SETTLE_S / 2)
        return [await theirs.guide.choose(lambda: BARE), await first]

    assert sorted(hall.loop.run_until_complete(both())) == ["law", "wiki"]


def test_a_directory_out_of_reach_keeps_nobody_from_training(folder: Path) -> None:
    newcomer = Newcomer(TWO, folder)
    newcomer.hall.is_out_of_reach = True
    assert newcomer.choose() in ("law", "wiki")


def one_line(error: pytest.ExceptionInfo[ConfigError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_domain_that_the_run_does_not_have_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError) as error:
        Newcomer(TWO, folder, wanted="cooking")
    assert one_line(error) == "the run has no domain 'cooking'; it has law, wiki"


@pytest.mark.parametrize("is_ours", [False, True], ids=["elsewhere", "here"])
def test_a_named_domain_that_is_done_is_a_mistake_of_the_first_life_only(
    is_ours: bool, tmp_path: Path
) -> None:
    def newcomer(**settings: Any) -> Newcomer:
        made = Newcomer(TWO, tmp_path / "ours", wanted="law", **settings)
        if is_ours:
            made.keep("law", TWO)
        else:
            made.hall.show(THEIRS, card("wiki", kept=(final("law"),)))
        return made

    with pytest.raises(ConfigError) as error:
        newcomer().choose()
    assert one_line(error) == (
        f"domain law has reached its budget of {TOTAL_STEPS} steps; "
        "leave --domain out to go where there is something to do"
    )
    assert newcomer(insists=False).choose() == "wiki"


def test_a_named_domain_is_taken_wherever_the_need_is(folder: Path) -> None:
    for wanted in ("law", "wiki"):
        newcomer = Newcomer(TWO, folder, wanted=wanted)
        for number in range(2, 8):
            newcomer.hall.show(number, card(wanted))
        assert newcomer.choose() == wanted
        said = newcomer.hall.card_of(OURS)
        assert said is not None
        assert said.stays, "others need not reckon with us elsewhere"
        newcomer.presence.cards = {IDS[n]: card(wanted, step=20) for n in range(2, 8)}
        assert newcomer.guide.best(BARE) == wanted


def test_a_named_domain_that_waits_for_its_seed_is_waited_for(folder: Path) -> None:
    newcomer = Newcomer(RUN, folder, wanted="math")
    assert newcomer.choose() == ""
    assert newcomer.guide.best(BARE) is None
    newcomer.presence.cards = {IDS[THEIRS]: card(kept=(final("seed"),))}
    assert newcomer.guide.best(BARE) == "math"
    newcomer.presence.cards = {IDS[THEIRS]: card(kept=(final("seed"), final("math")))}
    assert newcomer.guide.best(BARE) != "math", "while we waited, others finished it"


def test_a_machine_with_too_little_memory_is_told_how_much_it_takes(folder: Path) -> None:
    with pytest.raises(ConfigError) as error:
        Newcomer(TWO, folder, wanted="law", memory_bytes=100_000_000)
    assert one_line(error) == ("domain law needs about 0.7 GB of memory, and 0.1 GB are free here")
    with pytest.raises(ConfigError, match="of memory, and"):
        Newcomer(TWO, folder, memory_bytes=1)
    assert Newcomer(TWO, folder, memory_bytes=0).choose(), "nobody knows how much there is"


def run_with_text(recipe: str) -> Manifest:
    settings = TWO.model_dump(mode="json")
    settings["domains"][0]["data"] = {"recipe": recipe}
    return manifest_from(settings)


@pytest.mark.parametrize("recipe", ["text:/somewhere/*.txt", "mix:stdlib + text:/somewhere/*.txt"])
def test_nobody_trains_on_an_operators_files_without_consent(recipe: str, folder: Path) -> None:
    run = run_with_text(recipe)
    with pytest.raises(ConfigError) as error:
        Newcomer(run, folder, wanted="law")
    assert one_line(error) == (
        "domain law would train on your files '/somewhere/*.txt', and the expert that others get "
        "may remember them; if you agree, add --allow-text"
    )
    with pytest.raises(ConfigError) as error:
        Newcomer(run, folder, wanted="law", may_read=True)
    assert one_line(error) == (
        "domain law: data.recipe 'text:/somewhere/*.txt' matches no file on this machine"
    )
    for may_read in (False, True):  # who is not told where to go, goes where it can
        assert Newcomer(run, folder, may_read=may_read).choose() == "wiki"


def test_with_consent_and_files_all_domains_are_open(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Habeas corpus. " * 100)
    run = run_with_text(f"text:{tmp_path}/*.txt")
    newcomer = Newcomer(run, tmp_path / "ours", may_read=True)
    newcomer.hall.show(THEIRS, card("wiki", kept=()))
    assert newcomer.choose() == "law"


def test_a_method_that_cannot_work_is_named_with_its_domain(folder: Path) -> None:
    groups = {"mixing": "groups", "group_size": 9, "outer": {"rule": "noloco"}}
    run = run_of({"law": groups, "wiki": DILOCO}, limits={"max_peers": 8})
    with pytest.raises(ConfigError, match=r"^domain law: method\.group_size"):
        Newcomer(run, folder, wanted="law")
    assert Newcomer(run, folder).choose() == "wiki"


def test_what_waits_for_its_seed_has_nobody_until_that_is_done(tmp_path: Path) -> None:
    run = run_of({"seed": DILOCO, "math": DILOCO})
    assert Newcomer(run, tmp_path / "first").choose() == "seed"
    later = Newcomer(run, tmp_path / "second")
    later.hall.show(THEIRS, card(kept=(final("seed"),)))
    assert later.choose() == "math"
    heir = Newcomer(run, tmp_path / "third")  # all who had the seed are gone
    heir.hall.show(THEIRS, card("math", step=40, round=2))
    heir.choose()
    assert {each.domain: each.waits_for for each in heir.status.standings}["math"] == ""


def test_a_peer_that_comes_back_to_a_domain_that_it_finished_goes_elsewhere(
    tmp_path: Path,
) -> None:
    newcomer = Newcomer(TWO, tmp_path / "ours")
    newcomer.keep("law", TWO)
    assert newcomer.choose() == "wiki"
    again = Newcomer(TWO, tmp_path / "ours")
    again.keep("wiki", TWO)
    assert again.choose() == ""
    assert again.presence.domain == ""
    assert all(each.is_done for each in again.status.standings)
    said = again.hall.card_of(OURS)
    assert said is not None
    assert {each.domain for each in said.kept if each.is_final} == {"law", "wiki"}


STEP_95 = round(NEARLY_FRAC * TOTAL_STEPS)


@pytest.mark.parametrize(
    ("step", "is_done", "has_nothing", "quiet_s", "others", "is_over"),
    [
        (TOTAL_STEPS, True, True, QUIET_S, [], True),
        (TOTAL_STEPS, True, True, QUIET_S - 0.1, [], False),  # something has just landed
        (TOTAL_STEPS, True, False, 1e6, [], False),  # our work is not in the anchor
        (TOTAL_STEPS, False, True, 1e6, [], False),
        (100, True, True, 1e6, [], False),  # our operator lets us go no farther
        (TOTAL_STEPS, True, True, QUIET_S, [STEP_95], False),  # they are about to contribute
        (TOTAL_STEPS, True, True, PATIENCE_S, [STEP_95], True),
        (TOTAL_STEPS, True, True, QUIET_S, [STEP_95 - 1, 0], True),  # they are far behind
        (TOTAL_STEPS, True, True, QUIET_S, [TOTAL_STEPS, TOTAL_STEPS + 9], True),
        (TOTAL_STEPS, True, True, QUIET_S, [TOTAL_STEPS, TOTAL_STEPS - 1], False),
    ],
)
def test_when_a_domain_is_over(
    step: int,
    is_done: bool,
    has_nothing: bool,
    quiet_s: float,
    others: list[int],
    is_over: bool,
    folder: Path,
) -> None:
    newcomer = Newcomer(TWO, folder, wanted="law")
    newcomer.choose()
    newcomer.status.step, newcomer.status.is_done = step, is_done
    cards = [card("law", each) for each in others]
    cards += [card("wiki", TOTAL_STEPS - 1), card("law", TOTAL_STEPS - 1, role="left")]
    newcomer.presence.cards = dict(zip(IDS[5:], cards, strict=False))
    ours = card("law", step)
    found = newcomer.guide.is_over(ours, has_nothing_to_give=has_nothing, quiet_s=quiet_s)
    assert found == is_over


def test_a_domain_has_a_folder_with_its_own_manifest(tmp_path: Path) -> None:
    newcomer = Newcomer(TWO, tmp_path / "ours", wanted="law")
    newcomer.choose()
    for _ in range(2):
        manifest, own = newcomer.guide.child(tmp_path / "ours")
        assert own.is_relative_to(tmp_path / "ours")
        assert parse_manifest((own / MANIFEST).read_bytes()) == manifest
        assert manifest == domain_manifest(TWO, "law")
        assert manifest.run_id != TWO.run_id
        assert manifest.founder == FOUNDER.peer_id
    blocked = tmp_path / "blocked"
    blocked.write_text("a file")
    with pytest.raises(ConfigError, match=r"cannot write to .*blocked"):
        newcomer.guide.child(blocked)


def test_who_goes_to_another_domain_says_no_goodbye_to_the_swarm(folder: Path) -> None:
    newcomer = Newcomer(TWO, folder, wanted="law")
    newcomer.choose()
    newcomer.keep("wiki", TWO)
    goodbye = replace(BARE, role="left")
    assert newcomer.guide.dressed(goodbye).role == "left"
    newcomer.guide.is_going = True
    said = newcomer.guide.dressed(goodbye)
    assert (said.role, said.domain, said.wire_addresses) == ("coming", "", ())
    assert said.kept == newcomer.kept.cards()
    assert newcomer.guide.dressed(BARE).role == "peer"
