import pytest

from peer.net import admission
from peer.net.admission import Admitted, Membership, decide_hello, hello, parse_hello, parse_reply
from protocol.errors import MalformedMessage, RunMismatch
from protocol.identity import Identity
from protocol.manifest import InnerSpec, Manifest, RunId
from protocol.models import ModelSpec

CLIENT, SERVER, THIRD = (Identity(bytes([seed]) * 32).peer_id for seed in (1, 2, 3))
OPEN = Membership(run_id=RunId("ab" * 32), manifest=b"m", signature=b"s")
INVITE = Membership(run_id=RunId("ab" * 32), secret=b"s" * 16, manifest=b"m", signature=b"s")
GUESS = Membership(run_id=RunId("ab" * 32), secret=b"x" * 16)
OTHER = Membership(run_id=RunId("cd" * 32))


def _ask(theirs: Membership, ours: Membership, *, claimed_server: str = SERVER) -> bytes:
    message = hello(theirs, our_id=CLIENT, their_id=claimed_server, software="test")
    reply = decide_hello(
        ours, parse_hello(message.SerializeToString()), our_id=SERVER, their_id=CLIENT
    )
    return reply.SerializeToString()


def _read(data: bytes, theirs: Membership, *, proof: bytes = b"") -> admission.Welcome:
    return parse_reply(data, ours=theirs, our_id=CLIENT, their_id=SERVER, proof=proof)


def test_a_member_is_welcome_and_gets_the_manifest() -> None:
    assert _read(_ask(OPEN, OPEN), OPEN) == admission.Welcome(b"m", b"s")


def test_an_invited_member_is_welcome_by_a_server_that_was_invited_too() -> None:
    proof = admission.invite_proof(b"s" * 16, SERVER, CLIENT)
    assert _read(_ask(INVITE, INVITE), INVITE, proof=proof) == admission.Welcome(b"m", b"s")


@pytest.mark.parametrize(
    ("theirs", "claimed_server"),
    [(OPEN, SERVER), (GUESS, SERVER), (INVITE, THIRD)],
    ids=["no secret", "a guessed secret", "a proof made for another server"],
)
def test_without_a_proof_there_is_neither_welcome_nor_manifest(
    theirs: Membership, claimed_server: str
) -> None:
    data = _ask(theirs, INVITE, claimed_server=claimed_server)
    assert not admission.pb.HelloReply.FromString(data).manifest
    with pytest.raises(RunMismatch, match="by invitation"):
        _read(data, theirs)


@pytest.mark.parametrize(
    "proof",
    [b"", admission.invite_proof(b"s" * 16, CLIENT, SERVER)],
    ids=["none", "our own reflected"],
)
def test_a_server_must_have_been_invited_too(proof: bytes) -> None:
    with pytest.raises(RunMismatch, match="was not invited"):
        _read(_ask(INVITE, INVITE), INVITE, proof=proof)


def test_another_run_is_refused() -> None:
    with pytest.raises(RunMismatch, match="in run abababababab, not in cdcdcdcdcdcd"):
        _read(_ask(OTHER, OPEN), OTHER)


def test_another_run_shows_the_first_differences() -> None:
    mine = Manifest(founder=CLIENT)
    changes = {"seed": 7, "model": ModelSpec(dim=256, layers=5), "inner": InnerSpec(lr=0.1)}
    changes["name"] = "other"
    yours = mine.model_copy(update=changes)
    yours = yours.model_copy(update={"founder": SERVER})
    theirs = Membership(run_id=mine.run_id, manifest=mine.to_bytes())
    ours = Membership(run_id=yours.run_id, manifest=yours.to_bytes())
    with pytest.raises(RunMismatch) as raised:
        _read(_ask(theirs, ours), theirs)
    text = str(raised.value)
    assert "inner.lr: 0.003 here, 0.1 there" in text
    assert "model.dim: 128 here, 256 there" in text
    assert text.endswith("and 1 more")


def test_a_manifest_that_cannot_be_read_is_no_disaster() -> None:
    mine = Manifest(founder=CLIENT)
    theirs = Membership(run_id=mine.run_id, manifest=mine.to_bytes())
    with pytest.raises(RunMismatch, match="their manifest cannot be read"):
        _read(_ask(theirs, OPEN), theirs)


def test_another_version_of_the_protocol_is_refused() -> None:
    message = hello(OPEN, our_id=CLIENT, their_id=SERVER, software="")
    message.protocol_version = 99
    reply = decide_hello(OPEN, message, our_id=SERVER, their_id=CLIENT)
    assert not reply.welcome
    assert "version 99" in reply.reason


@pytest.mark.parametrize("data", [b"\xff", b"x" * 5000], ids=["garbage", "too large"])
def test_garbage_is_no_hello(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse_hello(data)
    with pytest.raises(MalformedMessage):
        _read(data * 100, OPEN)


def test_an_unreadable_reason_stays_out_of_the_log() -> None:
    reply = admission.pb.HelloReply(reason="\x1b[2J")
    with pytest.raises(RunMismatch, match="no readable reason"):
        _read(reply.SerializeToString(), OPEN)


def test_the_oldest_are_forgotten_first() -> None:
    admitted = Admitted(capacity=2)
    admitted.add(CLIENT)
    admitted.add(SERVER)
    assert CLIENT in admitted  # and so was used last
    admitted.add(THIRD)
    assert SERVER not in admitted
    assert CLIENT in admitted
    admitted.discard(CLIENT)
    assert CLIENT not in admitted
