"""How good experts are on held-out text: alone, together, and averaged; in bits for each byte.

All experts read the same windows at once, so the mixture weighs them as it would in use. A window
is a sequence: evidence begins anew with each. Its length is the smallest context of all experts, so
that none reads further than it was trained to; one with a longer context may do better than here.

**Paper:** Gensyn 2025, HDEE, arXiv:2502.19385, whose estimated prior is each domain's own, too.
**Deviations:** the prior is estimated on a part of the held-out text that no figure is of
(test_no_byte_that_a_prior_was_estimated_on_is_tested).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optim.posterior import estimated_prior
from peer.experts.expert import Expert
from peer.experts.held_out import PRIOR_FRAC, HeldOut
from peer.experts.jury import Jury, Kind, Prior
from peer.train.batches import validation_batches
from peer.train.config import EVALUATION_BYTES
from peer.train.data import Text
from protocol.errors import ConfigError

_BATCH = 16


@dataclass(frozen=True, slots=True)
class Row:
    """Who was judged, and how well it did.

    Attributes:
        name: An expert's; of an ensemble, its prior.
        bits_per_byte: By text.
    """

    name: str
    kind: Kind
    bits_per_byte: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Column:
    """One text, and how much of it was read.

    Attributes:
        name: Of its domain.
        recipe: Where the text is from.
        is_unseen: Whether no expert here is of this domain.
        tested_bytes: Of which the figures are.
        prior_bytes: On which the prior was estimated; 0 if none was.
        prior: By expert, estimated on them; None if none was.
    """

    name: str
    recipe: str
    is_unseen: bool
    tested_bytes: int
    prior_bytes: int
    prior: Mapping[str, float] | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """The matrix of experts and texts.

    Attributes:
        context: Bytes predicted in a window.
        experts: Who was judged.
        columns: The texts, of experts' own domains first.
        rows: Experts in their order, then ensembles, then the average if there can be one.
        prior: By expert, for text of any of their domains; None if none was estimated, or one of
            their domains is not among the columns.
        top_k: How many experts had a weight at a time in an ensemble; None is all.
        asked_frac: In a sparse ensemble, how much experts were asked, of all; None: not sparse.
    """

    context: int
    experts: Sequence[Expert]
    columns: Sequence[Column]
    rows: Sequence[Row]
    prior: Mapping[str, float] | None
    top_k: int | None
    asked_frac: float | None

    def of_kind(self, kind: Kind) -> list[Row]:
        """Returns the rows of one kind."""
        return [row for row in self.rows if row.kind == kind]

    def of_texts(self, *, are_unseen: bool) -> list[Column]:
        """Returns the texts of experts' own domains, or the unseen ones."""
        return [column for column in self.columns if column.is_unseen == are_unseen]


def evaluate(
    experts: Sequence[Expert],
    texts: Sequence[HeldOut],
    *,
    priors: Sequence[Prior] = ("uniform", "estimated"),
    top_k: int | None = None,
    is_sparse: bool = False,
    max_bytes: int = EVALUATION_BYTES,
    on_progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> Evaluation:
    """Returns how good the experts and what can be made of them are on each text.

    Args:
        experts: With one tokenizer.
        texts: With different names.
        priors: Of the ensembles to judge, a row each; a single expert makes none.
        top_k: Only so many experts have a weight; None is all.
        is_sparse: Ensembles ask only experts that are likely.
        max_bytes: Tested of each text.
        on_progress: Called with bytes read, bytes to read, and the text's name, after each batch.

    Raises:
        ConfigError: a text is too short.
    """
    context = min(expert.spec.context for expert in experts)
    priors = priors if len(experts) > 1 else ()
    fit_bytes = int(max_bytes * PRIOR_FRAC) if "estimated" in priors else 0
    readings = [
        _Reading(text, context, fit_bytes=fit_bytes, test_bytes=max_bytes) for text in texts
    ]
    total, done = sum(reading.num_bytes for reading in readings), 0

    def read(windows: Sequence[Tensor], text: str) -> Iterator[Tensor]:
        nonlocal done
        for tokens in windows:
            yield tokens
            done += _num_bytes([tokens])
            on_progress(done, total, text)

    jury = Jury(experts, top_k=top_k, is_sparse=is_sparse)
    columns, common = [], []
    found: dict[str, dict[tuple[Kind, str], float]] = {}
    for reading in readings:
        text, prior = reading.text, None
        if reading.to_fit:
            sequences = jury.sequence_log_probs(read(reading.to_fit, text.name))
            prior = estimated_prior(sequences).exp()
            common += [] if text.is_unseen else [sequences]
        weights = {kind: prior if kind == "estimated" else None for kind in priors}
        found[text.name] = jury.bits_per_byte(read(reading.to_test, text.name), weights)
        columns.append(reading.column(_by_name(experts, prior)))
    is_for_all = {expert.name for expert in experts} <= {
        text.name for text in texts if not text.is_unseen
    }
    return Evaluation(
        context=context,
        experts=experts,
        columns=columns,
        rows=[
            Row(name, kind, {text: bits[kind, name] for text, bits in found.items()})
            for kind, name in found[texts[0].name]
        ],
        prior=_by_name(experts, _common_prior(common)) if is_for_all else None,
        top_k=top_k,
        asked_frac=jury.asked_frac if is_sparse else None,
    )


class _Reading:
    """What is read of one text: windows of bytes `[<= batch, context + 1]`.

    Raises:
        ConfigError: the text is too short.
    """

    def __init__(self, text: HeldOut, context: int, *, fit_bytes: int, test_bytes: int) -> None:
        def windows(part: Text, max_bytes: int) -> list[Tensor]:
            return list(
                validation_batches(part, context=context, max_tokens=max_bytes, batch=_BATCH)
            )

        self.text = text
        try:
            self.to_fit = windows(text.for_prior, fit_bytes) if fit_bytes else []
            self.to_test = windows(text.for_test, test_bytes)
        except ConfigError as error:
            raise ConfigError(f"the held-out text of {text.name}: {error}") from None

    @property
    def num_bytes(self) -> int:
        return _num_bytes(self.to_fit) + _num_bytes(self.to_test)

    def column(self, prior: Mapping[str, float] | None) -> Column:
        return Column(
            name=self.text.name,
            recipe=self.text.recipe,
            is_unseen=self.text.is_unseen,
            tested_bytes=_num_bytes(self.to_test),
            prior_bytes=_num_bytes(self.to_fit),
            prior=prior,
        )


def _num_bytes(windows: Sequence[Tensor]) -> int:
    """Returns how many bytes are predicted in windows: the first of each is not."""
    return sum(tokens[:, 1:].numel() for tokens in windows)


def _common_prior(sequences: Sequence[Tensor]) -> Tensor | None:
    """Returns the prior for texts in equal parts of all domains, `[K]`, from `[K, N]` of each."""
    if not sequences:
        return None
    least = min(each.shape[1] for each in sequences)
    return estimated_prior(torch.cat([each[:, :least] for each in sequences], dim=1)).exp()


def _by_name(experts: Sequence[Expert], prior: Tensor | None) -> dict[str, float] | None:
    if prior is None:
        return None
    return {expert.name: weight for expert, weight in zip(experts, prior.tolist(), strict=True)}
