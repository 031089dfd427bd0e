"""What a bootstrap node refuses before it opens a socket. The rest is in tests/net."""

from pathlib import Path

import pytest

from bootstrap.found import SECRET
from bootstrap.node import NoInbox, serve
from peer.run_folder import MANIFEST, SIGNATURE, Run, write_run
from protocol.errors import ConfigError, NotAvailable
from protocol.identity import Identity, PeerId
from protocol.machine import BlobRef
from protocol.manifest import manifest_from, sign_manifest

FOUNDER = Identity(b"f" * 32)


def write(folder: Path, signer: Identity = FOUNDER, policy: str = "open") -> None:
    manifest = manifest_from({"founder": FOUNDER.peer_id, "membership": {"policy": policy}})
    write_run(folder, Run(manifest, sign_manifest(manifest, signer)))


async def served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Returns the refusal."""

    async def start(*args: object, **kwargs: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr("bootstrap.node.HivemindDirectory.start", start)
    with pytest.raises(ConfigError) as refused:
        await serve(
            folder,
            listen_host="127.0.0.1",
            listen_port=0,
            announce_host=None,
            on_ready=lambda ticket: None,
            on_refresh=lambda presence: None,
            on_notice=lambda notice: None,
        )
    assert "\n" not in str(refused.value)
    return str(refused.value)


async def test_a_folder_without_a_run_says_how_to_found_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"thinwire new run.toml --dir {tmp_path}" in await served(tmp_path, monkeypatch)


async def test_a_manifest_that_its_founder_did_not_sign_is_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, signer=Identity(b"s" * 32))
    assert "not signed" in await served(tmp_path, monkeypatch)


@pytest.mark.parametrize("name", [MANIFEST, SIGNATURE])
async def test_a_damaged_run_is_not_served(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    data = bytearray((tmp_path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / name).write_bytes(data)
    assert "damaged" in await served(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    "secret",
    [
        None,
        "no hex",
        "",
    ],
    ids=["missing", "garbage", "empty"],
)
async def test_a_run_by_invitation_is_not_served_without_its_secret(
    tmp_path: Path, secret: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, policy="invite")
    if secret is not None:
        (tmp_path / SECRET).write_text(secret)
    assert "by invitation" in await served(tmp_path, monkeypatch)


async def test_a_bootstrap_node_holds_no_model() -> None:
    with pytest.raises(NotAvailable, match="bootstrap node"):
        await NoInbox().blob(PeerId("somebody"), BlobRef("state"))
