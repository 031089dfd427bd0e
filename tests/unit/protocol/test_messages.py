import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import LimitExceeded, MalformedMessage, RemoteError, RunMismatch
from protocol.identity import Identity, PeerId, peer_id_of
from protocol.messages import (
    DIGEST_BYTES,
    EXCHANGE_ID_BYTES,
    MAX_BPS,
    MAX_CODECS,
    MAX_ROUND,
    MAX_SHARE,
    MAX_TOKENS,
    Answer,
    Committed,
    Member,
    Note,
    Propose,
    Ready,
    Roster,
    note_to_bytes,
    parse_note,
)
from protocol.pb import thinwire_pb2 as pb

MAX_BYTES, NUM_FRAGMENTS, MAX_PEERS = 4096, 8, 16
ID, DIGEST = b"e" * EXCHANGE_ID_BYTES, b"d" * DIGEST_BYTES
PEERS = [Identity(bytes([number]) * 32).peer_id for number in range(20)]

fragments = st.integers(0, NUM_FRAGMENTS - 1)
rounds = st.integers(0, MAX_ROUND - 1)
tokens = st.integers(0, MAX_TOKENS - 1)
ids = st.binary(min_size=EXCHANGE_ID_BYTES, max_size=EXCHANGE_ID_BYTES)
digests = st.binary(min_size=DIGEST_BYTES, max_size=DIGEST_BYTES)
members = st.builds(
    Member, st.binary(min_size=32, max_size=32).map(peer_id_of), st.integers(1, MAX_TOKENS - 1)
)
places = st.lists(
    st.tuples(members, st.integers(0, MAX_SHARE - 1)),
    min_size=1,
    max_size=MAX_PEERS,
    unique_by=lambda place: place[0].peer_id,
).filter(lambda places: any(share for _, share in places))
shares = places.map(lambda places: tuple(share for _, share in places))
codecs = st.integers(0, MAX_CODECS - 1)


@st.composite
def rosters(draw: st.DrawFn) -> Roster:
    who, shares = zip(*draw(places), strict=True)
    return Roster(draw(fragments), draw(rounds), draw(ids), who, shares, draw(codecs))


notes = st.one_of(
    st.builds(Ready, fragments, rounds, tokens, digests, st.integers(0, MAX_BPS - 1), codecs),
    rosters(),
    st.builds(Committed, fragments, rounds, digests),
    st.builds(Committed, fragments, rounds, digests, ids, shares, codecs),
    st.builds(Propose, fragments, rounds, tokens, ids, codecs, st.booleans()),
    st.builds(Answer, fragments, ids, st.booleans(), tokens, codecs),
)


def parse(data: bytes) -> Note:
    return parse_note(data, max_bytes=MAX_BYTES, num_fragments=NUM_FRAGMENTS, max_peers=MAX_PEERS)


def roster_of(*peers: PeerId, shares: tuple[int, ...] | None = None, codec: int = 0) -> Roster:
    members = tuple(Member(peer, 5) for peer in peers)
    return Roster(0, 1, ID, members, (1,) * len(peers) if shares is None else shares, codec)


@given(note=notes)
def test_round_trip(note: Note) -> None:
    assert parse(note_to_bytes(note)) == note


@given(note=notes, ours=st.sampled_from(["", "law", "math"]), theirs=st.sampled_from(["", "law"]))
def test_a_note_is_for_one_domain_and_any_other_refuses_it(
    note: Note, ours: str, theirs: str
) -> None:
    data = note_to_bytes(note, domain=theirs)
    limits = {"max_bytes": MAX_BYTES, "num_fragments": NUM_FRAGMENTS, "max_peers": MAX_PEERS}
    if ours == theirs:
        assert parse_note(data, **limits, domain=ours) == note
    else:
        with pytest.raises(RunMismatch, match=r"^this peer does not train in that domain$"):
            parse_note(data, **limits, domain=ours)


@given(note=notes)
def test_a_note_of_a_run_without_domains_says_nothing_of_them(note: Note) -> None:
    named = pb.Note.FromString(note_to_bytes(note, domain="law"))
    named.ClearField("domain")
    assert named.SerializeToString() == note_to_bytes(note)


def test_another_domain_is_refused_before_its_fragments_are_counted() -> None:
    """Domains are cut into different numbers of fragments: that is nobody's fault."""
    data = note_to_bytes(Ready(NUM_FRAGMENTS, 1, 1, DIGEST), domain="math")
    with pytest.raises(RunMismatch):
        parse(data)


