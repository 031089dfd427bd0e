import json

import pytest

from optim.codec.blockwise import Int4
from optim.codec.modulo import Modulo
from optim.codec.topk import TopK
from optim.method import method_named
from optim.outer.co2 import CO2
from optim.outer.eager import Eager
from optim.outer.named import OUTER_RULES, outer_rule_named
from optim.outer.nesterov import Nesterov
from optim.outer.noloco import NoLoCo
from optim.outer.plain import Plain
from optim.presets import PRESETS
from optim.schedule import Schedule


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_built_and_names_all_axes(name: str) -> None:
    assert set(PRESETS[name]) == {"mixing", "schedule", "codec", "outer"}
    assert method_named(name).schedule.interval_steps == PRESETS[name]["schedule"]["interval_steps"]


def test_presets_are_plain_data() -> None:
    assert json.loads(json.dumps(PRESETS)) == PRESETS


def test_each_preset_has_its_papers_rule() -> None:
    rules = {name: type(method_named(name).outer.rule) for name in PRESETS}
    assert rules == {
        "diloco": Nesterov,
        "streaming": Nesterov,
        "noloco": NoLoCo,
        "eager": Eager,
        "co2": CO2,
        "sparseloco": Plain,
        "gossip-stream": NoLoCo,
    }
    assert method_named("sparseloco").outer.feedback == 0.95
    codecs = {name: method_named(name).codec for name in PRESETS}
    assert codecs["streaming"] == Int4()
    assert codecs["sparseloco"] == TopK(4096, 64, 2)
    assert codecs["gossip-stream"] == Modulo(4)
    assert {codecs[name].name for name in ("diloco", "noloco", "eager", "co2")} == {"fp32"}


@pytest.mark.parametrize("name", ["eager", "co2"])
def test_rules_that_go_ahead_have_a_whole_round_to_deliver(name: str) -> None:
    schedule = method_named(name).schedule
    assert schedule == Schedule(100, 1, 100)


@pytest.mark.parametrize("name", OUTER_RULES)
def test_every_rule_has_a_name_and_defaults(name: str) -> None:
    assert outer_rule_named(name) == OUTER_RULES[name]()


def test_constants_by_name() -> None:
    assert outer_rule_named("noloco", gamma=0.3) == NoLoCo(gamma=0.3)
    assert outer_rule_named("co2", gap="none", keep=0) == CO2(gap="none", keep=0)


def test_unknown_names_are_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"no outer rule 'adam'; choose one of nesterov, .*plain"):
        outer_rule_named("adam")
    with pytest.raises(ValueError, match="nesterov has no constant 'gamma'; it has lr, momentum"):
        outer_rule_named("nesterov", gamma=0.7)
