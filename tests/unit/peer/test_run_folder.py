import stat
from pathlib import Path

import pytest

from peer.run_folder import (
    MANIFEST,
    SIGNATURE,
    TICKET,
    Run,
    read_run,
    read_ticket,
    write_run,
    write_ticket,
)
from protocol.errors import ConfigError
from protocol.identity import Identity
from protocol.manifest import manifest_from, sign_manifest
from protocol.ticket import Address, Ticket

FOUNDER = Identity(b"f" * 32)


def run_of(name: str = "run", founder: Identity = FOUNDER) -> Run:
    manifest = manifest_from({"founder": founder.peer_id, "name": name})
    return Run(manifest, sign_manifest(manifest, founder))


def ticket_of(run: Run, secret: bytes | None = None) -> Ticket:
    address = Address("10.0.0.1", 4000, Identity(b"p" * 32).peer_id)
    return Ticket(run.manifest.run_id, FOUNDER.peer_id, (address,), secret)


def test_a_run_can_be_read_again_and_written_again(tmp_path: Path) -> None:
    folder, run = tmp_path / "not yet" / "there", run_of()
    write_run(folder, run)
    write_run(folder, run)
    assert read_run(folder, ticket_of(run)) == run


def test_a_folder_without_a_run_is_no_mistake(tmp_path: Path) -> None:
    assert read_run(tmp_path, ticket_of(run_of())) is None


def test_a_folder_of_another_run_is_refused_both_ways(tmp_path: Path) -> None:
    run, other = run_of(), run_of("other")
    write_run(tmp_path, run)
    with pytest.raises(ConfigError, match="belongs to another run"):
        write_run(tmp_path, other)
    with pytest.raises(ConfigError, match=f"run {run.manifest.run_id[:12]}.*--dir"):
        read_run(tmp_path, ticket_of(other))
    assert read_run(tmp_path, ticket_of(run)) == run


@pytest.mark.parametrize("at", [0, 100, -1], ids=["first", "middle", "last"])
@pytest.mark.parametrize("name", [MANIFEST, SIGNATURE])
def test_one_altered_byte_is_refused_with_one_line(tmp_path: Path, name: str, at: int) -> None:
    run = run_of()
    write_run(tmp_path, run)
    data = bytearray((tmp_path / name).read_bytes())
    data[at % len(data)] ^= 1
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError) as refused:
        read_run(tmp_path, ticket_of(run))
    assert "\n" not in str(refused.value)
    assert str(tmp_path) in str(refused.value)


def test_the_same_manifest_signed_by_a_stranger_is_refused(tmp_path: Path) -> None:
    run = run_of()
    write_run(tmp_path, Run(run.manifest, sign_manifest(run.manifest, Identity(b"s" * 32))))
    with pytest.raises(ConfigError, match="not signed"):
        read_run(tmp_path, ticket_of(run))


def test_a_run_whose_signature_is_missing_is_refused(tmp_path: Path) -> None:
    run = run_of()
    write_run(tmp_path, run)
    (tmp_path / SIGNATURE).unlink()
    with pytest.raises(ConfigError, match="cannot read the run"):
        read_run(tmp_path, ticket_of(run))


def test_a_folder_that_cannot_be_made_is_the_operators_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write to"):
        write_run(tmp_path / "file", run_of())


def test_a_kept_ticket_is_for_its_owner_only_whatever_was_there(tmp_path: Path) -> None:
    path = tmp_path / TICKET
    path.write_text("an old one that everybody could read")
    path.chmod(0o644)
    ticket = ticket_of(run_of(), secret=b"s" * 16)
    write_ticket(tmp_path, ticket)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_ticket(tmp_path) == ticket
    assert [file.name for file in tmp_path.iterdir()] == [TICKET]


def test_a_folder_without_a_ticket_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no ticket\.txt in it"):
        read_ticket(tmp_path)