@pytest.mark.parametrize(
    ("note", "error"),
    [
        (Ready(NUM_FRAGMENTS, 0, 1, DIGEST), LimitExceeded),
        (Ready(0, MAX_ROUND, 1, DIGEST), LimitExceeded),
        (Ready(0, 0, MAX_TOKENS, DIGEST), LimitExceeded),
        (Ready(0, 0, 1, DIGEST, MAX_BPS), LimitExceeded),
        (Ready(0, 0, 1, DIGEST, 0, MAX_CODECS), LimitExceeded),
        (Ready(0, 0, 1, DIGEST[1:]), MalformedMessage),
        (Ready(0, 0, 1, b""), MalformedMessage),
        (roster_of(), LimitExceeded),
        (roster_of(*PEERS[: MAX_PEERS + 1]), LimitExceeded),
        (roster_of(PEERS[0], PEERS[0]), MalformedMessage),
        (roster_of(PEERS[0], PeerId("somebody")), MalformedMessage),
        (roster_of(PEERS[0], PeerId(PEERS[0] + " ")), MalformedMessage),
        (Roster(0, MAX_ROUND, ID, (Member(PEERS[0], 1),), (1,)), LimitExceeded),
        (Roster(0, 1, ID[1:], (Member(PEERS[0], 1),), (1,)), MalformedMessage),
        (Roster(0, 1, ID, (Member(PEERS[0], MAX_TOKENS),), (1,)), LimitExceeded),
        (Roster(0, 1, ID, (Member(PEERS[0], 1), Member(PEERS[1], 0)), (1, 1)), MalformedMessage),
        (roster_of(*PEERS[:2], shares=(1,)), MalformedMessage),
        (roster_of(*PEERS[:2], shares=(1, 1, 1)), MalformedMessage),
        (roster_of(*PEERS[:2], shares=(0, 0)), MalformedMessage),
        (roster_of(*PEERS[:2], shares=(1, MAX_SHARE)), LimitExceeded),
        (roster_of(*PEERS[:2], codec=MAX_CODECS), LimitExceeded),
        (Committed(0, MAX_ROUND, DIGEST), LimitExceeded),
        (Committed(0, 1, b""), MalformedMessage),
        (Committed(0, 1, DIGEST, ID, ()), MalformedMessage),
        (Committed(0, 1, DIGEST, b"", (1,)), MalformedMessage),
        (Committed(0, 1, DIGEST, b"x", (1,)), MalformedMessage),
        (Committed(0, 1, DIGEST, ID, (1,) * (MAX_PEERS + 1)), LimitExceeded),
        (Committed(0, 1, DIGEST, ID, (0, 0)), MalformedMessage),
        (Committed(0, 1, DIGEST, ID, (MAX_SHARE,)), LimitExceeded),
        (Committed(0, 1, DIGEST, ID, (1,), MAX_CODECS), LimitExceeded),
        (Propose(0, MAX_ROUND, 1, ID), LimitExceeded),
        (Propose(0, 1, MAX_TOKENS, ID), LimitExceeded),
        (Propose(0, 1, 1, ID, MAX_CODECS), LimitExceeded),
        (Propose(0, 1, 1, b""), MalformedMessage),
        (Answer(0, b"", True, 1), MalformedMessage),
        (Answer(0, ID, True, MAX_TOKENS), LimitExceeded),
        (Answer(0, ID, True, 1, MAX_CODECS), LimitExceeded),
    ],
    ids=[
        *(
            "fragment",
            "ready round",
            "ready tokens",
            "ready rate",
            "ready codec",
            "short digest",
            "no digest",
        ),
        *("empty roster", "large roster", "a member twice", "no peer id", "the same peer twice"),
        *("roster round", "roster id", "member tokens", "a member without tokens"),
        *("too few shares", "too many shares", "shares of nothing", "large share", "roster codec"),
        *("committed round", "committed digest", "an exchange without parts"),
        *("parts without an exchange", "committed id", "too many parts"),
        *("committed shares of nothing", "large committed share", "committed codec"),
        *("propose round", "propose tokens", "propose codec", "propose id", "answer id"),
        *("answer tokens", "answer codec"),
    ],
)
def test_limits(note: Note, error: type[RemoteError]) -> None:
    with pytest.raises(error):
        parse(note_to_bytes(note))


@pytest.mark.parametrize(
    "data", [b"", b"\x08\x01", pb.Note(fragment=1).SerializeToString(), b"\xff" * 50]
)
def test_notes_without_a_body_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse(data)


def test_a_note_may_be_as_long_as_the_limit_and_no_longer() -> None:
    data = note_to_bytes(roster_of(*PEERS[:MAX_PEERS]))
    limits = {"num_fragments": NUM_FRAGMENTS, "max_peers": MAX_PEERS}
    assert parse_note(data, max_bytes=len(data), **limits) == roster_of(*PEERS[:MAX_PEERS])
    with pytest.raises(LimitExceeded):
        parse_note(data, max_bytes=len(data) - 1, **limits)


@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_note_or_refused(data: bytes) -> None:
    try:
        note = parse(data)
    except RemoteError:
        return
    assert parse(note_to_bytes(note)) == note


@given(note=notes, at=st.integers(0, 5000), junk=st.binary(max_size=4), keep=st.booleans())
def test_any_mutation_is_a_note_or_refused(note: Note, at: int, junk: bytes, keep: bool) -> None:
    data = note_to_bytes(note)
    at %= len(data) + 1
    try:
        mutant = parse(data[:at] + junk + data[at + (0 if keep else len(junk)) :])
    except RemoteError:
        return
    assert parse(note_to_bytes(mutant)) == mutant
