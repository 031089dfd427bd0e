"""Who can be dialled is told at which address, and who cannot, which ports to open."""

import pytest

from peer.doctor import reach
from peer.doctor.finding import Finding
from protocol.card import Card
from protocol.identity import PeerId
from protocol.pb import thinwire_pb2 as pb

OUTSIDE = ("0.0.0.0", 4000)
DIALLED = pb.DialBackReply(reached=["81.2.69.142:4000"], failed=["10.0.0.5:4000"])
IN_VAIN = pb.DialBackReply(failed=["81.2.69.142:4000"])
DIRECT = Card(wire_addresses=("1.2.3.4:4000",))
BEHIND = Card(wire_addresses=(), reach="reverse")
NODE = Card(wire_addresses=("1.2.3.5:4000",), role="bootstrap")


def dialled(*answers: pb.DialBackReply, listen: tuple[str, int] = OUTSIDE) -> Finding:
    (finding,) = reach.dialled(answers, listen, num_asked=3)
    return finding


def ways(*cards: Card, is_dialable: bool) -> Finding:
    known = {PeerId(str(number)): card for number, card in enumerate(cards)}
    (finding,) = reach.ways(known, is_dialable=is_dialable)
    return finding


def test_who_is_reached_by_most_can_be_dialled() -> None:
    finding = dialled(DIALLED, DIALLED, IN_VAIN)
    assert finding.verdict == "good"
    assert "81.2.69.142:4000" in finding.found


def test_who_is_reached_by_few_has_ports_to_open() -> None:
    finding = dialled(DIALLED, IN_VAIN, IN_VAIN)
    assert finding.verdict == "poor"
    assert "sudo ufw allow 4000:4001/tcp" in finding.fix
    assert "router" in finding.fix


def test_who_listens_to_itself_alone_is_told_to_listen_outside() -> None:
    finding = dialled(pb.DialBackReply(), listen=("127.0.0.1", 0))
    assert finding.verdict == "poor"
    assert finding.fix == "thinwire join TICKET --listen 0.0.0.0:4000"


def test_where_nobody_could_try_nothing_is_said() -> None:
    assert dialled().verdict == "unknown"


@pytest.mark.parametrize(
    ("seen", "local", "words"),
    [
        (["81.2.69.142", "81.2.69.142"], "192.168.1.5", "behind one: others see 81.2.69.142"),
        (["8.8.4.4"], "8.8.4.4", "none: 8.8.4.4 is public"),
        (["192.168.1.5"], "192.168.1.5", "same network"),
        (["127.0.0.1"], "192.168.1.5", "this very machine"),
    ],
)
def test_nat_is_told_from_where_others_see_us(seen: list[str], local: str, words: str) -> None:
    finding = reach.translation(seen, local)
    assert finding.verdict == "good"
    assert words in finding.found


@pytest.mark.parametrize("seen", [[], [""], ["81.2.69.142", "81.2.69.143"]])
def test_nat_is_not_guessed(seen: list[str]) -> None:
    assert reach.translation(seen, "192.168.1.5").verdict == "unknown"


def test_the_hosts_at_which_we_were_dialled_are_ours() -> None:
    assert set(reach.seen_by([DIALLED, IN_VAIN])) == {"81.2.69.142", "10.0.0.5"}


def test_the_ways_follow_from_who_can_be_dialled() -> None:
    assert ways(DIRECT, BEHIND, NODE, is_dialable=True).found == "1 direct, 1 reverse"
    assert ways(DIRECT, NODE, is_dialable=False).verdict == "good"
    relayed = ways(DIRECT, BEHIND, NODE, is_dialable=False)
    assert (relayed.verdict, relayed.found) == ("poor", "1 direct and called back, 1 relayed")
    assert ways(BEHIND, NODE, is_dialable=False).verdict == "poor"
    assert ways(BEHIND, BEHIND, is_dialable=False).verdict == "fatal"
    assert ways(NODE, is_dialable=False).verdict == "unknown"


def test_our_own_address_towards_another_is_found_without_a_packet() -> None:
    assert reach.local_host("127.0.0.1:9") == "127.0.0.1"
    assert reach.local_host("nonsense") == ""
