"""What a trial reports of its replicas."""

import numpy as np
import pytest

from benchmarks.trial import Trial, run_trial
from peer.train.data import Corpus

TEXT = np.frombuffer(b"One and one are two, and two and two are four. " * 800, np.uint8)
CORPUS = Corpus(TEXT[: 24 * 1024], TEXT[24 * 1024 : 32 * 1024], "a few words")
GROUPS = {"mixing": "groups", "group_size": 2, "schedule": {"interval_steps": 4}}


@pytest.mark.parametrize(
    ("method", "settings", "is_spread"),
    [
        ("diloco", {"schedule": {"interval_steps": 4}}, False),
        ("noloco", {"schedule": {"interval_steps": 4}}, True),
        ("noloco", GROUPS, True),
    ],
    ids=["all", "pairs", "groups"],
)
def test_replicas_without_a_common_anchor_are_judged_one_by_one(
    method: str, settings: dict[str, object], is_spread: bool
) -> None:
    trial = Trial(
        method, settings, inner="adamw", steps=8, batch_sequences=1, dim=16, layers=1, heads=2,
        ffn_dim=24, context=16, warmup_steps=1,
    )  # fmt: skip
    outcome = run_trial(trial, CORPUS)
    assert (outcome["relative_spread"] > 1e-6) == is_spread
    assert (outcome["loss"] != outcome["loss_of_mean"]) == is_spread
