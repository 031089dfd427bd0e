import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from peer.experts.ensemble import Ensemble
from peer.experts.evaluation import Evaluation, evaluate
from peer.experts.expert import Expert
from peer.experts.held_out import PRIOR_FRAC, HeldOut, cut, held_out_texts
from peer.experts.jury import Jury
from peer.experts.mean import mean_of
from peer.train.batches import validation_batches
from peer.train.data import Text, load_text
from peer.train.evaluate import bits_per_byte
from protocol.errors import ConfigError
from tests.unit.peer.experts.tiny import (
    LARGE,
    SMALL,
    a_data_spec,
    a_folder,
    an_expert,
    write_text,
)

BYTES = 320


def a_text(name: str, *, seed: int = 0, is_unseen: bool = False, length: int = 2000) -> HeldOut:
    text = np.random.default_rng(seed).integers(0, 256, length).astype(np.uint8)
    return HeldOut(name, f"text:{name}", *cut(text), is_unseen=is_unseen)


def rows_of(evaluation: Evaluation) -> dict[tuple[str, str], dict[str, float]]:
    return {(row.kind, row.name): dict(row.bits_per_byte) for row in evaluation.rows}


def score(ensemble: Ensemble, text: Text, context: int) -> float:
    """Returns the bits per byte by the ensemble's own account of each window."""
    windows = list(validation_batches(text, context=context, max_tokens=BYTES, batch=16))
    nats = -torch.cat([ensemble.score(tokens) for tokens in windows]).mean().item()
    return nats / math.log(2)


