"""Text that is drawn: like the whole text judged anew, seeded, and never half a character."""

import io
import itertools
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import peer.experts.folder
import peer.experts.generate
from peer.experts.ensemble import Ensemble
from peer.experts.expert import Expert
from peer.experts.folder import ModelFolder
from peer.experts.generate import FIRST_BYTE, draw, generate
from peer.experts.mean import mean_of
from peer.experts.stream import Stream
from peer.train.model import build_model
from protocol.models import ModelSpec
from thinwire.__main__ import main

SPECS = [
    ModelSpec(dim=16, layers=1, heads=2, ffn_dim=24, context=48),
    ModelSpec(dim=8, layers=2, heads=1, ffn_dim=16, context=9),
    ModelSpec(dim=16, layers=1, heads=2, ffn_dim=24, context=48),
]
NAMES = ("math", "law", "tales")
PROMPT = "The quick brown fox jumps over the lazy dög".encode()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def expert_of(name: str, spec: ModelSpec, seed: int) -> Expert:
    model = build_model(spec, 256, generator=generator(seed))
    return Expert(name=name, spec=spec, theta={k: 4 * p for k, p in model.named_parameters()})


EXPERTS = [
    expert_of(name, spec, j) for j, (name, spec) in enumerate(zip(NAMES, SPECS, strict=True))
]


class Parrot(nn.Module):
    """Knows for each byte the one that follows, and is nearly sure of it."""

    def __init__(self, phrase: bytes) -> None:
        super().__init__()
        self.table = torch.zeros(256, 256)
        for byte, following in zip(phrase, phrase[1:] + phrase[:1], strict=True):
            self.table[byte, following] = 50.0

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table[tokens]


def said(ensemble: Ensemble, prompt: bytes, num_bytes: int, **sampling: float) -> list[str]:
    pieces = generate(ensemble, prompt, num_bytes=num_bytes, generator=generator(), **sampling)
    return [piece.text for piece in pieces]


