"""Cards and reports of a small swarm, for tests of who watches it."""

from collections.abc import Sequence
from typing import Any

from peer.watch.heard import Heard
from protocol.card import Card
from protocol.identity import Identity, PeerId
from protocol.manifest import Manifest, RunId, manifest_from
from protocol.report import Contribution, Exchanged, Report, Witness
from protocol.report_codec import SignedReport, sign_report

NOW_UNIX_S = 1.6e9
KEYS = [Identity(bytes([n]) * 32) for n in range(1, 9)]
A, B, C, D = (key.peer_id for key in KEYS[:4])
FOUNDER = KEYS[-1].peer_id


def manifest_of(mixing: str = "all", **settings: Any) -> Manifest:
    outer = {"rule": "nesterov"} if mixing == "all" else {"rule": "noloco"}
    method = {"mixing": mixing, "outer": outer}
    return manifest_from({"founder": FOUNDER, "method": method, **settings})


RUN_ID = RunId(manifest_of().run_id)


def card_of(role: str = "peer", **fields: Any) -> Card:
    return Card(wire_addresses=("127.0.0.1:1",), role=role, **fields)


def report_of(peer: PeerId, **fields: Any) -> Report:
    return Report(**{"peer_id": peer, "at_unix_s": NOW_UNIX_S, **fields})


def signed(report: Report, run_id: RunId = RUN_ID) -> SignedReport:
    (key,) = (key for key in KEYS if key.peer_id == report.peer_id)
    return SignedReport(report, sign_report(report, run_id, key))


def heard(*reports: Report, at_unix_s: float = NOW_UNIX_S) -> dict[PeerId, Heard]:
    return {report.peer_id: Heard(signed(report), at_unix_s) for report in reports}


def used(tokens: int) -> Contribution:
    return Contribution(trained_tokens=2 * tokens, used_tokens=tokens, used_rounds=1)


def saw(*tokens: tuple[PeerId, int]) -> tuple[Witness, ...]:
    return tuple(Witness(peer_id=peer, rounds=1, tokens=number) for peer, number in tokens)


def exchanged(
    partners: Sequence[PeerId], outcome: Any = "landed", ago_s: float = 5.0, **fields: Any
) -> Exchanged:
    defaults = {"fragment": 0, "round": 3, "took_s": 1.0, "began_unix_s": NOW_UNIX_S - ago_s}
    return Exchanged(partners=tuple(partners), outcome=outcome, **(defaults | fields))
