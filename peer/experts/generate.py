"""Text from an ensemble, or from one model, as it is drawn byte by byte."""

import codecs
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from peer.experts.ensemble import Ensemble
from peer.experts.stream import Stream
from peer.train.model import VOCAB_SIZE

FIRST_BYTE = b"\n"
"""What an empty prompt stands for: a text goes on after a line's end."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some new characters, as soon as their last byte is there.

    Attributes:
        text: At least one character. Bytes that are no UTF-8 are U+FFFD each, as usual.
        expert: The name of who weighed most when the last byte was drawn.
        weight: Of that expert, in (0, 1].
    """

    text: str
    expert: str
    weight: float


def generate(
    ensemble: Ensemble,
    prompt: bytes,
    *,
    num_bytes: int,
    generator: torch.Generator,
    temperature: float = 0.8,
    top_p: float = 0.95,
) -> Iterator[Piece]:
    """Yield the text that goes on from the prompt; equal generators give equal texts.

    Args:
        ensemble: Of byte models; of one model, to hear it alone.
        prompt: UTF-8, as a rule. Of any length: all of it is evidence of which expert to ask.
        num_bytes: To draw. A character that is not complete by then is left out.
        generator: On the CPU; the only randomness. Mutated.
        temperature: Above 1 is bolder, below is safer; 0 draws the likeliest byte always.
        top_p: Only the likeliest bytes that together have this probability are drawn, in (0, 1].

    Raises:
        ValueError: a number is out of its range, or these are no byte models.
    """
    require_sampling(temperature, top_p)
    stream = Stream(ensemble, prompt or FIRST_BYTE)
    if len(stream.log_probs) != VOCAB_SIZE["bytes"]:
        raise ValueError(
            f"the models have {len(stream.log_probs)} words in their vocabulary; only models of "
            "bytes can be read as text"
        )
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    decoder.decode(prompt)  # it may end within a character
    for drawn in range(1, num_bytes + 1):
        byte = draw(stream.log_probs, temperature=temperature, top_p=top_p, generator=generator)
        text = decoder.decode(bytes([byte]))
        if text:
            j = int(stream.log_weights.argmax())
            yield Piece(text, ensemble.names[j], float(stream.log_weights[j].exp()))
        if drawn < num_bytes:
            stream.append(byte)


def require_sampling(temperature: float, top_p: float) -> None:
    """Check the two numbers that shape what is drawn.

    Raises:
        ValueError: one is out of its range.
    """
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be a number from 0 on, not {temperature}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top-p must be above 0 and at most 1, not {top_p}")


def draw(log_probs: Tensor, *, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """Return a token drawn from log-probabilities `[V]`; see `generate`."""
    if temperature == 0:
        return int(log_probs.argmax())
    relative = log_probs.double().cpu() - log_probs.max().item()  # so that none overflows
    probs = (relative / temperature).softmax(0)
    descending, order = probs.sort(descending=True, stable=True)
    is_beyond = descending.cumsum(0) - descending >= top_p  # never the first
    kept = descending.masked_fill(is_beyond, 0.0)
    return int(order[torch.multinomial(kept, 1, generator=generator)])
