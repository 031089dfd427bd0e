from typing import Any

import numpy as np
import pytest
import torch

from optim.layout import flatten_into
from peer.method import check_method, layout_of_run, mixing_of
from peer.train.data import Corpus
from peer.train.model import initial_anchor
from peer.train.replica import Replica
from protocol.errors import ConfigError
from protocol.identity import PeerId
from protocol.manifest import Manifest, manifest_from

SMALL = {"dim": 16, "layers": 2, "heads": 2, "ffn_dim": 24, "context": 16}


def manifest_of(model: dict[str, Any] | None = None, **method: Any) -> Manifest:
    return manifest_from({"founder": "nobody", "model": model or SMALL, "method": method})


def outer(rule: str, **constants: float | str) -> dict[str, Any]:
    return {"rule": rule, "constants": constants}


@pytest.mark.parametrize(
    "method",
    [
        {},
        {"codec": {"name": "int8"}},
        {"codec": {"name": "bf16"}, "schedule": {"fragments": 3, "overlap_steps": 99}},
        {"outer": outer("nesterov", lr=1.0, momentum=0.0)},
        {"mixing": "pairs", "outer": outer("noloco")},
        {"mixing": "pairs", "outer": outer("noloco"), "codec": {"name": "bf16"}},
        {"mixing": "pairs", "outer": outer("noloco", gamma=0.5), "codec": {"name": "bf16"}},
        {"mixing": "pairs", "outer": outer("noloco"), "codec": {"name": "mod4"}},
        {"outer": outer("eager"), "schedule": {"interval_steps": 10, "overlap_steps": 10}},
        {"outer": outer("co2", gap="elementwise", clip=0.5)},
        {"codec": {"name": "topk", "feedback": 0.95}},
        {"codec": {"name": "int4", "rounding": "stochastic", "block": 64}},
    ],
    ids=[
        "diloco",
        "int8",
        "streaming",
        "fedavg",
        "noloco",
        "noloco bf16",
        "two lanes",
        "noloco mod4",
        "eager",
        "co2",
        "sparseloco",
        "int4 by chance",
    ],
)
def test_methods_that_make_sense_pass(method: dict[str, Any]) -> None:
    check_method(manifest_of(**method))


@pytest.mark.parametrize(
    ("method", "setting", "word"),
    [
        ({"schedule": {"interval_steps": 10, "overlap_steps": 11}}, "", "overlap_steps"),
        ({"schedule": {"interval_steps": 4, "fragments": 5}}, "", "interval_steps"),
        ({"schedule": {"fragments": 100}}, "schedule", "number of tensors"),
        ({"schedule": {"fragments": 3, "pattern": "strided"}}, "schedule", "number of blocks"),
        ({"schedule": {"separate_embeddings": True}}, "schedule", "embeddings"),
        ({"outer": outer("eager"), "schedule": {"merge_alpha": 0.5}}, "", "merge_alpha"),
        ({"codec": {"name": "zip"}}, "", "zip"),
        ({"codec": {"name": "FP32"}}, "", "fp32, bf16"),
        (
            {
                "codec": {"name": "int4", "feedback": 0.5, "rounding": "nearest"},
                "mixing": "pairs",
                "outer": outer("noloco"),
            },
            "",
            "feedback",
        ),
        ({"codec": {"name": "topk"}}, "", "codec.feedback"),
        ({"codec": {"name": "mod4"}}, "", "mod4"),
        ({"codec": {"name": "bf16", "rounding": "stochastic"}}, "", "bf16"),
        ({"outer": outer("adam")}, "", "nesterov, heavyball, noloco"),
        ({"outer": outer("co2", gap="wide")}, "", "gap"),
        ({"outer": outer("co2", gap=1.0)}, "", "gap"),
        ({"outer": outer("nesterov", lr="high")}, "", "lr"),
        ({"outer": outer("nesterov", gamma=0.5)}, "", "gamma"),
        ({"outer": outer("nesterov", lr=0.0)}, "", "lr"),
        ({"outer": outer("nesterov", momentum=1.0)}, "", "momentum"),
        ({"outer": outer("noloco")}, "", "with mixing all"),
        ({"mixing": "pairs"}, "", "use rule noloco"),
        ({"mixing": "pairs", "outer": outer("noloco", gamma=1.5)}, "", "gamma"),
        (
            {"mixing": "pairs", "outer": outer("noloco"), "codec": {"name": "int8"}},
            "",
            "bf16 or fp32",
        ),
    ],
    ids=[
        "overlap of more than an interval",
        "more fragments than steps",
        "more fragments than tensors",
        "more fragments than blocks",
        "embeddings and nothing else",
        "an ahead rule that blends",
        "no such codec",
        "codec in capitals",
        "feedback of parameters",
        "topk without feedback",
        "pseudo-gradients modulo",
        "a chance that bf16 has not",
        "no such rule",
        "no such gap",
        "a number for a name",
        "a name for a number",
        "another rule's constant",
        "lr of nothing",
        "momentum of one",
        "noloco with all",
        "nesterov with pairs",
        "a pull that drives apart",
        "parameters in int8",
    ],
)
def test_nonsense_is_refused_with_a_sentence_that_names_the_setting(
    method: dict[str, Any], setting: str, word: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        check_method(manifest_of(**method))
    sentence = str(refused.value)
    assert sentence.startswith(f"method.{setting}:" if setting else "method:")
    assert word in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("model", "fragments"),
    [
        ({}, 1),
        ({"tied_embeddings": False}, 3),
        ({"activation": "gelu", "layers": 3}, 5),
        ({"heads": 4, "dim": 24, "ffn_dim": 7}, 2),
    ],
    ids=["tied", "untied", "gelu", "odd sizes"],
)
def test_the_wire_derives_the_layout_that_the_trainer_has(
    model: dict[str, Any], fragments: int
) -> None:
    torch.set_num_threads(1)
    manifest = manifest_of(SMALL | model, schedule={"fragments": fragments})
    text = np.zeros(2000, dtype=np.uint8)
    corpus = Corpus(text, text, "zeros")
    replica = Replica(manifest, corpus, peer_id="somebody", device=torch.device("cpu"))
    assert layout_of_run(manifest) == replica.layout
    replica.load(initial_anchor(manifest))
    flat = torch.empty(replica.layout.num_elements)
    flatten_into(flat, replica.layout, replica.model)
    mixing = mixing_of(manifest, PeerId("ours"))
    assert torch.equal(torch.cat([part.anchor for part in mixing.outer]), flat)
    assert len(mixing.outer) == fragments


def test_the_layout_of_a_model_that_fits_no_machine_costs_nothing() -> None:
    model = {"dim": 65536, "layers": 3, "heads": 64, "ffn_dim": 262144, "context": 16}
    layout = layout_of_run(manifest_of(model))
    block = 4 * 65536**2 + 3 * 65536 * 262144 + 2 * 65536
    assert layout.num_elements == 3 * block + 256 * 65536 + 65536  # 826 GB in fp32
    assert [entry.name for entry in layout.entries][:2] == [
        "embedding.weight",
        "blocks.0.attention_norm.weight",
    ]
