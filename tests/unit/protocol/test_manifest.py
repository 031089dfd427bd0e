import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import BadSignature, ConfigError, MalformedMessage, RunMismatch
from protocol.identity import Identity
from protocol.manifest import (
    INITIAL,
    MAX_MANIFEST_BYTES,
    Manifest,
    manifest_diff,
    manifest_from,
    parse_manifest,
    sign_manifest,
    verify_manifest,
)

FOUNDER = Identity(b"f" * 32)
OTHER = Identity(b"o" * 32)
SETTINGS: dict[str, Any] = {"founder": FOUNDER.peer_id}
MANIFEST = manifest_from(SETTINGS)

# One other valid value for every setting that exists.
CHANGES: dict[str, Any] = {
    "name": "another",
    "founder": OTHER.peer_id,
    "seed": 1,
    "model.dim": 64,
    "model.layers": 5,
    "model.heads": 8,
    "model.ffn_dim": 353,
    "model.activation": "gelu",
    "model.context": 64,
    "model.tied_embeddings": False,
    "data.recipe": "text:*.txt",
    "data.validation_frac": 0.1,
    "data.validation_bytes": 1,
    "data.validation_digest": "0" * 64,
    "inner.optimizer": "muon",
    "inner.lr": 0.001,
    "inner.beta1": 0.8,
    "inner.beta2": 0.99,
    "inner.momentum": 0.9,
    "inner.weight_decay": 0.0,
    "inner.warmup_steps": 51,
    "inner.total_steps": 2001,
    "inner.final_lr_frac": 0.2,
    "inner.clip_norm": 2.0,
    "inner.batch_sequences": 9,
    "method.preset": "diloco",
    "method.mixing": "pairs",
    "method.group_size": 8,
    "method.schedule.interval_steps": 101,
    "method.schedule.fragments": 2,
    "method.schedule.overlap_steps": 1,
    "method.schedule.pattern": "strided",
    "method.schedule.separate_embeddings": True,
    "method.schedule.merge_alpha": 0.5,
    "method.codec.name": "int8",
    "method.codec.block": 64,
    "method.codec.rounding": "stochastic",
    "method.codec.kept": 64,
    "method.codec.feedback": 0.95,
    "method.codec.cheaper": ["int8", "int4"],
    "method.outer.rule": "noloco",
    "method.outer.constants": {"gap": "norm"},
    "round.quorum_frac": 0.6,
    "round.grace_s": 4.0,
    "round.exchange_s": 61.0,
    "round.progress_s": 4.0,
    "limits.max_peers": 129,
    "limits.chunk_bytes": 1024,
    "limits.max_message_bytes": 1024,
    "limits.max_streams_per_peer": 9,
    "membership.policy": "invite",
    "membership.invite_digest": "f" * 64,
    "domains": [{"name": "law"}],
}
ONLY_VALUE = {"version", "model.kind"}
OF_FILES = {"files", "data.tokenizer", "data.vocab_size"}
OF_DOMAINS = {"experts.division", "experts.spread", "experts.budget_flops", "experts.copy_every_s"}


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def with_setting(key: str, value: object) -> dict[str, Any]:
    settings = json.loads(json.dumps(SETTINGS))
    *path, last = key.split(".")
    at = settings
    for part in path:
        at = at.setdefault(part, {})
    at[last] = value
    return settings


def reordered(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: reordered(tree[key]) for key in reversed(list(tree))}
    return tree


def test_the_table_of_changes_has_every_setting() -> None:
    assert set(CHANGES) | ONLY_VALUE | OF_DOMAINS | OF_FILES == set(leaves(MANIFEST.model_dump()))


@pytest.mark.parametrize("key", CHANGES)
def test_each_setting_changes_the_run_id_and_is_named_in_the_diff(key: str) -> None:
    changed = manifest_from(with_setting(key, CHANGES[key]))
    assert changed.run_id != MANIFEST.run_id
    (line,) = manifest_diff(MANIFEST, changed)
    assert line.startswith(key)
    assert parse_manifest(changed.to_bytes()) == changed


def test_all_changed_manifests_have_different_run_ids() -> None:
    ids = {manifest_from(with_setting(key, value)).run_id for key, value in CHANGES.items()}
    assert len(ids) == len(CHANGES)


def test_equal_manifests_have_no_diff() -> None:
    assert manifest_diff(MANIFEST, parse_manifest(MANIFEST.to_bytes())) == []


def test_the_order_of_keys_does_not_matter() -> None:
    tree = manifest_from(with_setting("method.outer.constants", {"a": 1.0, "b": 2.0})).model_dump()
    bytes_of = {Manifest.model_validate(t).to_bytes() for t in (tree, reordered(tree))}
    assert len(bytes_of) == 1


def test_the_run_id_is_the_hash_of_the_canonical_bytes() -> None:
    # Pinned: if this changes, every ticket that was ever printed leads nowhere.
    assert MANIFEST.run_id == ("3b6fb99b78bc63ef525f41e56a13ea652ed8f356fb079941d6b01ad57c88865d")


