import stat
from pathlib import Path

import pytest

from peer.identity_file import load_identity
from protocol.errors import ConfigError
from protocol.identity import Identity


def test_an_identity_is_made_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "identity.key"
    made = load_identity(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["identity.key"]
    assert load_identity(path).peer_id == made.peer_id
    assert load_identity(tmp_path / "another.key").peer_id != made.peer_id


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o644], ids=oct)
def test_a_key_that_others_may_touch_is_refused_with_the_fix(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity.key"
    peer_id = load_identity(path).peer_id
    path.chmod(mode)
    with pytest.raises(ConfigError) as refused:
        load_identity(path)
    fix = str(refused.value).partition("run: ")[2].split()
    assert fix == ["chmod", "600", str(path)]
    path.chmod(int(fix[1], 8))
    assert load_identity(path).peer_id == peer_id


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        Identity(bytes(32)).to_libp2p()[:-1],
        Identity(bytes(32)).to_libp2p()[:-1] + b"\0",
        b"\x08\x02" + Identity(bytes(32)).to_libp2p()[2:],
    ],
    ids=["empty", "garbage", "cut off", "halves of two keys", "an RSA key"],
)
def test_a_file_that_is_no_key_is_refused_and_left_alone(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "identity.key"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=r"identity\.key is no identity.*move it away"):
        load_identity(path)
    assert path.read_bytes() == data


def test_a_folder_that_cannot_be_written_is_the_operators_to_mend(tmp_path: Path) -> None:
    # A file in the folder's place: it refuses root, too.
    (tmp_path / "folder").write_text("")
    with pytest.raises(ConfigError, match="cannot write a new identity"):
        load_identity(tmp_path / "folder" / "identity.key")


def test_a_disk_that_fails_half_way_leaves_no_half_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", fail)
        with pytest.raises(ConfigError, match="No space left"):
            load_identity(tmp_path / "identity.key")
    assert list(tmp_path.iterdir()) == []
    load_identity(tmp_path / "identity.key")