@pytest.mark.parametrize(
    "options", [{}, {"top_k": 1}, {"is_sparse": True}, {"top_k": 2, "is_sparse": True}], ids=str
)
def test_the_matrix_is_what_each_model_alone_and_the_ensemble_find(options: dict[str, Any]) -> None:
    experts = [an_expert("law"), an_expert("code", LARGE), an_expert("verse", LARGE)]
    texts = [a_text("law"), a_text("code", seed=1), a_text("poems", seed=2, is_unseen=True)]
    found = evaluate(experts, texts, max_bytes=BYTES, **options)
    rows = rows_of(found)
    assert list(rows) == [
        ("expert", "law"), ("expert", "code"), ("expert", "verse"),
        ("ensemble", "uniform"), ("ensemble", "estimated"),
    ]  # fmt: skip
    for text, column in zip(texts, found.columns, strict=True):
        for expert in experts:
            alone = bits_per_byte(expert.model(), text.for_test, context=16, max_bytes=BYTES)
            assert rows["expert", expert.name][text.name] == pytest.approx(alone, abs=1e-5)
        assert column.prior is not None
        weights = [column.prior[expert.name] for expert in experts]
        assert sum(weights) == pytest.approx(1)
        for name, prior in (("uniform", None), ("estimated", weights)):
            ensemble = Ensemble.of(experts, prior=prior, **options)
            expected = score(ensemble, text.for_test, 16)
            assert rows["ensemble", name][text.name] == pytest.approx(expected, abs=1e-5)
    assert [column.is_unseen for column in found.columns] == [False, False, True]
    assert [column.tested_bytes for column in found.columns] == [BYTES] * 3
    assert [column.prior_bytes for column in found.columns] == [BYTES // 4] * 3
    assert (found.asked_frac is None) == ("is_sparse" not in options)


def test_experts_of_one_shape_are_averaged_whatever_their_contexts() -> None:
    experts = [an_expert("law"), an_expert("code", SMALL | {"context": 32})]
    text = a_text("law")
    found = rows_of(evaluate(experts, [text], max_bytes=BYTES))
    expected = bits_per_byte(mean_of(experts).model(), text.for_test, context=16, max_bytes=BYTES)
    assert found["average", "average"]["law"] == pytest.approx(expected, abs=1e-5)
    mixed = rows_of(evaluate([*experts, an_expert("verse", LARGE)], [text], max_bytes=BYTES))
    assert ("average", "average") not in mixed


def test_one_expert_is_no_ensemble() -> None:
    found = evaluate([an_expert("law")], [a_text("law")], max_bytes=BYTES)
    assert [row.kind for row in found.rows] == ["expert"]
    assert found.prior is None


def test_the_smallest_context_is_everybodys() -> None:
    experts = [an_expert("law", SMALL | {"context": 64}), an_expert("code", LARGE)]
    text = a_text("law")
    found = evaluate(experts, [text], max_bytes=BYTES)
    assert found.context == 16
    expected = bits_per_byte(experts[0].model(), text.for_test, context=16, max_bytes=BYTES)
    assert found.rows[0].bits_per_byte["law"] == pytest.approx(expected, abs=1e-5)


def sure_of(byte: int) -> Expert:
    """Returns an expert that expects one byte, whatever it read."""
    expert = an_expert(f"of-{byte}")
    theta = {key: torch.zeros_like(value) for key, value in expert.theta.items()}
    theta["embedding.weight"][:, 0] = 1.0  # so that the norm has something to scale
    theta["embedding.weight"][byte, 0] = 3.0
    theta["norm.weight"] = torch.ones(16)
    return Expert(name=expert.name, spec=expert.spec, theta=theta)


def test_a_prior_is_estimated_on_each_text_and_one_for_all_own_domains() -> None:
    experts = [sure_of(1), sure_of(2)]
    texts = [
        HeldOut("of-1", "", *cut(np.full(2000, 1, np.uint8)), is_unseen=False),
        HeldOut("of-2", "", *cut(np.full(2000, 2, np.uint8)), is_unseen=False),
        HeldOut("more", "", *cut(np.full(2000, 2, np.uint8)), is_unseen=True),
    ]
    # There is none for all domains where one of them has no vote.
    assert evaluate(experts, texts[1:], max_bytes=BYTES).prior is None
    found = evaluate(experts, texts, max_bytes=BYTES)
    priors = [column.prior or {} for column in found.columns]
    assert [prior["of-1"] > 0.99 for prior in priors] == [True, False, False]
    assert [prior["of-2"] > 0.99 for prior in priors] == [False, True, True]
    # The unseen text has no vote in it.
    assert found.prior == pytest.approx({"of-1": 0.5, "of-2": 0.5}, abs=0.01)
    rows = rows_of(found)
    for text in texts:
        estimated = rows["ensemble", "estimated"][text.name]
        assert estimated < rows["ensemble", "uniform"][text.name]


# ---- what is tested, and what a prior is estimated on


@given(arrays(np.uint8, st.integers(0, 300)))
def test_the_two_parts_are_the_text_and_share_no_byte(text: Text) -> None:
    for_prior, for_test = cut(text)
    assert np.array_equal(np.concatenate((for_prior, for_test)), text)
    assert not np.shares_memory(for_prior, for_test)
    assert len(for_prior) == int(len(text) * PRIOR_FRAC)


@pytest.mark.parametrize("length", [100, 1000, 5000])
def test_no_byte_that_a_prior_was_estimated_on_is_tested(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Bytes tell where they are from: the first quarter is below 100, the rest from 100 on.
    text = np.full(length, 200, np.uint8)
    text[: int(length * PRIOR_FRAC)] = 50
    read: dict[str, set[int]] = {}
    for what in ("sequence_log_probs", "bits_per_byte"):
        judge = getattr(Jury, what)

        def spy(self: Jury, windows: Any, *more: Any, judge: Any = judge, what: str = what) -> Any:
            kept = list(windows)
            read[what] = {byte for tokens in kept for byte in tokens.unique().tolist()}
            return judge(self, kept, *more)

        monkeypatch.setattr(Jury, what, spy)
    texts = [HeldOut("law", "", *cut(text), is_unseen=False)]
    evaluate([an_expert("law"), an_expert("code")], texts, max_bytes=10**6)
    assert read == {"sequence_log_probs": {50}, "bits_per_byte": {200}}


def test_figures_do_not_depend_on_whether_a_prior_is_estimated() -> None:
    experts, texts = [an_expert("law"), an_expert("code")], [a_text("law")]
    both = rows_of(evaluate(experts, texts, max_bytes=BYTES))
    found = evaluate(experts, texts, priors=["uniform"], max_bytes=BYTES)
    assert found.columns[0].prior_bytes == 0
    assert rows_of(found) == {who: bits for who, bits in both.items() if "estimated" not in who}


def test_progress_ends_when_all_is_read() -> None:
    seen: list[tuple[int, int, str]] = []
    evaluate(
        [an_expert("law"), an_expert("code")],
        [a_text("law"), a_text("code")],
        max_bytes=BYTES,
        on_progress=lambda done, total, text: seen.append((done, total, text)),
    )
    assert [done for done, _, _ in seen] == sorted({done for done, _, _ in seen})
    assert {total for _, total, _ in seen} == {seen[-1][0]}
    assert [text for _, _, text in seen] == sorted((t for _, _, t in seen), reverse=True)


def test_a_text_without_two_windows_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        evaluate([an_expert("law"), an_expert("code")], [a_text("law", length=40)])
    assert str(caught.value) == (
        "the held-out text of law: the text has 10 tokens, fewer than one window of "
        "model.context + 1 = 17"
    )


def test_more_of_the_top_than_there_are_experts() -> None:
    with pytest.raises(ConfigError, match=r"top-k must be from 1 to 2 \(all\), not 3"):
        evaluate([an_expert("law"), an_expert("code")], [a_text("law")], top_k=3)


# ---- which texts


def test_the_texts_are_the_domains_held_out_and_what_is_given(tmp_path: Path) -> None:
    specs = {name: a_data_spec(tmp_path, name) for name in ("law", "code")}
    models = a_folder(an_expert("code"), texts=specs, absent=("law",))
    verse = write_text(tmp_path, "verse")
    texts, notices = held_out_texts(models, None, {"poems": verse})
    assert [(text.name, text.is_unseen) for text in texts] == [
        ("code", False), ("law", True), ("poems", True)
    ]  # fmt: skip
    assert notices == []
    for text in texts[:2]:
        held_out = load_text(specs[text.name].recipe, 0.2).validation
        assert np.array_equal(np.concatenate((text.for_prior, text.for_test)), held_out)
    only, _ = held_out_texts(models, ["law"], {})
    assert [text.name for text in only] == ["law"]


def test_other_validation_text_than_the_runs_is_noted(tmp_path: Path) -> None:
    spec = a_data_spec(tmp_path, "law").model_copy(update={"validation_digest": "0" * 64})
    _, notices = held_out_texts(a_folder(an_expert("law"), texts={"law": spec}), None, {})
    (notice,) = notices
    assert notice.startswith("law: the validation text here is not the run's")


def test_texts_that_cannot_be(tmp_path: Path) -> None:
    specs = {name: a_data_spec(tmp_path, name) for name in ("law", "code")}
    models = a_folder(an_expert("law"), an_expert("code"), texts=specs)
    nowhere = f"text:{tmp_path}/none/*"
    gone = a_folder(
        an_expert("law"), texts={"law": specs["law"].model_copy(update={"recipe": nowhere})}
    )
    for folder, domains, unseen, said in (
        (models, ["law", "maths"], {}, "--domains: there is no domain 'maths'; there are law, co"),
        (models, None, {"law": "stdlib"}, "--text law=stdlib: law is a domain; choose another na"),
        (a_folder(an_expert("law")), None, {}, "nobody knows what the experts in peer-1 were tra"),
        (gone, None, {}, f"the text of law: data.recipe {nowhere!r} matches no file on this mach"),
        (models, None, {"x": "zip:y"}, "the text of x: data.recipe 'zip:y' is unknown"),
    ):
        with pytest.raises(ConfigError) as caught:
            held_out_texts(folder, domains, unseen)
        assert str(caught.value).startswith(said)
        assert "\n" not in str(caught.value)


def test_texts_that_overlap_are_refused(tmp_path: Path) -> None:
    specs = {"law": a_data_spec(tmp_path, "law")}
    paragraphs = "\n\n".join(f"{n} " + "the court finds for the party " * 5 for n in range(400))
    (tmp_path / "law.txt").write_text(paragraphs)
    (tmp_path / "copy.txt").write_text(f"{paragraphs} amen")
    models = a_folder(an_expert("law"), texts=specs)
    with pytest.raises(ConfigError, match="domains law and copy overlap"):
        held_out_texts(models, None, {"copy": f"text:{tmp_path}/copy.txt"})


def test_no_text_that_an_expert_was_trained_on_passes_as_unseen(tmp_path: Path) -> None:
    paragraphs = "\n\n".join(f"{n} " + "the court finds for the party " * 5 for n in range(400))
    specs = {name: a_data_spec(tmp_path, name) for name in ("law", "code")}
    (tmp_path / "law.txt").write_text(paragraphs)
    (tmp_path / "copy.txt").write_text(f"{paragraphs} amen")
    models = a_folder(an_expert("law"), an_expert("code"), texts=specs)
    copy = f"text:{tmp_path}/copy.txt"
    with pytest.raises(ConfigError, match="domains copy and law overlap"):
        held_out_texts(models, ["code"], {"copy": copy})
    held_out_texts(models, ["code"], {})  # the other domain's text is not read for nothing
    with pytest.raises(ConfigError, match="that is the text of domain law; give one that no exp"):
        held_out_texts(models, ["code"], {"mine": specs["law"].recipe})
    (tmp_path / "law.txt").unlink()
    texts, (notice,) = held_out_texts(models, ["code"], {"copy": copy})
    assert [text.name for text in texts] == ["code", "copy"]
    assert notice.startswith("the text of law: data.recipe ")
    assert notice.endswith(", so nobody knows whether it shares text with --text")
