from typing import Any

import pytest
import torch
from torch import nn

from peer.train.alone import train_alone
from peer.train.data import Corpus
from peer.train.evaluate import bits_per_byte, evaluate_flat
from peer.train.model import initial_anchor
from protocol.manifest import Manifest
from tests.unit.peer.train.test_model import FRAGMENTS, with_fragments


class Uniform(nn.Module):
    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        assert not self.training
        return torch.zeros(*tokens.shape, 256)


class Oracle(nn.Module):
    # Certain, and right, that byte b is followed by b + 1.
    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot((tokens + 1) % 256, 256) * 100.0


def test_a_uniform_model_needs_eight_bits(corpus: Corpus) -> None:
    model = Uniform().train()
    bits = bits_per_byte(model, corpus.validation, context=16, max_bytes=200)
    assert bits == pytest.approx(8, abs=1e-6)
    assert model.training


def test_an_oracle_needs_none() -> None:
    text = torch.arange(1000).to(torch.uint8).numpy()
    assert bits_per_byte(Oracle(), text, context=16, max_bytes=999) == pytest.approx(0, abs=1e-6)


@FRAGMENTS
def test_an_anchor_is_as_good_as_the_model_that_it_came_from(
    manifest: Manifest, corpus: Corpus, schedule: dict[str, Any]
) -> None:
    run = with_fragments(manifest, schedule)
    alone = train_alone(run, 20, corpus=corpus).replica
    flat = torch.empty(alone.layout.num_elements)
    alone.snapshot(flat)
    bits = bits_per_byte(alone.model, corpus.validation, context=16, max_bytes=500)
    assert evaluate_flat(flat, run, corpus.validation, max_bytes=500) == bits
    assert bits < 6


def test_a_flat_vector_can_be_evaluated(manifest: Manifest, corpus: Corpus) -> None:
    anchor = initial_anchor(manifest)
    assert evaluate_flat(anchor, manifest, corpus.validation, max_bytes=500) == pytest.approx(
        8, abs=0.2
    )
    zeros = torch.zeros_like(anchor)
    assert evaluate_flat(zeros, manifest, corpus.validation, max_bytes=500) == pytest.approx(8)
