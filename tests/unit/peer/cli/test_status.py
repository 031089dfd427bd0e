import asyncio
import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from peer.cli.status import _show, ticket_of
from peer.run_folder import write_ticket
from protocol.errors import ConfigError
from protocol.identity import Identity
from protocol.manifest import RunId
from protocol.ticket import Address, Ticket
from tests.unit.peer.cli.test_swarm_screen import VIEW

FOUNDER, NODE = (Identity(bytes([n]) * 32).peer_id for n in (1, 2))


def test_the_ticket_may_be_in_a_file_or_a_folder(tmp_path: Path) -> None:
    ticket = Ticket(RunId("ab" * 32), FOUNDER, (Address("192.0.2.1", 4001, NODE),))
    write_ticket(tmp_path, ticket)
    words = (str(ticket), str(tmp_path), str(tmp_path / "ticket.txt"))
    assert {ticket_of(word) for word in words} == {ticket}
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no run"):
        ticket_of(str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="no thinwire ticket"):
        ticket_of(str(tmp_path / "nowhere"))


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class Told:
    """An observer that sees what it is told."""

    def __init__(self) -> None:
        self.view = VIEW
        self.breaks = asyncio.Event()

    async def run(self) -> None:
        await self.breaks.wait()
        raise ZeroDivisionError


@pytest.mark.parametrize("width", [50, 100])
async def test_the_live_screen_follows_the_swarm_until_it_is_cancelled(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.cli.status.REFRESH_S", 0.0)
    observer, file = Told(), io.StringIO()
    console = Console(file=file, width=width, height=30, force_terminal=True)
    showing = asyncio.create_task(_show(observer, console))  # type: ignore[arg-type]
    await turns()
    assert "my run" in file.getvalue()
    observer.view = replace(VIEW, name="another run")
    await turns()
    assert "another run" in file.getvalue()
    showing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await showing


async def test_an_observer_that_breaks_is_not_hidden() -> None:
    observer = Told()
    observer.breaks.set()
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with pytest.raises(ExceptionGroup) as broken:
        await _show(observer, console)  # type: ignore[arg-type]
    assert broken.group_contains(ZeroDivisionError)
