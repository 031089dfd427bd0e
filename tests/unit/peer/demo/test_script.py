import tomllib

import pytest

from peer.demo import script
from peer.method import check_method
from peer.settings import method_settings
from protocol.errors import ConfigError
from protocol.manifest import manifest_from


@pytest.mark.parametrize("method", list(script.METHODS))
@pytest.mark.parametrize("steps", [script.FEWEST_STEPS, script.DEFAULT_STEPS])
def test_the_settings_make_a_manifest(method: str, steps: int) -> None:
    settings = tomllib.loads(script.run_toml(method, seed=7, steps=steps))
    settings["method"] = method_settings(settings["method"])
    manifest = manifest_from(settings | {"founder": "somebody"})
    check_method(manifest)
    assert manifest.seed == 7
    assert manifest.method.codec.name == script.METHODS[method].codec
    assert manifest.inner.total_steps == steps
    assert manifest.inner.warmup_steps < steps
    assert steps // manifest.method.schedule.interval_steps >= 6


@pytest.mark.parametrize(("method", "steps"), [("adam", 900), ("diloco", 3)])
def test_what_cannot_be_played_is_refused(method: str, steps: int) -> None:
    with pytest.raises(ConfigError, match="the demo"):
        script.run_toml(method, seed=0, steps=steps)


def test_the_cues_come_in_order() -> None:
    fracs = [cue.at_frac for cue in script.CUES]
    assert fracs == sorted(fracs)
    assert {script.VICTIM, script.NEWCOMER}.isdisjoint(script.WHOLE_TIME)
