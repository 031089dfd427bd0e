"""A method: one point on the four axes, mixing x schedule x codec x outer rule.

`method_named` takes a preset by name and single settings that override it; a combination that makes
no sense is refused with a sentence that says why.
"""

from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from optim.codec.codec import Codec, codec_named
from optim.fragments import PATTERNS
from optim.outer.copy import Outer
from optim.outer.named import outer_rule_named
from optim.outer.noloco import NoLoCo
from optim.outer.rule import AheadRule
from optim.presets import PRESETS
from optim.schedule import Schedule

MIXINGS = ("all", "pairs", "groups")
_MANY = 1 << 20
"""Values, so that codecs are compared by what they take for each."""


@dataclass(frozen=True, slots=True)
class Method:
    """What replicas do between inner steps.

    Attributes:
        mixing: `all` replicas average, or random `pairs`, or random `groups`.
        schedule: Which fragment departs and lands when.
        codec: What travels.
        cheaper: What travels instead where links are too thin for that, cheaper one by one.
        outer: What becomes of the average.
        merge_alpha: At a landing, theta becomes `alpha theta + (1 - alpha) Theta` (Streaming
            DiLoCo); None keeps all steps since departure on top of the new anchor.
        pattern: How tensors are dealt to fragments, see `optim.layout.layout_of`.
        separate_embeddings: Whether embedding and head are a fragment of their own.
        group_size: Of mixing groups: at most so many replicas average together.

    Raises:
        ValueError: the axes do not fit together.
    """

    mixing: str
    schedule: Schedule
    codec: Codec
    outer: Outer
    merge_alpha: float | None = None
    pattern: str = "balanced"
    separate_embeddings: bool = False
    cheaper: tuple[Codec, ...] = ()
    group_size: int = 4

    def __post_init__(self) -> None:
        for refuse in (_unknown, _pairs, _parameters_in_few_bits, _sparse, _dearer, _ahead):
            if reason := refuse(self):
                raise ValueError(reason)

    @property
    def codecs(self) -> tuple[Codec, ...]:
        """All of them, from `codec` to the cheapest."""
        return self.codec, *self.cheaper


def method_named(preset: str, **overrides: Any) -> Method:
    """Return a preset's method, with single settings of your own.

    Args:
        preset: One of `PRESETS`.
        **overrides: `mixing="pairs"`, or a dict for `schedule`, `codec` or `outer`. It is laid over
            the preset's; a codec of another name, or another rule, replaces the preset's whole.
            With `mixing="groups"` there is `group_size`, too.

    Raises:
        ValueError: there is no such preset or setting, or the combination makes no sense.
    """
    axes = merged(preset, overrides)
    try:
        return method_of(**axes)
    except TypeError as error:  # an argument that no constructor has
        raise ValueError(f"method {preset!r}: {error}") from None