@pytest.mark.parametrize("is_sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("top_k", [None, 2])
@pytest.mark.parametrize("num_prompt", [1, 40])
def test_a_stream_expects_what_the_whole_text_says(
    is_sparse: bool, top_k: int | None, num_prompt: int
) -> None:
    ensemble = Ensemble.of(EXPERTS, prior=[1, 2, 3], top_k=top_k, is_sparse=is_sparse)
    tokens = torch.randint(0, 256, (1, 110), generator=generator())
    with torch.no_grad():
        log_probs, weights = ensemble(tokens)[0], ensemble.posterior(tokens)[0]
    stream = Stream(ensemble, tokens[0, :num_prompt].tolist())
    for t in range(num_prompt - 1, 110):  # far beyond one of the contexts
        torch.testing.assert_close(stream.log_probs, log_probs[t], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(stream.log_weights.exp(), weights[t], rtol=1e-4, atol=1e-6)
        if t < 109:
            stream.append(int(tokens[0, t + 1]))


def test_drawing_with_the_whole_text_judged_each_time_gives_the_same() -> None:
    ensemble, draws = Ensemble.of(EXPERTS), generator()
    text = bytearray(PROMPT)
    for _ in range(60):
        with torch.no_grad():
            log_probs = ensemble(torch.tensor([list(text)]))[0, -1]
        text.append(draw(log_probs, temperature=0.9, top_p=0.9, generator=draws))
    expected = bytes(text[len(PROMPT) :]).decode(errors="replace")
    found = "".join(said(ensemble, PROMPT, 60, temperature=0.9, top_p=0.9))
    assert len(found) > 10
    assert expected.startswith(found)
    assert len(expected) - len(found) <= 1  # an incomplete character


def test_equal_seeds_give_equal_texts() -> None:
    def text(seed: int) -> str:
        state = torch.get_rng_state()
        pieces = generate(
            Ensemble.of(EXPERTS), PROMPT, num_bytes=30, generator=generator(seed), temperature=2.0
        )
        found = "".join(piece.text for piece in pieces)
        assert torch.equal(torch.get_rng_state(), state)
        return found

    assert text(1) == text(1)
    assert text(1) != text(2)


def test_characters_come_whole_and_when_their_last_byte_is_there() -> None:
    phrase = "é€😀"  # two, three and four bytes
    parrot = Ensemble([Parrot(phrase.encode())])
    assert said(parrot, "😀".encode(), 18) == list(phrase * 2)
    for num_bytes in range(1, 9):  # what is incomplete in the end is left out
        text = "".join(said(parrot, "😀".encode(), num_bytes))
        assert text == phrase.encode()[:num_bytes].decode(errors="ignore")


def test_a_prompt_may_end_within_a_character() -> None:
    parrot = Ensemble([Parrot("é€😀".encode())])
    assert said(parrot, "é".encode()[:1], 1) == ["é"]


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert said(Ensemble([Parrot(b"a\xffb")]), b"b", 3) == ["a", "�", "b"]


def test_an_empty_prompt_is_the_start_of_a_line() -> None:
    parrot = Ensemble([Parrot(FIRST_BYTE + b"once upon")])
    assert said(parrot, b"", 9) == list("once upon")


def test_pieces_tell_who_weighs_most() -> None:
    parrots = Ensemble([Parrot(b"abcdefgh"), Parrot(b"hgfedcba")], names=["up", "down"])
    pieces = list(generate(parrots, b"dcb", num_bytes=3, generator=generator()))
    assert [(piece.text, piece.expert) for piece in pieces] == [(c, "down") for c in "ahg"]
    assert all(piece.weight > 0.99 for piece in pieces)


def test_temperature_0_is_the_likeliest_and_tiny_ones_do_not_overflow() -> None:
    log_probs = torch.tensor([-3.0, -0.5, -2.0]).log_softmax(0)
    for temperature in (0.0, 5e-324, 1e-9):
        assert draw(log_probs, temperature=temperature, top_p=1.0, generator=generator()) == 1


@pytest.mark.parametrize("top_p", [0.3, 0.5, 0.85, 1.0])
def test_draws_are_as_frequent_as_the_nucleus_has_it(top_p: float) -> None:
    probs = [0.15, 0.5, 0.05, 0.3]
    ranks = sorted(range(4), key=lambda j: -probs[j])
    sums = list(itertools.accumulate(probs[j] for j in ranks))
    nucleus = ranks[: next(n for n, total in enumerate(sums, 1) if total >= top_p - 1e-9)]
    draws, temperature = generator(), 2.0
    # At temperature 2 the square roots count; these are those whose squares are `probs`.
    log_probs = 2 * torch.tensor(probs).log()
    counts = [0] * 4
    for _ in range(4000):
        counts[draw(log_probs, temperature=temperature, top_p=top_p, generator=draws)] += 1
    total = sum(probs[j] for j in nucleus)
    expected = [4000 * probs[j] / total if j in nucleus else 0 for j in range(4)]
    for count, mean in zip(counts, expected, strict=True):
        assert abs(count - mean) <= 4 * math.sqrt(mean)


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"temperature": math.nan}, {"top_p": 0.0}, {"top_p": 1.5}]
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"temperature must|top-p must"):
        said(Ensemble.of(EXPERTS), PROMPT, 1, **wrong)


def test_models_of_other_tokens_are_refused() -> None:
    class Words(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return torch.zeros(*tokens.shape, 1000)

    with pytest.raises(ValueError, match="1000 words"):
        said(Ensemble([Words()]), b"x", 1)


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> ModelFolder:
    models = ModelFolder(path=Path("there"), run_id="", experts=EXPERTS)
    monkeypatch.setattr(peer.experts.folder, "read_folder", lambda path: models)
    return models


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["thinwire", "generate", "there", *words])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


