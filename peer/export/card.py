"""The README.md of an export: how to load the model, and how it came to be."""

from typing import Any

from peer.export.snapshot import Snapshot


def model_card(snapshot: Snapshot, facts: dict[str, Any], *, is_huggingface: bool) -> str:
    """Return the text.

    Args:
        snapshot: The model.
        facts: As in thinwire.json.
        is_huggingface: Whether `transformers` can load it.
    """
    manifest = snapshot.manifest
    method, inner = manifest.method, manifest.inner
    domain = f", domain {snapshot.domain}" if snapshot.domain else ""
    is_common = method.mixing == "all"
    return _CARD.format(
        library="transformers" if is_huggingface else "safetensors",
        name=snapshot.run.name,
        domain=domain,
        parameters=facts["parameters"],
        kind=manifest.model.kind,
        dtype=facts["dtype"],
        load=_LOAD if is_huggingface else _LOAD_TENSORS,
        run_id=snapshot.run.run_id,
        round=snapshot.round,
        step=snapshot.step,
        tokens=_tokens(snapshot),
        digests="\n".join(
            f"| {fragment} | {round} | `{digest}` |"
            for fragment, (round, digest) in enumerate(
                zip(snapshot.rounds, snapshot.digests, strict=True)
            )
        ),
        agreed=_AGREED if is_common else "",
        whose="" if is_common else _ONE_OF_MANY,
        preset=f"{method.preset}: " if method.preset else "",
        mixing=method.mixing,
        interval_steps=method.schedule.interval_steps,
        codec=method.codec.name,
        rule=method.outer.rule,
        optimizer=inner.optimizer,
        lr=inner.lr,
        batch=inner.batch_sequences,
        recipe=manifest.data.recipe,
        tokenizer=manifest.data.tokenizer,
        note=_note(snapshot, is_huggingface=is_huggingface),
    )


def _tokens(snapshot: Snapshot) -> str:
    if not snapshot.tokens:
        return "not counted"
    first = snapshot.uncounted_rounds
    return f"{snapshot.tokens:,}" + (
        f", without those of the first {first} rounds" if first else ""
    )


def _note(snapshot: Snapshot, *, is_huggingface: bool) -> str:
    if snapshot.manifest.model.kind == "own":
        return "\nThe model is code of whoever founded the run; the tensors have its names.\n"
    if is_huggingface and snapshot.manifest.data.tokenizer == "bytes":
        return "\nIts tokens are bytes: the tokenizer gives each byte of UTF-8 its own value.\n"
    return ""


_LOAD = """\
    from transformers import AutoModelForCausalLM, AutoTokenizer
    model = AutoModelForCausalLM.from_pretrained("PATH")
    tokenizer = AutoTokenizer.from_pretrained("PATH")
"""
_LOAD_TENSORS = """\
    from safetensors.torch import load_file
    parameters = load_file("PATH/model.safetensors")    # tensors by name
"""
_ONE_OF_MANY = (
    " In this run each peer has parameters of its own, near those of the others: these are one "
    "peer's."
)
_AGREED = (
    " Peers that were at this round have the same:\n"
    "it is the `digest` of the event `landed` in their `events.jsonl`."
)
_CARD = """\
---
library_name: {library}
tags: [thinwire]
---
# {name}{domain}

{parameters:,} parameters in {dtype} ({kind}). With PATH for this folder:

{load}{note}
## How it was trained

By the peers of a thinwire run, each on its own machine, with rare exchanges over the internet.
This is the anchor, the model that they share, after round {round} and about {step:,} inner steps
of each peer.{whose}

| | |
|---|---|
| run | `{run_id}` |
| round, step | {round}, {step:,} |
| tokens, contributed by all peers | {tokens} |
| method | {preset}mixing {mixing}, every {interval_steps} steps, codec {codec}, outer rule {rule} |
| inner optimizer | {optimizer}, learning rate {lr:g}, {batch} sequences a step |
| text | `{recipe}` |
| tokenizer | {tokenizer} |

Exchanges replace one fragment of the model at a time. Each has its own round and its digest, BLAKE3
of its fp32 values.{agreed}

| fragment | round | digest |
|---|---|---|
{digests}

`thinwire.json` has all this for programs, all settings of the run, and the digest of
`model.safetensors`.
"""
