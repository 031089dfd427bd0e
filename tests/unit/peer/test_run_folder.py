import stat
from dataclasses import replace
from pathlib import Path

import pytest

from peer.run_folder import (
    IDENTITY,
    MANIFEST,
    SIGNATURE,
    TICKET,
    Run,
    TicketFile,
    folder_here,
    read_run,
    read_ticket,
    with_kept_addresses,
    write_run,
    write_ticket,
)
from protocol.errors import ConfigError
from protocol.identity import Identity
from protocol.manifest import manifest_from, sign_manifest
from protocol.ticket import MAX_ADDRESSES, Address, Ticket
from tests.unit.peer.small_disk import a_small_disk, fill

FOUNDER = Identity(b"f" * 32)
IDS = [Identity(bytes([n]) * 32).peer_id for n in range(20)]


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


def test_a_full_disk_keeps_nobody_from_coming_back_and_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_of()
    ticket, newer = ticket_of(run), ticket_of(run, secret=b"s" * 16)
    with a_small_disk(tmp_path / "disk") as disk:
        file = TicketFile(disk)
        write_run(disk, run)
        file.keep(ticket)
        filler = fill(disk)
        names = sorted(path.name for path in disk.iterdir())
        write_run(disk, run)
        for _ in range(3):
            file.keep(newer)
        assert len(caplog.records) == 1
        assert read_run(disk, ticket) == run
        assert read_ticket(disk) == ticket
        assert sorted(path.name for path in disk.iterdir()) == names
        filler.unlink()
        file.keep(newer)
        assert read_ticket(disk) == newer


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


# ---- coming back


def of_peer(folder: Path, ticket: Ticket) -> Path:
    folder.mkdir(parents=True)
    (folder / IDENTITY).write_bytes(b"key")
    write_ticket(folder, ticket)
    return folder


def test_an_old_ticket_is_joined_by_the_addresses_that_the_folder_keeps(tmp_path: Path) -> None:
    old, newer = ticket_of(run_of(), b"s" * 16), Address("10.0.0.9", 9, IDS[0])
    folder = of_peer(tmp_path / "mine", replace(old, addresses=(newer, *old.addresses)))
    both = with_kept_addresses(old, folder)
    assert both == replace(old, addresses=(*old.addresses, newer))


def test_what_a_folder_keeps_of_another_run_or_not_at_all_is_no_help(tmp_path: Path) -> None:
    ticket = ticket_of(run_of())
    folder = of_peer(tmp_path / "mine", ticket_of(run_of("another")))
    assert with_kept_addresses(ticket, folder) == ticket
    assert with_kept_addresses(ticket, tmp_path / "nowhere") == ticket
    (folder / TICKET).write_text("no ticket at all")
    assert with_kept_addresses(ticket, folder) == ticket


def test_a_ticket_holds_only_so_many_addresses_and_its_own_come_first(tmp_path: Path) -> None:
    many = tuple(Address(f"10.0.0.{n}", 4000, peer) for n, peer in enumerate(IDS))
    ticket = replace(ticket_of(run_of()), addresses=many[:10])
    folder = of_peer(tmp_path / "mine", replace(ticket, addresses=many[5:20]))
    assert with_kept_addresses(ticket, folder).addresses == many[:MAX_ADDRESSES]


def test_the_folder_that_is_meant_is_here_or_the_only_one_below(tmp_path: Path) -> None:
    ticket = ticket_of(run_of())
    (tmp_path / "thinwire-notes").mkdir()
    with pytest.raises(ConfigError, match="give a ticket"):
        folder_here(tmp_path)
    first = of_peer(tmp_path / "thinwire-aa", ticket)
    assert folder_here(tmp_path) == folder_here(first) == first
    of_peer(tmp_path / "thinwire-bb", ticket)
    with pytest.raises(ConfigError, match=r"thinwire-aa.*thinwire-bb.*--dir"):
        folder_here(tmp_path)
    assert folder_here(first) == first


def test_a_hosts_folder_is_no_peers(tmp_path: Path) -> None:
    write_ticket(tmp_path, ticket_of(run_of()))
    with pytest.raises(ConfigError, match="give a ticket"):
        folder_here(tmp_path)
