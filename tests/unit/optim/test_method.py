from typing import Any

import pytest

from optim.codec.blockwise import Int4, Int8
from optim.codec.topk import TopK
from optim.method import MIXINGS, Method, merged, method_named
from optim.outer.heavyball import HeavyBall
from optim.outer.nesterov import Nesterov
from optim.outer.noloco import NoLoCo
from optim.outer.plain import Plain
from optim.presets import PRESETS
from optim.schedule import Schedule

Settings = dict[str, Any]


def test_one_setting_of_an_axis_leaves_the_others() -> None:
    method = method_named("diloco", outer={"lr": 0.5}, schedule={"overlap_steps": 7})
    assert method.outer.rule == Nesterov(0.5, 0.6)
    assert method.schedule == Schedule(100, 1, 7)
    assert method.codec.name == "fp32"
    method = method_named("streaming", schedule={"interval_steps": 30})
    assert method.schedule == Schedule(30, 3, 1)
    assert (method.merge_alpha, method.pattern) == (None, "strided")
    assert method.separate_embeddings


def test_another_rule_or_codec_replaces_the_presets_whole() -> None:
    assert method_named("diloco", outer={"rule": "heavyball"}).outer.rule == HeavyBall()
    assert method_named("co2", outer={"rule": "plain"}).outer.rule == Plain()
    sparse = method_named("sparseloco", codec={"name": "int8", "rounding": "stochastic"})
    assert sparse.codec == Int8(rounding="stochastic")
    assert sparse.outer.feedback is None


def test_the_same_rule_or_codec_named_again_leaves_the_presets_constants() -> None:
    method = method_named("diloco", outer={"rule": "nesterov", "lr": 0.5}, codec={"name": "fp32"})
    assert method.outer.rule == Nesterov(0.5, 0.6)
    method = method_named("sparseloco", codec={"name": "topk"})
    assert method.outer.feedback == 0.95


def test_merged_settings_are_plain_data_of_their_own() -> None:
    for name, preset in PRESETS.items():
        settings = merged(name, {})
        assert settings == preset
        settings["schedule"]["interval_steps"] = -1
        settings["outer"]["rule"] = "none"
        assert preset["schedule"]["interval_steps"] > 0
        assert preset["outer"]["rule"] != "none"


def test_overrides_stay_untouched() -> None:
    codec: Settings = {"name": "topk", "feedback": 0.5}
    schedule: Settings = {"pattern": "sequential", "fragments": 2}
    method = method_named("diloco", codec=codec, schedule=schedule)
    assert (method.outer.feedback, method.pattern) == (0.5, "sequential")
    assert codec == {"name": "topk", "feedback": 0.5}
    assert schedule == {"pattern": "sequential", "fragments": 2}


def test_offsets_can_be_given() -> None:
    method = method_named("diloco", schedule={"fragments": 2, "offsets": (5, 1)})
    assert [method.schedule.offset(p) for p in range(2)] == [5, 1]


