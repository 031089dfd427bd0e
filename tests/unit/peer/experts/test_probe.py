import numpy as np

from peer.experts.flops import flops_per_token
from peer.experts.probe import MAX_FLOPS_PER_TOKEN, difficulty_of, probe_model
from peer.train.data import Corpus
from protocol.manifest import InnerSpec
from protocol.models import ModelSpec

TINY = ModelSpec(dim=16, layers=1, heads=1, ffn_dim=16, context=16)
INNER = InnerSpec(lr=1e-2, batch_sequences=4)


def corpus(text: bytes) -> Corpus:
    array = np.frombuffer(text, dtype=np.uint8)
    return Corpus(array[: len(array) // 2], array[len(array) // 2 :], "a text")


EASY = corpus(b"abab" * 2000)
MIDDLE = corpus(bytes(np.random.default_rng(0).choice(list(b"abcdefgh"), 8000).tolist()))
HARD = corpus(bytes(np.random.default_rng(0).integers(0, 256, 8000).tolist()))


def probe(text: Corpus, **kwargs: int) -> float:
    return difficulty_of(text, TINY, INNER, **({"steps": 40, "evaluation_bytes": 1024} | kwargs))


def test_what_is_harder_to_predict_is_more_difficult() -> None:
    easy, middle, hard = map(probe, (EASY, MIDDLE, HARD))
    assert easy < middle - 0.3
    assert middle < hard - 0.3
    assert 7.5 < hard < 9


def test_it_is_the_same_each_time_and_another_with_another_seed() -> None:
    assert probe(MIDDLE) == probe(MIDDLE)
    assert probe(MIDDLE) != probe(MIDDLE, seed=1)


def test_one_step_is_a_probe_too() -> None:
    assert 5 < probe(MIDDLE, steps=1) < 9


def test_a_large_model_is_measured_by_a_small_one() -> None:
    large = ModelSpec(dim=1024, layers=16, heads=16, ffn_dim=4096, context=512)
    assert flops_per_token(probe_model(large)) < 1.2 * MAX_FLOPS_PER_TOKEN
    assert probe_model(TINY) == TINY
