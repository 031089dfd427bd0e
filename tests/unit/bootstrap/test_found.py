import copy
import hashlib
import stat
from pathlib import Path
from typing import Any

import pytest
import torch

from bootstrap.found import FOUNDER_KEY, SECRET, found
from optim.method import Method, method_named
from optim.presets import PRESETS
from peer.method import method_of_run
from peer.run_folder import MANIFEST, SIGNATURE
from peer.train.model import layout_of_run
from protocol.errors import ConfigError
from protocol.identity import Identity, PeerId
from protocol.manifest import verify_manifest
from protocol.ticket import SECRET_BYTES


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a little text: enough to found a run."""
    folder = tmp_path_factory.mktemp("texts")
    for number in range(3):
        (folder / f"{number}.txt").write_text(f"line {number} of a text\n" * 800)
    return folder


@pytest.fixture
def settings(texts: Path) -> dict[str, Any]:
    return {
        "name": "small",
        "model": {"dim": 16, "layers": 1, "heads": 1, "ffn_dim": 16, "context": 16},
        "data": {"recipe": f"text:{texts}/*.txt", "validation_frac": 0.1},
    }


# ---- the method


def outline(method: Method) -> tuple[object, ...]:
    """All of a method; two codecs are the same when they write the same bytes."""
    axes = [getattr(method, name) for name in Method.__slots__ if name != "codec"]
    x = torch.linspace(-1, 2, 5000)
    return *axes, bytes(method.codec.encode(x, near=x + 0.1, seed=1))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_founds_a_run_of_the_default_model_by_its_name_alone(
    settings: dict[str, Any], tmp_path: Path, name: str
) -> None:
    del settings["model"]
    before = copy.deepcopy(PRESETS)
    manifest = found(settings | {"method": name}, tmp_path)
    assert manifest.method.preset == name
    assert outline(method_of_run(manifest)) == outline(method_named(name))
    fragments = layout_of_run(manifest).fragments
    assert len(fragments) == PRESETS[name]["schedule"]["fragments"]
    assert before == PRESETS


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_founds_a_run_with_settings_of_ones_own(
    settings: dict[str, Any], tmp_path: Path, name: str
) -> None:
    settings["model"]["layers"] = 4
    schedule = {"interval_steps": 12, "overlap_steps": 3}
    outer = {"lr": 0.9} | ({"gamma": 0.9} if PRESETS[name]["mixing"] == "pairs" else {})
    manifest = found(
        settings | {"method": {"preset": name, "schedule": schedule, "outer": outer}}, tmp_path
    )
    expected = method_named(name, schedule=schedule, outer=outer)
    assert outline(method_of_run(manifest)) == outline(expected)
    assert manifest.method.schedule.fragments == PRESETS[name]["schedule"]["fragments"]


@pytest.mark.parametrize(
    ("given", "key"),
    [
        (5, "method"),
        (["diloco"], "method"),
        ({"preset": 5}, "method"),
        ({"mixing": "some"}, "method.mixing"),
        ({"momentum": 0.5}, "method"),
        ({"schedule": {"intervals": 5}}, "method.schedule.intervals"),
        ({"schedule": {"interval_steps": "5"}}, "method.schedule.interval_steps"),
        ({"codec": {"name": 8}}, "method.codec.name"),
        ({"outer": {"lr": "high"}}, "method"),
        ({"outer": {"rule": 5}}, "method.outer.rule"),
        ({"preset": ["diloco"]}, "method"),
        ({"codec": "int8"}, "method.codec"),
        ({"schedule": 100}, "method.schedule"),
        ({"outer": "nesterov"}, "method.outer"),
    ],
    ids=repr,
)
def test_a_method_of_the_wrong_kind_is_refused_with_its_key(
    settings: dict[str, Any], tmp_path: Path, given: Any, key: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        found(settings | {"method": given}, tmp_path)
    assert str(refused.value).startswith(f"{key}:")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / MANIFEST).exists()


# ---- founding


def test_what_is_founded_can_be_verified_by_a_stranger(
    settings: dict[str, Any], tmp_path: Path, texts: Path
) -> None:
    manifest = found(settings | {"method": "noloco"}, tmp_path)
    data, signature = (tmp_path / MANIFEST).read_bytes(), (tmp_path / SIGNATURE).read_bytes()
    founder = Identity.from_libp2p((tmp_path / FOUNDER_KEY).read_bytes()).peer_id
    assert verify_manifest(data, signature, run_id=manifest.run_id, founder=founder) == manifest
    assert manifest.founder == founder
    assert manifest.method.preset == "noloco"
    tails = [data[len(data) - len(data) // 10 :] for data in map(Path.read_bytes, files(texts))]
    validation = b"\n".join(tails)
    assert manifest.data.validation_bytes == len(validation)
    assert manifest.data.validation_digest == hashlib.sha256(validation).hexdigest()
    assert not (tmp_path / SECRET).exists()


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


@pytest.mark.parametrize("policy", ["open", "invite"])
def test_the_same_settings_found_the_same_run_again(
    settings: dict[str, Any], tmp_path: Path, policy: str
) -> None:
    settings["membership"] = {"policy": policy}
    first = found(settings, tmp_path / "run")
    contents = {path.name: path.read_bytes() for path in files(tmp_path / "run")}
    assert found(settings, tmp_path / "run").run_id == first.run_id
    assert {path.name: path.read_bytes() for path in files(tmp_path / "run")} == contents
    assert found(settings, tmp_path / "other").run_id != first.run_id  # another founder


def test_other_settings_in_the_same_folder_are_refused_and_harm_nothing(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    first = found(settings, tmp_path)
    with pytest.raises(ConfigError, match="another run; choose another folder"):
        found(settings | {"seed": 1}, tmp_path)
    data, signature = (tmp_path / MANIFEST).read_bytes(), (tmp_path / SIGNATURE).read_bytes()
    founder = PeerId(first.founder)
    assert verify_manifest(data, signature, run_id=first.run_id, founder=founder) == first


def test_a_founder_cannot_be_named_in_the_settings(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    somebody = Identity(b"s" * 32).peer_id
    assert found(settings | {"founder": somebody}, tmp_path).founder != somebody


def test_a_run_by_invitation_has_a_secret_for_its_owner_alone(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    settings["membership"] = {"policy": "invite"}
    manifest = found(settings, tmp_path)
    path = tmp_path / SECRET
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secret = bytes.fromhex(path.read_text())
    assert len(secret) == SECRET_BYTES
    assert manifest.membership.invite_digest == hashlib.sha256(secret).hexdigest()
    assert secret.hex().encode() not in (tmp_path / MANIFEST).read_bytes()
    assert found(settings, tmp_path / "other").membership != manifest.membership


@pytest.mark.parametrize(
    "text",
    ["", "ab", "no hex at all, and it never was"],
    ids=["empty", "cut off", "garbage"],
)
def test_a_damaged_secret_founds_no_run(
    settings: dict[str, Any], tmp_path: Path, text: str
) -> None:
    settings["membership"] = {"policy": "invite"}
    (tmp_path / SECRET).write_text(text)
    with pytest.raises(ConfigError, match="secret"):
        found(settings, tmp_path)


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"nane": "x"}, "nane"),
        ({"name": 5}, "name"),
        ({"name": "two\nlines"}, "name"),
        ({"seed": -1}, "seed"),
        ({"seed": "1"}, "seed"),
        ({"model": {"dim": 16.0}}, "model.dim"),
        ({"model": {"dim": 30, "heads": 4}}, "model"),
        ({"model": "large"}, "model.kind"),
        ({"data": {"recipe": "wikipedia"}}, "data.recipe"),
        ({"data": {"recipe": "text:/nowhere/*.txt"}}, "data.recipe"),
        ({"inner": {"lr": float("nan")}}, "inner.lr"),
        ({"membership": {"policy": "friends"}}, "membership.policy"),
    ],
    ids=lambda wrong: repr(wrong) if isinstance(wrong, dict) else None,
)
def test_a_wrong_setting_is_refused_in_one_line_that_names_it(
    settings: dict[str, Any], tmp_path: Path, wrong: dict[str, Any], key: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        found(settings | wrong, tmp_path)
    assert str(refused.value).startswith((f"{key}:", f"{key} "))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / MANIFEST).exists()


def test_too_little_text_is_refused_with_the_numbers(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "short.txt").write_text("short")
    settings["data"] = {"recipe": f"text:{tmp_path}/*.txt"}
    with pytest.raises(ConfigError, match="too little text: 5 bytes"):
        found(settings, tmp_path / "run")
