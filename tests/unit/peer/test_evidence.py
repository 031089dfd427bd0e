import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peer.evidence import MAX_FILE_BYTES, Evidence, evidence_of, read_evidence, write_evidence
from protocol.errors import BadSignature, ConfigError
from protocol.identity import Identity
from protocol.manifest import manifest_from
from protocol.report import Contribution, Report, Witness
from protocol.report_codec import sign_report

OURS, *OTHERS = (Identity(bytes([n]) * 32) for n in range(1, 5))
FOUNDER = Identity(b"f" * 32).peer_id
RUN = manifest_from({"founder": FOUNDER, "name": "shared"})
PAIRS = manifest_from({"founder": FOUNDER, "method": {"mixing": "pairs"}})
ID = OURS.peer_id


def report(identity: Identity, saw: dict[Identity, int] | None = None, used: int = 0) -> Report:
    return Report(
        peer_id=identity.peer_id,
        at_unix_s=1e9,
        contribution=Contribution(trained_tokens=2 * used, used_tokens=used, used_rounds=4),
        witnesses=tuple(
            Witness(peer_id=peer.peer_id, rounds=2, tokens=tokens)
            for peer, tokens in (saw or {}).items()
        ),
    )


def signed(run: Any = RUN, used: int = 1000) -> dict[Any, bytes]:
    """Two of three others saw our work."""
    reports = {
        OTHERS[0]: report(OTHERS[0], {OURS: 300, OTHERS[1]: 5}),
        OTHERS[1]: report(OTHERS[1], {OURS: 400}),
        OTHERS[2]: report(OTHERS[2], {OTHERS[0]: 9}),
        OURS: report(OURS, {OURS: 10**6, OTHERS[0]: 7}, used),
    }
    return {who.peer_id: sign_report(each, run.run_id, who) for who, each in reports.items()}


def tampered(path: Path, change: Any) -> Path:
    data = json.loads(path.read_bytes())
    change(data)
    path.write_text(json.dumps(data))
    return path


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return evidence_of(ID, RUN, signed())


@pytest.fixture
def file(tmp_path: Path, evidence: Evidence) -> Path:
    write_evidence(tmp_path / "evidence.json", evidence)
    return tmp_path / "evidence.json"


def test_it_is_what_the_peer_says_and_those_who_saw_its_work(evidence: Evidence) -> None:
    assert list(evidence.reports) == [ID, *sorted(each.peer_id for each in OTHERS[:2])]
    assert [seen.tokens for _, seen in evidence.witnesses] == [400, 300]  # not what it saw itself
    assert evidence.own is not None
    assert evidence.own.contribution.used_tokens == 1000


def test_attested_is_what_the_view_says_too(evidence: Evidence) -> None:
    assert (evidence.attested.tokens, evidence.attested.witnesses) == (400, 2)
    pairs = evidence_of(ID, PAIRS, signed(PAIRS))
    assert pairs.attested.tokens == 700  # each saw other averages
    assert evidence_of(ID, PAIRS, signed(PAIRS, used=500)).attested.tokens == 500


def test_a_peer_that_is_gone_still_has_witnesses() -> None:
    reports = signed()
    del reports[ID]
    evidence = evidence_of(ID, RUN, reports)
    assert evidence.own is None
    assert evidence.attested.tokens == 400


def test_a_stranger_reads_from_the_file_what_was_written(file: Path, evidence: Evidence) -> None:
    assert read_evidence(file) == evidence


def test_reports_are_of_the_run(evidence: Evidence) -> None:
    with pytest.raises(BadSignature):
        evidence_of(ID, PAIRS, signed())


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_byte_of_a_report_can_be_changed(data: st.DataObject, file: Path) -> None:
    content = file.read_bytes()
    reports = json.loads(content)["reports"]
    who = data.draw(st.sampled_from(sorted(reports)))
    raw = bytearray(base64.b64decode(reports[who]))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    tampered(file, lambda d: d["reports"].update({who: base64.b64encode(raw).decode()}))
    with pytest.raises(ConfigError, match="cannot be trusted"):
        read_evidence(file)
    file.write_bytes(content)


def _swap_names(data: dict[str, Any]) -> None:
    first, second = list(data["reports"])[:2]
    reports = data["reports"]
    reports[first], reports[second] = reports[second], reports[first]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_swap_names, "cannot be trusted"),
        (lambda d: d.update(manifest=base64.b64encode(PAIRS.to_bytes()).decode()), "cannot be tru"),
        (lambda d: d.update(manifest="%"), "cannot be trusted"),
        (lambda d: d.update(peer_id="nobody"), "cannot be trusted"),
        (lambda d: d["reports"].update({"no\x1b[1m\nid" * 99: ""}), r"of 'no\\x1b\[1m\\nid"),
        (lambda d: d.update(format="thinwire contribution 9"), "no file of contributions"),
        (lambda d: d.update(reports=[1]), "no file of contributions"),
        (lambda d: d.update(reports={str(n): "" for n in range(2000)}), "no file of contributions"),
        (lambda d: d.clear(), "no file of contributions"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_refused_in_one_line(
    change: Any, words: str, file: Path
) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        read_evidence(tampered(file, change))
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400


def test_a_file_that_cannot_be_read_or_written_is_named(tmp_path: Path, evidence: Evidence) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*nowhere"):
        read_evidence(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"cannot write .*nowhere"):
        write_evidence(tmp_path / "nowhere" / "file", evidence)
    with (tmp_path / "huge").open("wb") as huge:
        huge.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(ConfigError, match="larger than"):
        read_evidence(tmp_path / "huge")


def test_a_claim_of_the_peer_alone_attests_nothing() -> None:
    boasts = replace(report(OURS, {OURS: 10**9}, used=10**9))
    reports = {ID: sign_report(boasts, RUN.run_id, OURS)}
    assert evidence_of(ID, RUN, reports).attested.tokens == 0
