"""Small Hugging Face models, tokenizers and datasets, made here and without a network."""

import json
import os
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

SIZES = {"vocab_size": 400, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32}
LLAMA = {
    "model_type": "llama",
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    **SIZES,
}
GPT2 = {
    "model_type": "gpt2",
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 64,
    "vocab_size": 400,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
GEMMA = {
    "model_type": "gemma2",
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "num_key_value_heads": 1,
    "head_dim": 16,
    **SIZES,
}
DEEPSEEK = {
    "model_type": "deepseek_v3",
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 0,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    **SIZES,
    "num_hidden_layers": 1,
}


def text_of_stdlib() -> str:
    """Returns half a megabyte of Python."""
    folder = Path(os.__file__).parent
    names = ["argparse", "ast", "asyncio/base_events", "ctypes/__init__", "doctest", "inspect"]
    return "\n".join((folder / f"{name}.py").read_text() for name in names)


def write_tokenizer(path: Path, vocab_size: int = 400) -> None:
    """Trains a byte-level tokenizer on some Python."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text_of_stdlib()[:100_000].splitlines(keepends=True), trainer)
    tokenizer.save(str(path))


def write_documents(path: Path, column: str = "text", most: int = 500) -> list[str]:
    """Writes paragraphs of Python as lines of JSON, and returns them."""
    documents = list(dict.fromkeys(filter(None, text_of_stdlib().split("\n\n"))))[:most]
    rows = ({column: text, "number": number} for number, text in enumerate(documents))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return documents


def settings_of(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Returns a run's settings with such a model."""
    return {
        "founder": "nobody",
        "model": {"kind": "huggingface", "config": config, "context": 32},
        "inner": {"lr": 1e-2, "warmup_steps": 5, "total_steps": 60, "batch_sequences": 8},
        "method": {"schedule": {"interval_steps": 10, "fragments": 2}},
        **changes,
    }
