"""How good a model is: bits for each byte of the validation text."""

import math

import torch
from torch import Tensor, nn

from optim.layout import load_from
from peer.train.batches import validation_batches
from peer.train.data import Text
from peer.train.model import VOCAB_SIZE, build_model, layout_of_run, loss
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
) -> float:
    """Return the mean bits that the model needs for a byte; 8 is no knowledge at all.

    It reads the same evenly spread windows each time, in full precision, and leaves the model in
    the mode it was in.

    Args:
        model: Byte tokens `[B, T]` in, logits `[B, T, 256]` out.
        validation: The text, `[length]` bytes.
        context: Bytes predicted in a window.
        max_bytes: Bytes predicted in all.
        device: Where the model is.

    Raises:
        ConfigError: the text is shorter than one window.
    """
    was_training = model.training
    model.eval()
    nats, count = 0.0, 0
    try:
        for batch in validation_batches(
            validation, context=context, max_tokens=max_bytes, batch=_BATCH
        ):
            tokens = batch.to(device)
            targets = tokens[:, 1:]
            nats += loss(model(tokens[:, :-1]), targets).item() * targets.numel()
            count += targets.numel()
    finally:
        model.train(was_training)
    return nats / count / math.log(2)


def evaluate_flat(
    flat: Tensor,
    manifest: Manifest,
    validation: Text,
    *,
    max_bytes: int,
    device: torch.device | str = "cpu",
) -> float:
    """Return `bits_per_byte` of a flat vector, such as an anchor, in a model built for it.

    Args:
        flat: `[n]` fp32 on the CPU.
        manifest: The run.
        validation: The text, `[length]` bytes.
        max_bytes: Bytes predicted in all.
        device: Where to evaluate.
    """
    model = build_model(
        manifest.transformer, VOCAB_SIZE[manifest.data.tokenizer], generator=torch.Generator()
    )
    load_from(flat, layout_of_run(manifest), model)
    return bits_per_byte(
        model.to(device),
        validation,
        context=manifest.context,
        max_bytes=max_bytes,
        device=device,
    )
