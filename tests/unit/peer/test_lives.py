"""What follows on the death of a trainer, with peers whose lives are scripted."""

import asyncio
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from peer import lives
from peer.app import Peer
from peer.config import PeerConfig
from peer.life import AnotherLife
from peer.lives import MAX_DEATHS, WITHIN_S, Lives
from peer.sim.clock import VirtualClock
from peer.sim.loop import VirtualLoop
from peer.trainer_port import TrainerGone
from protocol.errors import ConfigError, TransportError
from protocol.identity import Identity
from protocol.manifest import RunId
from protocol.ticket import Address, Ticket

IDS = [Identity(bytes([n]) * 32).peer_id for n in range(1, 9)]
Script = Callable[["ScriptedPeer"], Awaitable[None]]


class ScriptedPeer:
    """Stands for `peer.app.Peer`: one life that ends as the test wants."""

    made: list["ScriptedPeer"] = []  # noqa: RUF012
    script: Script

    def __init__(self, config: PeerConfig, status: Any) -> None:
        self.config, self.status, self.ticket = config, status, config.ticket
        self.leaving = asyncio.Event()
        self.checkpoint_step: int | None = None
        self.goes_on = False
        self.number = len(self.made)
        self.made.append(self)

    def leave(self) -> None:
        self.leaving.set()

    async def live(self) -> None:
        await type(self).script(self)


def config_of(resume: bool | None = None, domain: str | None = None) -> PeerConfig:
    ticket = Ticket(RunId("ab" * 32), IDS[0], (Address("10.0.0.1", 1, IDS[1]),))
    return PeerConfig(ticket=ticket, directory=Path("mine"), resume=resume, domain=domain)


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> VirtualLoop:
    monkeypatch.setattr(lives, "Peer", ScriptedPeer)
    ScriptedPeer.made = []
    return VirtualLoop(VirtualClock())  # type: ignore[abstract]


def lives_of(script: Script, **config: Any) -> Lives:
    ScriptedPeer.script = staticmethod(script)
    return Lives(config_of(**config))


def dies_after(life_s: float, lives: int) -> Script:
    async def live(peer: ScriptedPeer) -> None:
        if peer.number < lives:
            await asyncio.sleep(life_s)
            raise TrainerGone.of_process(-9)

    return live


def test_the_next_life_goes_on_where_the_last_one_was_known(loop: VirtualLoop) -> None:
    newer = Ticket(RunId("ab" * 32), IDS[0], (Address("10.0.0.7", 7, IDS[7]),))

    async def live(peer: ScriptedPeer) -> None:
        if peer.number == 0:
            peer.ticket = newer
            raise TrainerGone.of_process(1)
        if peer.number == 1:
            peer.checkpoint_step = 40
            raise TrainerGone.of_process(1)
        if peer.number == 2:  # before it could look for a checkpoint
            raise TrainerGone.of_process(1)

    peer = lives_of(live, resume=False)
    loop.run_until_complete(peer.live())
    first, second, third, fourth = ScriptedPeer.made
    assert first.config.resume is False
    assert second.config.resume is False, "the only checkpoints are of before it began anew"
    assert third.config.resume is None
    assert fourth.config.resume is None, "there is a checkpoint, whoever wrote it"
    assert third.config.ticket == second.config.ticket == newer
    assert second.config.directory == first.config.directory
    assert second.status is first.status is peer.status


def test_a_few_deaths_are_survived_and_one_too_many_says_why(loop: VirtualLoop) -> None:
    peer = lives_of(dies_after(5.0, MAX_DEATHS))
    loop.run_until_complete(peer.live())
    assert len(ScriptedPeer.made) == MAX_DEATHS + 1
    ScriptedPeer.made = []
    with pytest.raises(
        TrainerGone, match=r"SIGKILL.*4th time within 10 minutes.*peer\.log"
    ) as gone:
        loop.run_until_complete(lives_of(dies_after(5.0, 99)).live())
    assert gone.value.exit_code == -9
    assert len(str(gone.value).splitlines()) == 1
    assert len(ScriptedPeer.made) == MAX_DEATHS + 1


def test_deaths_of_long_ago_do_not_count(loop: VirtualLoop) -> None:
    peer = lives_of(dies_after(WITHIN_S / (MAX_DEATHS - 1), 20))
    loop.run_until_complete(peer.live())
    assert len(ScriptedPeer.made) == 21


@pytest.mark.parametrize("error", [ConfigError("change this"), ZeroDivisionError()])
def test_what_another_life_would_meet_again_ends_it(error: Exception, loop: VirtualLoop) -> None:
    async def live(peer: ScriptedPeer) -> None:
        raise error

    with pytest.raises(type(error)):
        loop.run_until_complete(lives_of(live).live())
    assert len(ScriptedPeer.made) == 1


CANNOT_BEGIN = [ConfigError("no room"), TransportError("nobody"), OSError("full"), TimeoutError()]


@pytest.mark.parametrize("error", CANNOT_BEGIN, ids=repr)
def test_a_later_life_that_cannot_begin_is_a_death_like_any_other(
    error: Exception, loop: VirtualLoop
) -> None:
    async def live(peer: ScriptedPeer) -> None:
        if peer.number == 0:
            raise TrainerGone.of_process(-9)
        if peer.number < num_lives:
            raise error

    num_lives = MAX_DEATHS
    loop.run_until_complete(lives_of(live).live())
    assert len(ScriptedPeer.made) == MAX_DEATHS + 1
    ScriptedPeer.made, num_lives = [], 99
    with pytest.raises((ConfigError, TransportError), match="4th time within 10 minutes"):
        loop.run_until_complete(lives_of(live).live())
    assert len(ScriptedPeer.made) == MAX_DEATHS + 1


