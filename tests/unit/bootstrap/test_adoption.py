"""What a node that adopts a run keeps; how it finds one is in tests/net."""

import stat
from pathlib import Path

import pytest

from bootstrap.adoption import adopt
from bootstrap.found import SECRET, read_secret, write_secret
from peer.run_folder import Run, write_run
from protocol.errors import ConfigError
from protocol.identity import Identity
from protocol.manifest import manifest_from, sign_manifest
from protocol.ticket import Address, Ticket
from tests.unit.peer.small_disk import a_small_disk, fill

FOUNDER = Identity(b"f" * 32)


def ticket_for(folder: Path, secret: bytes | None) -> Ticket:
    """Returns a ticket of the run that is in `folder` from now on."""
    manifest = manifest_from({"founder": FOUNDER.peer_id})
    write_run(folder, Run(manifest, sign_manifest(manifest, FOUNDER)))
    address = Address("192.0.2.1", 4000, FOUNDER.peer_id)
    return Ticket(manifest.run_id, FOUNDER.peer_id, (address,), secret)


async def test_a_secret_that_the_folder_lacks_is_taken_from_the_ticket(tmp_path: Path) -> None:
    await adopt(ticket_for(tmp_path, None), tmp_path, wait_s=0.0)
    assert not (tmp_path / SECRET).exists()
    await adopt(ticket_for(tmp_path, b"s" * 16), tmp_path, wait_s=0.0)
    assert read_secret(tmp_path / SECRET) == b"s" * 16
    assert stat.S_IMODE((tmp_path / SECRET).stat().st_mode) == 0o600
    await adopt(ticket_for(tmp_path, b"t" * 16), tmp_path, wait_s=0.0)
    assert read_secret(tmp_path / SECRET) == b"s" * 16


def test_a_secret_on_a_full_disk_is_one_clear_line_and_can_be_written_later(tmp_path: Path) -> None:
    with a_small_disk(tmp_path / "disk") as disk:
        filler = fill(disk)
        for _ in range(2):
            with pytest.raises(ConfigError, match=r"cannot write .*secret: No space left") as full:
                write_secret(disk / SECRET, b"s" * 16)
            assert "\n" not in str(full.value)
        assert list(disk.iterdir()) == [filler]
        filler.unlink()
        write_secret(disk / SECRET, b"s" * 16)
        assert read_secret(disk / SECRET) == b"s" * 16