def merged(preset: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a preset with others laid over them, as plain data.

    Raises:
        ValueError: there is no such preset or axis, or an axis is not a dict of settings.
    """
    if preset not in PRESETS:
        raise ValueError(f"there is no preset {preset!r}; choose one of {', '.join(PRESETS)}")
    axes = deepcopy(PRESETS[preset])
    for name, value in overrides.items():
        if name == "group_size":
            axes[name] = value
            continue
        if name not in axes:
            raise ValueError(f"there is no axis {name!r}; there are {', '.join(axes)}")
        old = axes[name]
        if not isinstance(old, dict):
            axes[name] = value
            continue
        if not isinstance(value, dict):
            raise ValueError(f"{name} is a dict of settings such as {old}, not {value!r}")
        key = {"codec": "name", "outer": "rule"}.get(name)
        is_another = key is not None and value.get(key, old[key]) != old[key]
        axes[name] = dict(value) if is_another else {**old, **value}
    if "group_size" in axes and axes["mixing"] != "groups":
        raise ValueError(f"group_size is for mixing groups, not for mixing {axes['mixing']}")
    return axes


def method_of(
    mixing: str,
    schedule: dict[str, Any],
    codec: dict[str, Any],
    outer: dict[str, Any],
    group_size: int = 4,
) -> Method:
    """Return the method with these settings, named as in a manifest.

    Raises:
        ValueError: a setting is wrong, or the combination makes no sense.
        TypeError: there is no such setting.
    """
    schedule, codec, outer = dict(schedule), dict(codec), dict(outer)
    layout = {
        name: schedule.pop(name)
        for name in ("pattern", "separate_embeddings", "merge_alpha")
        if name in schedule
    }
    feedback, cheaper = codec.pop("feedback", None), codec.pop("cheaper", ())
    return Method(
        mixing=mixing,
        schedule=Schedule(
            schedule.pop("interval_steps", 100),
            schedule.pop("fragments", 1),
            schedule.pop("overlap_steps", 0),
            **schedule,
        ),
        codec=codec_named(**codec),
        outer=Outer(outer_rule_named(**outer), feedback),
        cheaper=tuple(codec_named(name) for name in cheaper),
        group_size=group_size,
        **layout,
    )


def _unknown(method: Method) -> str | None:
    if method.mixing not in MIXINGS:
        return f"there is no mixing {method.mixing!r}; choose one of {', '.join(MIXINGS)}"
    if method.group_size < 2:
        return f"group_size must be at least 2, not {method.group_size}"
    if method.pattern not in PATTERNS:
        return f"there is no pattern {method.pattern!r}; choose one of {', '.join(PATTERNS)}"
    alpha = method.merge_alpha
    if alpha is not None and not 0 <= alpha <= 1:
        return f"merge_alpha must be between 0 and 1, not {alpha}"
    return None


def _pairs(method: Method) -> str | None:
    is_noloco = isinstance(method.outer.rule, NoLoCo)
    if method.mixing != "all" and not is_noloco:
        return (
            f"with mixing {method.mixing} anchors differ from replica to replica, and this outer "
            "rule does not draw them together; use rule noloco, or mixing all"
        )
    if method.mixing == "all" and is_noloco:
        return (
            "rule noloco draws differing anchors together, but with mixing all they never differ; "
            "use rule heavyball (the same step then), or mixing pairs or groups"
        )
    return None


def _parameters_in_few_bits(method: Method) -> str | None:
    rule = method.outer.rule
    for codec in method.codecs:
        is_modulo = codec.name in ("mod4", "mod8")
        if is_modulo and not (rule.sends_parameters and rule.lanes == 1):
            return (
                f"codec {codec.name} is for parameters that lie near the receiver's own (noloco "
                "with gamma = lr); pseudo-gradients do not, use int4 or int8"
            )
        if rule.sends_parameters and not (is_modulo or codec.name in ("fp32", "fp16", "bf16")):
            return (
                f"rule noloco sends the parameters themselves, which {codec.name} would damage; "
                "use codec mod4 or mod8 (with gamma = lr), bf16 or fp32"
            )
    return None


def _sparse(method: Method) -> str | None:
    is_sparse = any(codec.name == "topk" for codec in method.codecs)
    if is_sparse and method.outer.feedback is None:
        return (
            "codec topk leaves most of a pseudo-gradient out, and without error feedback that is "
            "lost for good; set codec.feedback (0.95 in SparseLoCo)"
        )
    return None


def _dearer(method: Method) -> str | None:
    for codec, cheaper in pairwise(method.codecs):
        if cheaper.frame_bytes(_MANY) >= codec.frame_bytes(_MANY):
            return (
                f"codec {cheaper.name} is not cheaper than {codec.name}; name in codec.cheaper, "
                "after codec.name, what needs less and less"
            )
    return None


def _ahead(method: Method) -> str | None:
    if isinstance(method.outer.rule, AheadRule) and method.merge_alpha is not None:
        return (
            "rules eager and co2 say themselves what the live parameters keep of their own work; "
            "leave schedule.merge_alpha out"
        )
    return None
