"""What a run.toml may say, and what a method in it means."""

from pathlib import Path
from typing import Any

import pytest

from optim.presets import PRESETS
from peer.settings import method_settings, read_settings
from protocol.errors import ConfigError
from protocol.manifest import manifest_from

# ---- the method


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_presets_name_means_all_its_axes(name: str) -> None:
    method = method_settings(name)
    manifest = manifest_from({"founder": "nobody", "method": method})
    axes = PRESETS[name]
    assert manifest.method.preset == name
    assert manifest.method.mixing == axes["mixing"]
    assert manifest.method.schedule.interval_steps == axes["schedule"]["interval_steps"]
    outer = manifest.method.outer
    assert {"rule": outer.rule, **outer.constants} == axes["outer"]


@pytest.mark.parametrize(
    ("given", "changed"),
    [
        (
            {"preset": "diloco", "schedule": {"interval_steps": 7}},
            {"schedule": {"interval_steps": 7, "fragments": 1, "overlap_steps": 0}},
        ),
        (
            {"schedule": {"fragments": 4, "overlap_steps": 5}},
            {"schedule": {"interval_steps": 100, "fragments": 4, "overlap_steps": 5}},
        ),
        (
            {"preset": "noloco", "codec": {"name": "bf16"}},
            {"codec": {"name": "bf16"}},
        ),
        (
            {"preset": "diloco", "codec": {"name": "int8", "block": 64}},
            {"codec": {"name": "int8", "block": 64}},
        ),
        (
            {"preset": "diloco", "outer": {"momentum": 0.5}},
            {"outer": {"rule": "nesterov", "constants": {"lr": 0.7, "momentum": 0.5}}},
        ),
        (
            {"preset": "diloco", "outer": {"rule": "nesterov", "lr": 1.0}},
            {"outer": {"rule": "nesterov", "constants": {"lr": 1.0, "momentum": 0.6}}},
        ),
        (
            {"preset": "diloco", "mixing": "pairs", "outer": {"rule": "noloco", "gamma": 0.5}},
            {"mixing": "pairs", "outer": {"rule": "noloco", "constants": {"gamma": 0.5}}},
        ),
    ],
    ids=[
        "one number of the schedule",
        "no preset is diloco",
        "codec",
        "codec with a block",
        "one constant",
        "the same rule",
        "another rule drops foreign constants",
    ],
)
def test_a_table_overrides_its_preset_axis_by_axis(
    given: dict[str, Any], changed: dict[str, Any]
) -> None:
    before = {name: dict(axes) for name, axes in PRESETS.items()}
    method = method_settings(given)
    assert method == method_settings(given.get("preset", "diloco")) | changed
    assert before == PRESETS  # they are everybody's
    manifest_from({"founder": "nobody", "method": method})


def test_an_unknown_preset_is_answered_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'dicolo'.*diloco, .*noloco"):
        method_settings("dicolo")


# ---- run.toml


def test_the_example_in_the_documentation_is_a_method_that_works(tmp_path: Path) -> None:
    (_, _, rest) = Path("docs/host.md").read_text().partition('    name = "my run"')
    block = 'name = "my run"' + rest.partition("\nThe run's id")[0]
    (tmp_path / "run.toml").write_text("\n".join(line.strip() for line in block.splitlines()))
    settings = read_settings(tmp_path / "run.toml")
    method = method_settings(settings["method"])
    manifest = manifest_from(settings | {"founder": "nobody", "method": method})
    assert manifest.method.codec.name == "int8"
    assert manifest.membership.policy == "invite"


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"name = ", "not valid TOML"),
        (b'name = "a"\nname = "b"', "not valid TOML"),
        (b"\xff\xfe", "not valid TOML"),
        (None, "No such file"),
    ],
    ids=["cut off", "key twice", "no UTF-8", "no file"],
)
def test_what_is_no_toml_is_refused_with_its_path(
    tmp_path: Path, content: bytes | None, word: str
) -> None:
    path = tmp_path / "run.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=word) as refused:
        read_settings(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