@pytest.mark.usefixtures("folder")
def test_the_command_prints_the_prompt_and_what_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--prompt", "Hello", "--bytes", "40", "--seed", "0")
    assert run(monkeypatch, *words) == 0
    expected = "".join(said(Ensemble.of(EXPERTS), b"Hello", 40))
    assert capsys.readouterr().out == f"Hello{expected}\n"
    assert run(monkeypatch, *words, "--expert", "tales") == 0
    alone = "".join(said(Ensemble.of(EXPERTS[2:]), b"Hello", 40))
    assert capsys.readouterr().out == f"Hello{alone}\n"
    assert alone != expected


@pytest.mark.usefixtures("folder")
def test_the_prompt_may_come_from_stdin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stdin = SimpleNamespace(isatty=lambda: False, buffer=io.BytesIO("Grüß".encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert run(monkeypatch, "--bytes", "5") == 0
    assert capsys.readouterr().out.startswith("Grüß")


@pytest.mark.usefixtures("folder")
def test_who_leads_is_marked_and_summed_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--prompt", "Hello", "--bytes", "40", "--show-experts") == 0
    shown = capsys.readouterr()
    assert any(shown.out.startswith(f"Hello[{name}]") for name in NAMES)
    assert "led: " in shown.err
    assert " %" in shown.err


def test_the_prior_of_an_export_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prior = {"math": 0.0, "law": 0.0, "tales": 1.0}
    models = ModelFolder(path=Path("there"), run_id="", experts=EXPERTS, prior=prior)
    monkeypatch.setattr(peer.experts.folder, "read_folder", lambda path: models)
    words = ("--prompt", "Hello", "--bytes", "40", "--seed", "0")
    assert run(monkeypatch, *words) == 0
    alone = "".join(said(Ensemble.of(EXPERTS[2:]), b"Hello", 40))
    assert capsys.readouterr().out == f"Hello{alone}\n"


def test_experts_of_one_shape_can_be_averaged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prior = {"math": 0.999, "tales": 0.001}  # of the ensemble; the average is everybody's
    models = ModelFolder(
        path=Path("there"), run_id="", experts=[EXPERTS[0], EXPERTS[2]], prior=prior
    )
    monkeypatch.setattr(peer.experts.folder, "read_folder", lambda path: models)
    words = ("--prompt", "Hello", "--bytes", "40", "--seed", "0", "--average")
    assert run(monkeypatch, *words) == 0
    expected = "".join(said(Ensemble.of([mean_of(models.experts)]), b"Hello", 40))
    assert capsys.readouterr().out == f"Hello{expected}\n"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--expert", "poems"], "no expert poems in there; there is math, law, tales"),
        (["--average"], "experts math and law cannot be averaged: model.dim is 16"),
        (["--average", "--expert", "law"], "give one of the two"),
        (["--top-k", "4"], "--top-k must be from 1 to 3 (all), not 4"),
        (["--top-k", "2", "--expert", "law"], "--top-k must be 1, as there is one expert, not 2"),
        (["--temperature", "nan"], "--temperature must be a number from 0 on, not nan"),
        (["--top-p", "0"], "--top-p must be above 0"),
    ],
)
def test_mistakes_get_one_line(
    words: list[str],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, "--prompt", "x", *words) == 2
    (found,) = capsys.readouterr().err.splitlines()
    assert line in found


@pytest.mark.usefixtures("folder")
def test_ctrl_c_ends_the_line_and_nothing_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = peer.experts.generate.generate

    def interrupted(*args: object, **settings: object) -> object:
        yield from itertools.islice(whole(*args, **settings), 2)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(peer.experts.generate, "generate", interrupted)
    assert run(monkeypatch, "--prompt", "x", "--seed", "0") == 130
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.endswith("\n")
    assert len(shown.out) == len("x") + 2 + 1


@pytest.mark.usefixtures("folder")
def test_a_terminal_is_not_given_orders(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert run(monkeypatch, "--prompt", "a\x1b[2Jb\n\tc\x9b", "--bytes", "1", "--seed", "0") == 0
    assert capsys.readouterr().out.startswith("a�[2Jb\n\tc�")