@given(
    lr=st.floats(1e-12, 1e12),
    seed=st.integers(0, (1 << 63) - 1),
    constants=st.dictionaries(
        st.text(max_size=8),
        st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
        max_size=4,
    ),
)
def test_round_trip(lr: float, seed: int, constants: dict[str, float | str]) -> None:
    settings = SETTINGS | {
        "seed": seed,
        "inner": {"lr": lr},
        "method": {"outer": {"constants": constants}},
    }
    try:
        manifest = manifest_from(settings)
    except ConfigError:
        texts = [text for item in constants.items() for text in item if isinstance(text, str)]
        assert any(not text.isprintable() for text in texts)  # lone surrogates are no text
        return
    again = parse_manifest(manifest.to_bytes())
    assert again == manifest
    assert again.run_id == manifest.run_id


@pytest.mark.parametrize(
    "key", ["sed", "model.dimension", "method.outer.momentum", "round.grace", "limits.x.y"]
)
def test_an_unknown_setting_is_refused_by_its_name(key: str) -> None:
    with pytest.raises(ConfigError, match="there is no such setting") as caught:
        manifest_from(with_setting(key, 1))
    assert key.removesuffix(".y") in str(caught.value)


def test_what_a_stranger_writes_comes_out_as_one_short_line() -> None:
    key = "line\n\x1b[2J" + 60_000 * "k"
    with pytest.raises(MalformedMessage) as caught:
        parse_manifest(json.dumps(SETTINGS | {key: 1}).encode())
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("inner.lr", float("nan")),
        ("inner.lr", float("inf")),
        ("inner.weight_decay", float("inf")),
        ("round.grace_s", float("inf")),
        ("method.outer.constants", {"lr": float("nan")}),
        ("method.outer.constants", {"lr": float("-inf")}),
        ("method.outer.constants", {"lr": True}),
        ("method.outer.constants", {"lr": [0.7]}),
        ("method.outer.constants", {"gap": None}),
        ("method.schedule.pattern", "spiral"),
        ("method.schedule.separate_embeddings", 1),
        ("method.schedule.merge_alpha", 1.1),
        ("method.codec.block", 7),
        ("method.codec.rounding", "up"),
        ("method.codec.kept", 0),
        ("method.codec.feedback", 0.0),
        ("method.codec.feedback", 1.1),
        ("method.codec.cheaper", "int4"),
        ("method.codec.cheaper", [""]),
        ("method.codec.cheaper", ["int8"] * 5),
        ("inner.optimizer", "adam"),
        ("inner.momentum", 1.0),
        ("inner.lr", 0.0),
        ("inner.lr", "0.1"),
        ("seed", True),
        ("seed", -1),
        ("seed", 1 << 63),
        ("model.dim", 128.0),
        ("model.heads", 3),
        ("model.tied_embeddings", 1),
        ("round.quorum_frac", 0.4),
        ("round.quorum_frac", 1.1),
        ("limits.max_peers", 1),
        ("method.mixing", "everyone"),
        ("data.validation_digest", "F" * 64),
        ("data.validation_digest", "0" * 63),
        ("name", "run\n"),
        ("name", ""),
        ("version", 2),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_value_that_cannot_work_is_refused_by_its_key(key: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        manifest_from(with_setting(key, value))
    assert all(part in str(caught.value) for part in key.split("."))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_json_that_spells_no_number_is_refused(literal: str) -> None:
    constants = b'"constants":{"lr":%s}' % literal.encode()
    with pytest.raises(MalformedMessage):
        parse_manifest(MANIFEST.to_bytes().replace(b'"constants":{}', constants))


@pytest.mark.parametrize(
    "data",
    [
        json.dumps(MANIFEST.model_dump(), sort_keys=True).encode(),
        json.dumps(reordered(MANIFEST.model_dump()), separators=(",", ":")).encode(),
        MANIFEST.to_bytes() + b"\n",
        MANIFEST.to_bytes().replace(b'"seed":0', b'"seed":0,"seed":0'),
        MANIFEST.to_bytes().replace(b'"lr":0.003', b'"lr":3e-3'),
        MANIFEST.to_bytes().replace(b'"grace_s":3.0', b'"grace_s":3'),
        MANIFEST.to_bytes().replace(b'"run"', b'"\\u0072un"'),
        json.dumps(SETTINGS, separators=(",", ":")).encode(),
        MANIFEST.to_bytes().decode().encode("utf-16"),
        b"\xef\xbb\xbf" + MANIFEST.to_bytes(),
    ],
    ids=[
        *("spaces", "order", "newline", "doubled key", "another float", "an int for a float"),
        *("another escape", "defaults left out", "UTF-16", "byte order mark"),
    ],
)
def test_bytes_that_are_not_canonical_are_refused(data: bytes) -> None:
    assert data != MANIFEST.to_bytes()
    with pytest.raises(MalformedMessage):
        parse_manifest(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe\xfd",
        b'{"founder":"\\ud800"}',
        b'{"seed":' + 50_000 * b"1" + b"}",
        MAX_MANIFEST_BYTES * b" " + MANIFEST.to_bytes(),
        10_000_000 * b"[",
    ],
    ids=[
        *("empty", "null", "list", "object", "no UTF-8", "half a character", "huge number"),
        *("too long", "far too long"),
    ],
)
def test_other_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse_manifest(data)


