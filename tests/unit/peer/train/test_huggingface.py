import math
import resource
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from optim.layout import load_from
from peer.train import census
from peer.train.alone import train_alone
from peer.train.batch_source import batches_of
from peer.train.data import Corpus
from peer.train.huggingface import checked_config
from peer.train.language_model import require_trainable
from peer.train.model import (
    check_model,
    initial_anchor,
    layout_of_run,
    model_of_run,
    shapes_of_run,
)
from peer.train.plain_config import plain_config
from peer.train.replica import Replica
from protocol.errors import ConfigError
from protocol.manifest import Manifest, manifest_from
from tests.unit.peer.train.hugging import GEMMA, GPT2, LLAMA, SIZES, settings_of

transformers = pytest.importorskip("transformers")

MODELS = pytest.mark.parametrize("config", [GPT2, LLAMA, GEMMA], ids=lambda c: c["model_type"])
TOKENS = torch.arange(64).view(2, 32) * 5 % 400


def run_of(config: dict[str, Any], **changes: Any) -> Manifest:
    return manifest_from(settings_of(config, **changes))


@MODELS
def test_logits_are_those_of_the_library_s_own_model_with_the_same_weights(
    config: dict[str, Any],
) -> None:
    run = run_of(config)
    ours = model_of_run(run)
    load_from(initial_anchor(run), layout_of_run(run), ours)
    theirs = transformers.AutoModelForCausalLM.from_config(
        checked_config(config), dtype=torch.float32
    )
    theirs.load_state_dict(dict(ours.named_parameters()), strict=False)
    with torch.no_grad():
        assert torch.equal(ours.eval()(TOKENS), theirs.eval()(TOKENS).logits)
    assert [name for name, _ in ours.named_parameters()] == [
        name for name, _ in theirs.named_parameters()
    ]


@MODELS
def test_theta_0_follows_from_configuration_and_seed_alone(config: dict[str, Any]) -> None:
    run = run_of(config)
    first = initial_anchor(run)
    torch.rand(3)  # the global generator has nothing to do with it
    assert torch.equal(initial_anchor(run), first)
    assert not torch.equal(initial_anchor(run_of(config, seed=1)), first)
    layout, matrices = layout_of_run(run), []
    for entry in layout.entries:
        part = first[entry.start : entry.stop]
        if len(entry.shape) < 2:
            assert part.unique().numel() == 1
        else:
            matrices.append(part)
    assert torch.cat(matrices).std().item() == pytest.approx(0.02, rel=0.05)
    check_model(run)


def test_building_leaves_the_global_generator_as_it_was() -> None:
    before = torch.random.get_rng_state()
    model_of_run(run_of(LLAMA))
    initial_anchor(run_of(LLAMA))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("is_tied", [False, True])
def test_tied_embeddings_are_in_the_layout_once(is_tied: bool) -> None:
    shapes = shapes_of_run(run_of(LLAMA | {"tie_word_embeddings": is_tied}))
    assert ("lm_head.weight" in shapes) != is_tied
    model = model_of_run(run_of(LLAMA | {"tie_word_embeddings": is_tied}))
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == is_tied  # type: ignore[union-attr]


@MODELS
def test_training_is_what_a_plain_loop_of_the_library_does(
    config: dict[str, Any], corpus: Corpus
) -> None:
    """Its own loss, which shifts labels itself, torch's AdamW, and the same batches."""
    inner = {"lr": 3e-3, "warmup_steps": 0, "total_steps": 9, "final_lr_frac": 1.0}
    run = run_of(config, inner=inner | {"weight_decay": 0.1, "clip_norm": 0.5})
    alone = train_alone(run, 8, corpus=corpus)

    theirs = transformers.AutoModelForCausalLM.from_config(
        checked_config(config), dtype=torch.float32
    )
    load_from(initial_anchor(run), layout_of_run(run), theirs)
    theirs.train()
    params = list(theirs.parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [param for param in params if param.dim() > 1], "weight_decay": 0.1},
            {"params": [param for param in params if param.dim() == 1], "weight_decay": 0.0},
        ],
        lr=3e-3,
        betas=(0.9, 0.95),
    )
    stream, losses = batches_of(corpus, run, "alone"), []
    for _ in range(8):
        tokens = stream.next()
        loss = theirs(input_ids=tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 0.5)
        optimizer.step()
        losses.append(loss.item())
    assert alone.losses == pytest.approx(losses, rel=1e-4)
    assert losses[0] == pytest.approx(math.log(400), abs=0.3)
    assert losses[-1] < losses[0] - 0.5
    for ours, param in zip(alone.replica.model.parameters(), params, strict=True):
        torch.testing.assert_close(ours, param, rtol=1e-2, atol=1e-3)


