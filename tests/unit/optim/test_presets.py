import json

import pytest

from optim.codec.codec import codec_named
from optim.outer.named import outer_rule_named
from optim.outer.nesterov import Nesterov
from optim.outer.noloco import NoLoCo
from optim.presets import PRESETS
from optim.schedule import Schedule


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_built(name: str) -> None:
    preset = PRESETS[name]
    assert set(preset) == {"mixing", "schedule", "codec", "outer"}
    schedule = preset["schedule"]
    Schedule(schedule["interval_steps"], schedule["fragments"], schedule["overlap_steps"])
    codec_named(**preset["codec"])
    outer_rule_named(**preset["outer"])


def test_presets_are_plain_data() -> None:
    assert json.loads(json.dumps(PRESETS)) == PRESETS


def test_the_papers_constants() -> None:
    assert outer_rule_named(**PRESETS["diloco"]["outer"]) == Nesterov(0.7, 0.9)
    assert outer_rule_named(**PRESETS["noloco"]["outer"]) == NoLoCo(0.7, 0.5, 0.7)


def test_rules_by_name() -> None:
    assert outer_rule_named("nesterov") == Nesterov()
    assert outer_rule_named("noloco", gamma=0.3) == NoLoCo(gamma=0.3)


def test_unknown_names_are_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="no outer rule 'adam'; choose one of nesterov, noloco"):
        outer_rule_named("adam")
    with pytest.raises(ValueError, match="nesterov has no constant 'gamma'; it has lr, momentum"):
        outer_rule_named("nesterov", gamma=0.7)