@pytest.mark.parametrize("depth", [10, 900, 980, 985, 990, 1000, 2000, 32_000])
@pytest.mark.parametrize(
    "around",
    ['"founder":%s', '"method":{"outer":{"constants":{"lr":%s}}}', '"unknown":%s'],
    ids=["a string", "a number", "an unknown key"],
)
def test_a_nesting_bomb_is_malformed(around: str, depth: int) -> None:
    bomb = "[" * depth + "]" * depth
    with pytest.raises(MalformedMessage):
        parse_manifest(("{" + around % bomb + "}").encode())


@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse_manifest(data)


def test_a_signed_manifest_is_believed() -> None:
    data, signature = MANIFEST.to_bytes(), sign_manifest(MANIFEST, FOUNDER)
    found = verify_manifest(data, signature, run_id=MANIFEST.run_id, founder=FOUNDER.peer_id)
    assert found == MANIFEST


def test_an_altered_manifest_is_another_runs() -> None:
    signature = sign_manifest(MANIFEST, FOUNDER)
    for at in range(len(MANIFEST.to_bytes())):
        data = bytearray(MANIFEST.to_bytes())
        data[at] ^= 1
        with pytest.raises(RunMismatch):
            verify_manifest(bytes(data), signature, run_id=MANIFEST.run_id, founder=FOUNDER.peer_id)


def test_another_run_and_another_founder_are_refused() -> None:
    data, signature = MANIFEST.to_bytes(), sign_manifest(MANIFEST, FOUNDER)
    other = manifest_from(SETTINGS | {"seed": 1})
    with pytest.raises(RunMismatch):
        verify_manifest(data, signature, run_id=other.run_id, founder=FOUNDER.peer_id)
    with pytest.raises(BadSignature):
        verify_manifest(data, signature, run_id=MANIFEST.run_id, founder=OTHER.peer_id)
    with pytest.raises(BadSignature):
        verify_manifest(data, OTHER.sign(data), run_id=MANIFEST.run_id, founder=FOUNDER.peer_id)


def test_whoever_signs_anothers_manifest_is_not_its_founder() -> None:
    signature = sign_manifest(MANIFEST, OTHER)
    with pytest.raises(RunMismatch, match="founder"):
        verify_manifest(
            MANIFEST.to_bytes(), signature, run_id=MANIFEST.run_id, founder=OTHER.peer_id
        )


def test_a_bare_signature_of_the_bytes_is_not_enough() -> None:
    data = MANIFEST.to_bytes()
    with pytest.raises(BadSignature):
        verify_manifest(data, FOUNDER.sign(data), run_id=MANIFEST.run_id, founder=FOUNDER.peer_id)


FILE = {"name": "words.json", "size_bytes": 9, "digest": "0" * 64}


def test_a_tokenizer_is_one_of_the_runs_files() -> None:
    data = {"tokenizer": "file:words.json", "vocab_size": 300}
    run = manifest_from({**SETTINGS, "data": data, "files": [FILE]})
    assert parse_manifest(run.to_bytes()) == run
    found = run.file_named("words.json")
    assert found is not None
    assert found.size_bytes == 9
    for wrong in (
        {"data": data},
        {"data": data | {"vocab_size": 0}, "files": [FILE]},
        {"data": {"vocab_size": 300}},
        {"files": [FILE, FILE]},
        {"files": [FILE | {"name": "../words.json"}]},
        {"files": [FILE], "domains": [{"name": "law"}]},
    ):
        with pytest.raises(ConfigError):
            manifest_from({**SETTINGS, **wrong})


def test_a_model_of_another_kind_is_named_and_carries_no_code() -> None:
    gpt = {"kind": "huggingface", "config": {"model_type": "gpt2", "n_embd": 8}}
    run = manifest_from({**SETTINGS, "model": gpt})
    assert parse_manifest(run.to_bytes()) == run
    with pytest.raises(ConfigError, match="not for a model of kind 'huggingface'"):
        _ = run.transformer
    with pytest.raises(ConfigError, match="never run"):
        manifest_from({**SETTINGS, "model": {**gpt, "config": {"model_type": "x", "auto_map": {}}}})
    with pytest.raises(ConfigError, match="kind: it is one of transformer, huggingface, own"):
        manifest_from({**SETTINGS, "model": {"kind": "llama"}})


def test_a_model_of_an_own_loop_comes_with_its_parameters() -> None:
    own = {"kind": "own", "tensors": [{"name": "weight", "shape": [2, 3]}]}
    run = manifest_from({**SETTINGS, "model": own, "files": [FILE | {"name": INITIAL}]})
    assert parse_manifest(run.to_bytes()) == run
    with pytest.raises(ConfigError, match=INITIAL):
        manifest_from({**SETTINGS, "model": own})
    with pytest.raises(ConfigError, match="that its owner's loop trains"):
        _ = run.context