def test_resuming_equals_not_stopping(corpus: Corpus) -> None:
    run = run_of(GPT2)
    whole, second = (
        Replica(run, corpus, peer_id="a", device=torch.device("cpu")) for _ in range(2)
    )
    whole.load(initial_anchor(run))
    for _ in range(3):
        whole.train_step()
    second.restore({name: tensor.clone() for name, tensor in whole.state().items()})
    for _ in range(2):
        whole.train_step()
        second.train_step()
    ours, theirs = whole.state(), second.state()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# ---- what a stranger's manifest may not have


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "no_such"}, "no causal language model"),
        ({"model_type": "t5"}, "no causal language model"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers is 1000000, of at most 4096"),
        ({"hidden_size": 1 << 24, "intermediate_size": 1 << 24}, "parameters"),
        ({"hidden_size": 10**12}, "hidden_size is 1000000000000"),
        ({"hidden_size": 10**400}, "hidden_size is huge"),
        ({"rope_theta": 10**400}, "rope_theta is huge"),
        ({"num_labels": 1 << 24}, "num_labels is of classifiers"),
        ({"hidden_size": -32}, "model.config"),
        ({"hidden_size": 33}, "model.config"),
        ({"hidden_size": "32"}, "model.config"),
        ({"rms_norm_eps": math.inf}, "rms_norm_eps is not finite"),
        ({"auto_map": {"AutoModelForCausalLM": "a.B"}}, "code of its own"),
        ({"trust_remote_code": True}, "code of its own"),
        ({"rope_scaling": {"auto_map": "a.B"}}, "code of its own"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantized"),
        ({"attn_implementation": "flash"}, "kernels"),
        ({"_attn_implementation": "flash"}, "leave it out"),
        ({"name": "somebody/kernels"}, "no plain word"),
        ({"vision_config": {"model_type": "detr", "backbone": "gpt2"}}, "names a model elsewhere"),
        ({"name": {"a": {"b": {"c": {"d": {"e": {"f": 1}}}}}}}, "not that large"),
        ({"name": list(range(5000))}, "not that large"),
        ({"vocab_size": 200}, "vocab_size is 200, and the tokenizer has 256"),
        ({"max_position_embeddings": 16}, "model has 16 positions"),
    ],
    ids=repr,
)
def test_what_cannot_be_or_must_not_be_is_one_line(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        layout_of_run(run_of_any(LLAMA | change))
    assert "\n" not in str(refused.value)


def run_of_any(config: dict[str, Any]) -> Manifest:
    run = run_of(LLAMA)
    return run.model_copy(update={"model": run.model.model_copy(update={"config": config})})


def test_too_many_tensors_end_the_building(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "MAX_TENSORS", 7)
    with pytest.raises(ConfigError, match="more than 7 tensors"):
        layout_of_run(run_of(LLAMA, seed=99, model=model_of(LLAMA | {"hidden_size": 48})))


def test_too_large_tables_end_the_building(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "MAX_BUFFER_ELEMENTS", 3)
    with pytest.raises(ConfigError, match="tables have more than 3"):
        layout_of_run(run_of(LLAMA, model=model_of(LLAMA | {"hidden_size": 64})))


def test_a_description_that_grows_in_python_s_own_lists_ends_the_building(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_AS)
    monkeypatch.setattr(census, "MAX_GROWTH_BYTES", 64 << 20)
    layers = {"attention_types": [[["global"], 1 << 24]], "num_layers": 1, "num_heads": 2}
    with pytest.raises(ConfigError, match="description alone takes over"):
        layout_of_run(run_of({"model_type": "gpt_neo", "hidden_size": 32} | layers))
    assert resource.getrlimit(resource.RLIMIT_AS) == limits


def test_what_does_not_fit_into_memory_is_refused_before_it_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: 200)
    for make in (model_of_run, initial_anchor):
        with pytest.raises(ConfigError, match=r"this machine has 0\.0 GB of memory"):
            make(run_of(LLAMA))


def model_of(config: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "huggingface", "config": config, "context": 32}


def test_statistics_of_batches_and_frozen_parameters_are_refused() -> None:
    with pytest.raises(ConfigError, match="batch norm"):
        require_trainable(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)))
    with pytest.raises(ConfigError, match="weight is no parameter that training changes"):
        require_trainable(torch.nn.Linear(2, 2).requires_grad_(False))
    require_trainable(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"model_type": "mamba"}, "mixer.A_log"),
        ({"model_type": "jamba", "num_key_value_heads": 2}, "mamba.A_log"),
        ({"model_type": "gpt_oss", "head_dim": 16, "num_key_value_heads": 2}, "sinks"),
    ],
    ids=lambda value: value if isinstance(value, str) else value["model_type"],
)
def test_a_model_with_values_of_its_own_has_to_come_as_a_file(
    config: dict[str, Any], name: str
) -> None:
    """Be they in a matrix, as the first two have, or in a vector."""
    small = SIZES | {"intermediate_size": 64, "num_hidden_layers": 1, "num_local_experts": 2}
    with pytest.raises(ConfigError, match=rf"{name}; begin from .* model\.pretrained = PATH"):
        initial_anchor(run_of(small | config))


def test_a_model_that_sees_what_it_should_predict_is_refused() -> None:
    bert = {"model_type": "bert", "intermediate_size": 64, "max_position_embeddings": 64, **SIZES}
    with pytest.raises(ConfigError, match="is_decoder = true"):
        check_model(run_of(bert))
    check_model(run_of(bert | {"is_decoder": True}))


def test_without_the_package_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'thinwire\[hf\]'"):
        checked_config(LLAMA)


def test_of_an_unknown_architecture_the_installed_version_is_told() -> None:
    with pytest.raises(ConfigError, match=f"transformers {transformers.__version__} knows; if it"):
        checked_config({"model_type": "llama9"})


def test_a_config_json_is_reduced_to_what_describes_the_model(tmp_path: Path) -> None:
    config = checked_config(GEMMA)
    config.save_pretrained(tmp_path)
    plain = plain_config(config.to_dict())
    assert checked_config(plain).to_dict() == config.to_dict()
    assert not {"transformers_version", "dtype", "_name_or_path"} & set(plain)