@pytest.mark.parametrize(
    ("preset", "refused", "sentence", "neighbour"),
    [
        ("diloco", {"mixing": "ring"}, "no mixing 'ring'; choose one of all, pairs, groups", {}),
        (
            "diloco",
            {"schedule": {"pattern": "stride"}},
            "no pattern 'stride'; choose one of balanced, sequential, strided",
            {"schedule": {"pattern": "strided"}},
        ),
        (
            "streaming",
            {"schedule": {"merge_alpha": 1.5}},
            "merge_alpha must be between 0 and 1, not 1.5",
            {"schedule": {"merge_alpha": 1.0}},
        ),
        (
            "streaming",
            {"schedule": {"merge_alpha": -0.1}},
            "merge_alpha must be between 0 and 1",
            {"schedule": {"merge_alpha": 0.0}},
        ),
        (
            "streaming",
            {"schedule": {"merge_alpha": float("nan")}},
            "merge_alpha must be between 0 and 1",
            {"schedule": {"merge_alpha": None}},
        ),
        (
            "diloco",
            {"mixing": "pairs"},
            "this outer rule does not draw them together; use rule noloco, or mixing all",
            {"mixing": "pairs", "outer": {"rule": "noloco"}},
        ),
        (
            "noloco",
            {"mixing": "all"},
            "with mixing all they never differ; use rule heavyball",
            {"mixing": "all", "outer": {"rule": "heavyball"}},
        ),
        (
            "diloco",
            {"codec": {"name": "mod4"}},
            "codec mod4 is for parameters that lie near the receiver's own",
            {"codec": {"name": "int4"}},
        ),
        (
            "noloco",
            {"codec": {"name": "mod8"}, "outer": {"gamma": 0.3}},
            "codec mod8 is for parameters .* pseudo-gradients do not",
            {"codec": {"name": "mod8"}},
        ),
        (
            "noloco",
            {"codec": {"name": "int8"}},
            "sends the parameters themselves, which int8 would damage",
            {"codec": {"name": "bf16"}},
        ),
        (
            "noloco",
            {"codec": {"name": "topk"}},
            "sends the parameters themselves, which topk would damage",
            {"codec": {"name": "fp16"}},
        ),
        (
            "diloco",
            {"codec": {"name": "topk"}},
            "without error feedback that is lost for good; set codec.feedback",
            {"codec": {"name": "topk", "feedback": 0.95}},
        ),
        (
            "diloco",
            {"codec": {"name": "int8", "cheaper": ["int4", "topk"]}},
            "without error feedback that is lost for good; set codec.feedback",
            {"codec": {"name": "int8", "cheaper": ["int4", "topk"], "feedback": 0.95}},
        ),
        (
            "noloco",
            {"codec": {"name": "bf16", "cheaper": ["int4"]}},
            "sends the parameters themselves, which int4 would damage",
            {"codec": {"name": "bf16", "cheaper": ["mod8", "mod4"]}},
        ),
        (
            "diloco",
            {"codec": {"name": "bf16", "cheaper": ["mod4"]}},
            "codec mod4 is for parameters that lie near the receiver's own",
            {"codec": {"name": "bf16", "cheaper": ["int4"]}},
        ),
        (
            "diloco",
            {"codec": {"name": "int8", "cheaper": ["int4", "bf16"]}},
            "codec bf16 is not cheaper than int4; name in codec.cheaper",
            {"codec": {"name": "bf16", "cheaper": ["int8", "int4"]}},
        ),
        (
            "diloco",
            {"codec": {"name": "int8", "cheaper": ["int8"]}},
            "codec int8 is not cheaper than int8",
            {"codec": {"name": "int8", "cheaper": []}},
        ),
        (
            "eager",
            {"schedule": {"merge_alpha": 0.5}},
            "leave schedule.merge_alpha out",
            {"outer": {"rule": "nesterov"}, "schedule": {"merge_alpha": 0.5}},
        ),
        ("co2", {"schedule": {"merge_alpha": 1}}, "leave schedule.merge_alpha out", {}),
        (
            "noloco",
            {"codec": {"feedback": 0.95}},
            "this rule sends parameters; leave feedback out",
            {"codec": {"feedback": None}},
        ),
        (
            "sparseloco",
            {"codec": {"feedback": 0.0}},
            "feedback must be above 0 and at most 1",
            {"codec": {"feedback": 1.0}},
        ),
        (
            "eager",
            {"schedule": {"interval_steps": 30}},
            r"overlap_steps must be between 0 and interval_steps \(30\), not 100",
            {"schedule": {"interval_steps": 30, "overlap_steps": 30}},
        ),
    ],
)
def test_what_makes_no_sense_is_refused_and_its_neighbour_is_not(
    preset: str, refused: Settings, sentence: str, neighbour: Settings
) -> None:
    with pytest.raises(ValueError, match=sentence):
        method_named(preset, **refused)
    method_named(preset, **neighbour)


@pytest.mark.parametrize(
    ("preset", "overrides", "sentence"),
    [
        ("dilico", {}, "no preset 'dilico'; choose one of diloco, streaming"),
        ("diloco", {"rule": "plain"}, "no axis 'rule'; there are mixing, schedule, codec, outer"),
        ("diloco", {"schedule": {"H": 30}}, "'H'"),
        ("diloco", {"schedule": {"num_fragments": 3}}, "'num_fragments'"),
        ("diloco", {"codec": {"bits": 4}}, "'bits'"),
        ("diloco", {"codec": {"name": "int3"}}, "no codec 'int3'"),
        ("diloco", {"codec": {"name": "int8", "cheaper": ["int3"]}}, "no codec 'int3'"),
        ("diloco", {"outer": {"gamma": 0.5}}, "nesterov has no constant 'gamma'"),
        ("diloco", {"outer": {"rule": "adam"}}, "no outer rule 'adam'"),
        ("diloco", {"outer": {"lr": "high"}}, "nesterov's lr is a number, not 'high'"),
        ("co2", {"outer": {"gap": 1.0}}, "co2's gap is a name, not 1.0"),
        ("diloco", {"codec": "int8"}, "codec is a dict of settings .*, not 'int8'"),
        ("diloco", {"outer": None}, "outer is a dict of settings .*, not None"),
    ],
)
def test_unknown_settings_are_refused_by_name(
    preset: str, overrides: Settings, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        method_named(preset, **overrides)


def test_cheaper_codecs_follow_the_runs_own_with_parameters_of_their_own() -> None:
    codec = {"name": "int8", "rounding": "stochastic", "cheaper": ["int4", "topk"], "feedback": 0.9}
    method = method_named("diloco", codec=codec)
    assert method.codecs == (Int8(rounding="stochastic"), Int4(), TopK())
    assert method.cheaper == method.codecs[1:]
    alone = method_named("diloco")
    assert alone.codecs == (alone.codec,)


def test_another_codec_replaces_the_cheaper_ones_too() -> None:
    thin = merged("diloco", {"codec": {"name": "int8", "cheaper": ["int4"]}})
    assert thin["codec"]["cheaper"] == ["int4"]
    assert merged("diloco", {"codec": {"name": "int8"}})["codec"] == {"name": "int8"}


def test_every_mixing_but_groups_has_a_preset() -> None:
    mixings = {method_named(preset).mixing for preset in PRESETS}
    assert mixings | {"groups"} == set(MIXINGS)  # which is an override of the others


def test_a_method_can_be_made_of_its_parts() -> None:
    named = method_named("noloco")
    by_hand = Method(named.mixing, named.schedule, named.codec, named.outer)
    assert by_hand == named
    assert isinstance(by_hand.outer.rule, NoLoCo)
