import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from peer.cli.status import _ticket_of, as_data, show
from peer.domains.look import Look
from peer.run_folder import write_ticket
from protocol.card import Card, Kept
from protocol.errors import ConfigError
from protocol.identity import Identity
from protocol.manifest import manifest_from
from protocol.ticket import Address, Ticket

FOUNDER = Identity(b"f" * 32)
NODE, TRAINS, MOVED, LEFT = (Identity(bytes([n]) * 32).peer_id for n in range(1, 5))
DOMAINS = [{"name": name, "inner": {"total_steps": 300}} for name in ("law", "math", "wiki")]
CARD = Card(wire_addresses=(), step=120, round=3, tokens=1_234_567, up_bps=20_000_000)
CARDS = {
    LEFT: replace(CARD, role="left", domain="law"),
    TRAINS: replace(CARD, domain="law"),
    MOVED: replace(CARD, role="holder", kept=(Kept("wiki", 9, 301, True),), reach="reverse"),
    NODE: Card(wire_addresses=(), role="bootstrap"),
}
RUN = manifest_from({"founder": FOUNDER.peer_id, "name": "experts", "domains": DOMAINS})
PLAIN = manifest_from({"founder": FOUNDER.peer_id})


def shown(seen: Look, width: int = 100) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        show(seen, console)
    return [line for line in capture.get().splitlines() if line.strip()]


def test_a_run_is_shown_with_its_domains_and_peers() -> None:
    lines = shown(Look(RUN, CARDS))
    assert lines[0] == f"experts, run {RUN.run_id[:12]}"
    rows = {line.split()[0]: " ".join(line.split()) for line in lines[1:]}
    assert rows["law"].endswith("training")
    assert rows["math"].endswith("waiting for a peer")
    assert rows["wiki"].endswith("1 done")
    assert rows[TRAINS[-6:]] == f"{TRAINS[-6:]} peer law 120 3 1.23M direct 20 Mbit/s -"
    assert rows[MOVED[-6:]] == f"{MOVED[-6:]} holder - 120 3 1.23M reverse 20 Mbit/s -"
    assert rows[NODE[-6:]] == f"{NODE[-6:]} bootstrap - - - - direct - -"
    last = [line.split()[0] for line in lines[-4:]]
    assert last == [peer[-6:] for peer in (TRAINS, MOVED, NODE, LEFT)]


def test_a_run_of_one_model_is_shown_without_domains() -> None:
    lines = shown(Look(PLAIN, {TRAINS: CARD}))
    assert not any("domain" in line for line in lines)
    assert lines[-1].split()[:4] == [TRAINS[-6:], "peer", "120", "3"]


@pytest.mark.parametrize("seen", [Look(RUN, {}), Look(PLAIN, CARDS)], ids=["nobody", "no domains"])
def test_programs_get_one_object(seen: Look) -> None:
    data = json.loads(json.dumps(as_data(seen)))
    assert (data["name"], data["run_id"]) == (seen.manifest.name, seen.manifest.run_id)
    assert len(data["domains"]) == len(seen.manifest.domains)
    assert [peer["peer_id"] for peer in data["peers"]] == sorted(seen.cards)


def test_programs_get_standings_with_their_words() -> None:
    domains = as_data(Look(RUN, CARDS))["domains"]
    assert [each["state"] for each in domains] == ["training", "waiting for a peer", "done"]
    assert domains[0]["peers"] == (TRAINS,)
    assert domains[2]["copies"] == 1


def test_the_ticket_may_be_in_a_file_or_a_folder(tmp_path: Path) -> None:
    ticket = Ticket(RUN.run_id, FOUNDER.peer_id, (Address("192.0.2.1", 4001, NODE),))
    write_ticket(tmp_path, ticket)
    words = (str(ticket), str(tmp_path), str(tmp_path / "ticket.txt"))
    assert {_ticket_of(word) for word in words} == {ticket}
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no run"):
        _ticket_of(str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="no thinwire ticket"):
        _ticket_of(str(tmp_path / "nowhere"))
