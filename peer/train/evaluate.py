"""How good a model is: bits for each byte of the validation text."""

import math

import torch
from torch import Tensor, nn

from optim.layout import load_from
from peer.train.batches import validation_batches
from peer.train.data import Text
from peer.train.model import layout_of_run, loss, model_of_run
from protocol.manifest import Manifest

_BATCH = 16


@torch.no_grad()
def bits_per_byte(
    model: nn.Module,
    validation: Text,
    *,
    context: int,
    max_bytes: int,
    device: torch.device | str = "cpu",
    widths: Text | None = None,
) -> float:
    """Return the mean bits that the model needs for a byte; 8 is no knowledge at all.

    It reads the same evenly spread windows each time, in full precision, and leaves the model in
    the mode it was in. Nats are of tokens and bytes of the text that they stand for, so models with
    different tokenizers compare.

    Args:
        model: Tokens `[B, T]` in, logits `[B, T, V]` out.
        validation: The text, `[length]` tokens.
        context: Tokens predicted in a window.
        max_bytes: Bytes predicted in all, about.
        device: Where the model is.
        widths: Bytes that each token stands for, `[length]`; None: one.

    Raises:
        ConfigError: the text is shorter than one window.
    """
    was_training = model.training
    model.eval()
    nats, num_bytes = 0.0, 0
    max_tokens = max_bytes
    if widths is not None:
        max_tokens = max(1, max_bytes * len(widths) // max(1, int(widths.sum())))
    windows = [
        validation_batches(text, context=context, max_tokens=max_tokens, batch=_BATCH)
        for text in (validation, widths)
        if text is not None
    ]
    try:
        for batch, *measured in zip(*windows, strict=True):
            tokens = batch.to(device)
            targets = tokens[:, 1:]
            nats += loss(model(tokens[:, :-1]), targets).item() * targets.numel()
            num_bytes += int(measured[0][:, 1:].sum()) if measured else targets.numel()
    finally:
        model.train(was_training)
    return nats / max(1, num_bytes) / math.log(2)


def evaluate_flat(
    flat: Tensor,
    manifest: Manifest,
    validation: Text,
    *,
    max_bytes: int,
    device: torch.device | str = "cpu",
    widths: Text | None = None,
) -> float:
    """Return `bits_per_byte` of a flat vector, such as an anchor, in a model built for it.

    Args:
        flat: `[n]` fp32 on the CPU.
        manifest: The run.
        validation: The text, `[length]` tokens.
        max_bytes: Bytes predicted in all, about.
        device: Where to evaluate.
        widths: See `bits_per_byte`.
    """
    model = model_of_run(manifest)
    load_from(flat, layout_of_run(manifest), model)
    return bits_per_byte(
        model.to(device),
        validation,
        context=manifest.context,
        max_bytes=max_bytes,
        device=device,
        widths=widths,
    )
