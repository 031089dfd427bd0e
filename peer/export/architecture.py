"""Our transformer as an architecture that `transformers` has, number for number.

With SwiGLU it is a Llama (arXiv:2302.13971) with as many key heads as query heads; with a plain
GELU it is an Arcee, which is a Llama with two matrices in its feed-forward instead of three. Rotary
positions turn halves of a head in both, so no weight changes: what we keep as one matrix (qkv; gate
and up) is cut into those that the library has.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from peer.train.model import NORM_EPS, ROTARY_BASE
from protocol.models import ModelSpec

_BLOCK = "blocks.{}."
_LAYER = "model.layers.{}."
_SAME = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.out.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn.out.weight": "mlp.down_proj.weight",
}
"""Of a block: what has only another name."""


def config_of(spec: ModelSpec, vocab_size: int) -> dict[str, Any]:
    """Return what config.json says of our model.

    Args:
        spec: The shape.
        vocab_size: Number of tokens.
    """
    is_gated = spec.activation == "swiglu"
    return {
        "architectures": ["LlamaForCausalLM" if is_gated else "ArceeForCausalLM"],
        "model_type": "llama" if is_gated else "arcee",
        "vocab_size": vocab_size,
        "hidden_size": spec.dim,
        "intermediate_size": spec.ffn_dim,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.heads,
        "head_dim": spec.dim // spec.heads,
        "hidden_act": "silu" if is_gated else "gelu",
        "max_position_embeddings": spec.context,
        "rms_norm_eps": NORM_EPS,
        "rope_theta": ROTARY_BASE,
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": spec.tied_embeddings,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def renamed(theta: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Return our parameters under the library's names, as views of the same memory.

    Args:
        theta: By our names; see `peer.train.model.Transformer`.
        spec: The shape.
    """
    found = {"model.embed_tokens.weight": theta["embedding.weight"]}
    for layer in range(spec.layers):
        ours, theirs = _BLOCK.format(layer), _LAYER.format(layer)
        for name, other in _SAME.items():
            found[theirs + other] = theta[ours + name]
        qkv = theta[f"{ours}attention.qkv.weight"].chunk(3)
        for name, part in zip("qkv", qkv, strict=True):
            found[f"{theirs}self_attn.{name}_proj.weight"] = part
        up = theta[f"{ours}ffn.up.weight"]
        names = ("gate", "up") if spec.activation == "swiglu" else ("up",)
        for name, part in zip(names, up.chunk(len(names)), strict=True):
            found[f"{theirs}mlp.{name}_proj.weight"] = part
    found["model.norm.weight"] = theta["norm.weight"]
    if not spec.tied_embeddings:
        found["lm_head.weight"] = theta["head.weight"]
    return found
