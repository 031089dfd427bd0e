from protocol.identity import PeerId
from protocol.messages import Ready
from protocol.ready_peers import ReadyPeers

A, B, C = (PeerId(name) for name in "abc")
OLD, NEW = b"o" * 32, b"n" * 32
OURS = Ready(0, 7, 10, OLD)


def ready_peers(**notes: Ready) -> ReadyPeers:
    peers = ReadyPeers()
    for at_s, (name, note) in enumerate(notes.items()):
        peers.hear(PeerId(name), note, now_s=float(at_s))
    return peers


def test_the_newest_word_counts() -> None:
    peers = ready_peers(a=Ready(0, 7, 20, OLD))
    peers.hear(A, Ready(0, 7, 30, OLD), now_s=1.0)
    assert peers.like_us(OURS, (A, B)) == {A: Ready(0, 7, 30, OLD)}
    peers.hear(A, Ready(0, 7, 30, NEW), now_s=2.0)
    assert peers.like_us(OURS, (A, B)) == {}


def test_like_us_are_those_with_our_round_and_anchor_that_bring_something() -> None:
    good = Ready(0, 7, 1, OLD, 5, 2)
    peers = ready_peers(a=good, b=Ready(0, 8, 1, OLD), c=Ready(0, 7, 1, NEW), d=Ready(0, 7, 0, OLD))
    everybody = [PeerId(name) for name in "abcde"]
    assert peers.like_us(OURS, everybody) == {A: good}
    assert peers.like_us(OURS, (B, C)) == {}


def test_camps_are_counted_with_those_who_bring_nothing() -> None:
    peers = ready_peers(a=OURS, b=Ready(0, 7, 0, OLD), c=Ready(0, 7, 1, NEW))
    assert (peers.at(7, OLD), peers.at(7, NEW), peers.at(8, OLD)) == ([A, B], [C], [])
    assert (peers.not_at(7, OLD), peers.not_at(7, NEW)) == ([C], [A, B])


def test_the_silent_and_the_past_are_forgotten() -> None:
    peers = ready_peers(a=OURS, b=OURS, c=Ready(0, 8, 1, OLD))
    peers.forget_silent(1.0)
    assert set(peers.like_us(OURS, (A, B, C))) == {B}
    assert peers.ahead_of(7) == C
    peers.forget_before(8)
    assert (peers.at(7, OLD), peers.ahead_of(7)) == ([], C)
    peers.forget(C)
    assert peers.ahead_of(7) is None