def test_another_life_of_ours_ends_a_later_one_at_once(loop: VirtualLoop) -> None:
    async def live(peer: ScriptedPeer) -> None:
        raise AnotherLife("there") if peer.number else TrainerGone.of_process(-9)

    with pytest.raises(AnotherLife, match=r"^there$"):
        loop.run_until_complete(lives_of(live).live())
    assert len(ScriptedPeer.made) == 2


def test_of_a_former_life_nothing_is_left_when_the_next_begins(loop: VirtualLoop) -> None:
    former: list[weakref.ref[object]] = []

    class Model:
        pass

    async def live(peer: ScriptedPeer) -> None:
        assert [model() for model in former] == [None] * peer.number
        model = Model()
        peer.model = cycle = [model]  # type: ignore[attr-defined]
        cycle.append(cycle)  # type: ignore[arg-type]
        former.append(weakref.ref(model))
        ScriptedPeer.made = [*ScriptedPeer.made[:-1], None]  # type: ignore[list-item]
        if peer.number < 2:
            raise TrainerGone.of_process(-9) if peer.number == 0 else OSError("full")

    loop.run_until_complete(lives_of(live).live())
    assert len(former) == 3


def test_leaving_ends_the_life_of_now_and_the_wait_for_the_next_one(loop: VirtualLoop) -> None:
    async def live(peer: ScriptedPeer) -> None:
        if peer.number == 0:
            raise TrainerGone.of_process(-11)
        await peer.leaving.wait()

    for at_s in (1.0, 100.0):  # in the pause, and in the second life
        ScriptedPeer.made = []
        peer = lives_of(live)
        began_s = loop.time()
        loop.call_later(at_s, peer.leave)
        loop.run_until_complete(peer.live())
        assert loop.time() - began_s == pytest.approx(at_s)
    assert len(ScriptedPeer.made) == 2


def test_going_to_another_domain_is_no_death(loop: VirtualLoop) -> None:
    async def live(peer: ScriptedPeer) -> None:
        await asyncio.sleep(1.0)
        peer.goes_on = peer.number < num_moves

    num_moves = MAX_DEATHS + 3
    peer = lives_of(live)
    loop.run_until_complete(peer.live())
    assert len(ScriptedPeer.made) == num_moves + 1
    assert loop.time() == pytest.approx(num_moves + 1), "nobody mourns"
    assert all(made.status is peer.status for made in ScriptedPeer.made)


def test_deaths_between_moves_are_counted_as_ever(loop: VirtualLoop) -> None:
    async def live(peer: ScriptedPeer) -> None:
        if peer.number % 2:
            raise TrainerGone.of_process(-9)
        peer.goes_on = True

    with pytest.raises(TrainerGone, match="4th time within 10 minutes"):
        loop.run_until_complete(lives_of(live).live())
    assert len(ScriptedPeer.made) == 2 * (MAX_DEATHS + 1)


def test_a_named_domain_that_is_done_is_a_mistake_of_the_first_life_only(
    loop: VirtualLoop,
) -> None:
    """`--domain` is met first; then others may have finished it, or we did."""

    async def live(peer: ScriptedPeer) -> None:
        if peer.number in (1, 3):
            raise TrainerGone.of_process(-9)
        peer.goes_on = peer.number < 4

    loop.run_until_complete(lives_of(live, domain="law").live())
    first, *later = (made.config for made in ScriptedPeer.made)
    assert (first.domain, first.insists_on_domain) == ("law", True)
    assert len(later) == 4
    assert not any(config.insists_on_domain for config in later)


@pytest.mark.parametrize("resume", [None, False, True])
def test_what_was_said_of_checkpoints_is_said_of_the_first_domain(
    resume: bool | None, loop: VirtualLoop
) -> None:
    async def live(peer: ScriptedPeer) -> None:
        if peer.number == 1:  # in another domain, and before its first checkpoint
            raise TrainerGone.of_process(-9)
        peer.goes_on = peer.number == 0

    loop.run_until_complete(lives_of(live, resume=resume).live())
    assert [made.config.resume for made in ScriptedPeer.made] == [resume, None, None]


def test_a_later_domain_that_cannot_begin_is_a_death(loop: VirtualLoop) -> None:
    async def live(peer: ScriptedPeer) -> None:
        if peer.number:
            raise ConfigError("nobody could give us the seed")
        peer.goes_on = True

    with pytest.raises(ConfigError, match="4th time within 10 minutes"):
        loop.run_until_complete(lives_of(live).live())
    assert len(ScriptedPeer.made) == 1 + MAX_DEATHS + 1


def test_leaving_while_a_domain_ends_begins_no_other(loop: VirtualLoop) -> None:
    async def live(peer: ScriptedPeer) -> None:
        await peer.leaving.wait()
        peer.goes_on = True

    peer = lives_of(live)
    loop.call_later(3.0, peer.leave)
    loop.run_until_complete(peer.live())
    assert len(ScriptedPeer.made) == 1


@pytest.mark.parametrize(
    ("exit_code", "words"),
    [(-9, "SIGKILL (perhaps for want of memory)"), (-11, "SIGSEGV"), (3, "with code 3")],
)
def test_how_a_trainer_ended_is_said_in_words(exit_code: int, words: str) -> None:
    gone = TrainerGone.of_process(exit_code)
    assert words in str(gone)
    assert gone.exit_code == exit_code


async def test_a_folder_that_cannot_be_used_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot use .*in-use\.lock: No such file") as refused:
        await Peer(replace(config_of(), directory=tmp_path / "gone")).live()
    assert "\n" not in str(refused.value)
