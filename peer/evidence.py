"""What a swarm says of one peer's work, as signed reports in a file that anybody can check.

    {"format": "thinwire contribution 1", "peer_id": "12D3...", "manifest": BASE64,
     "reports": {"12D3...": BASE64, ...}}

Each report is as its peer signed it, for this run, whose id is the manifest's hash:
`protocol.report_codec` says how. The first report is the peer's own, if it could be asked; the
others are of peers that saw its work land. What they say is as good as those who say it: a file
proves who said what, and not that it is so.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationError

from peer.run_folder import write_whole
from peer.watch.attest import Attested, Testimony, most_seers
from protocol.card import MAX_COUNT
from protocol.errors import ConfigError, RemoteError
from protocol.identity import PeerId, parse_peer_id
from protocol.manifest import Manifest, parse_manifest
from protocol.report import Report, Witness
from protocol.report_codec import SignedReport, verify_report

MAX_REPORTS = 1024
MAX_FILE_BYTES = 32 << 20
"""More than so many reports with all that they may hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """See the module docstring."""

    manifest: Manifest
    peer_id: PeerId
    reports: Mapping[PeerId, SignedReport]
    """The peer's own, if there is one, and those that mention its work."""

    @property
    def own(self) -> Report | None:
        """What the peer says of itself."""
        signed = self.reports.get(self.peer_id)
        return signed.report if signed else None

    @property
    def witnesses(self) -> list[tuple[PeerId, Witness]]:
        """Who saw how much of its work land; who saw most comes first."""
        found = [
            (witness, seen)
            for witness, signed in self.reports.items()
            for seen in signed.report.witnesses
            if seen.peer_id == self.peer_id != witness
        ]
        return sorted(found, key=lambda each: (-each[1].tokens, each[0]))

    @property
    def attested(self) -> Attested:
        """What the witnesses carry together, of what the peer says if it says anything."""
        own = self.own
        return Testimony(signed.report for signed in self.reports.values()).of(
            self.peer_id,
            claimed_tokens=own.contribution.used_tokens if own else MAX_COUNT,
            most_seers=most_seers(self.manifest, own.domain if own else ""),
        )


def evidence_of(peer_id: PeerId, manifest: Manifest, signed: Mapping[PeerId, bytes]) -> Evidence:
    """Returns what there is on one peer among the reports of a swarm.

    Args:
        peer_id: Whose work.
        manifest: The run's.
        signed: Reports as they came, whose signatures hold.
    """
    reports = {
        peer: SignedReport(verify_report(data, manifest.run_id, peer), data)
        for peer, data in signed.items()
    }
    ours = {peer_id: reports[peer_id]} if peer_id in reports else {}
    theirs = {
        peer: each
        for peer, each in sorted(reports.items())
        if any(seen.peer_id == peer_id for seen in each.report.witnesses)
    }
    return Evidence(manifest=manifest, peer_id=peer_id, reports=ours | theirs)


def write_evidence(path: Path, evidence: Evidence) -> None:
    """Writes the file.

    Raises:
        ConfigError: it cannot be written.
    """
    data = {
        "format": "thinwire contribution 1",
        "peer_id": evidence.peer_id,
        "manifest": _spelled(evidence.manifest.to_bytes()),
        "reports": {peer: _spelled(signed.data) for peer, signed in evidence.reports.items()},
    }
    try:
        write_whole(path, json.dumps(data, indent=1).encode() + b"\n")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


class _File(BaseModel):
    format: Literal["thinwire contribution 1"]
    peer_id: str
    manifest: str
    reports: Annotated[dict[str, str], Field(max_length=MAX_REPORTS)]


def read_evidence(path: Path) -> Evidence:
    """Returns what is in a file, if every signature in it holds.

    Raises:
        ConfigError: it cannot be read, is no such file, or something in it is not what it says.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{path} is larger than any file of contributions")
    try:
        found = _File.model_validate_json(data)
        manifest = parse_manifest(_read(found.manifest))
        peer_id = parse_peer_id(found.peer_id)
    except ValidationError:
        raise ConfigError(
            f"{path} is no file of contributions; `thinwire contribution --out` writes one"
        ) from None
    except (RemoteError, binascii.Error) as error:
        raise ConfigError(f"{path} cannot be trusted: {error}") from None
    reports = {}
    for name, text in found.reports.items():
        try:
            peer, signed = parse_peer_id(name), _read(text)
            reports[peer] = SignedReport(verify_report(signed, manifest.run_id, peer), signed)
        except (RemoteError, binascii.Error) as error:
            raise ConfigError(
                f"{path} cannot be trusted: the report of {_shown(name)}: {error}"
            ) from None
    return Evidence(manifest=manifest, peer_id=peer_id, reports=reports)


def _spelled(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _read(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _shown(name: str) -> str:
    return repr(name[:60])
