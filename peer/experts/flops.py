"""FLOPs of training a model on one token: its matmuls, forward and backward.

**Papers:** Kaplan et al. 2020, arXiv:2001.08361, Sec. 2.1: 6 FLOPs for a token and each parameter
of a matmul, 2 forward and 4 backward. Hoffmann et al. 2022 (Chinchilla), arXiv:2203.15556, App. F:
the same, and attention's two products besides.
**Symbols:** `D` = dim, `L` = layers, `F` = ffn_dim, `T` = context, `V` = vocabulary; `G` = matrices
of D x F, 3 if gated, else 2.

    6 (L (4 D^2 + G D F) + V D)  +  12 L T D

**Our reading:** the head counts, tied or not, as it is a matmul; the embedding does not, as looking
up is none (Chinchilla's counts it). Attention counts whole, as in Chinchilla's, although it is
causal: dense kernels compute both halves. Norms, rotary positions, softmax and the optimizer are
left out. tests/unit/peer/experts/test_flops.py holds this against what torch counts.
"""

from peer.train.model import VOCAB_SIZE
from protocol.models import ModelSpec


def flops_per_token(spec: ModelSpec, vocab_size: int = VOCAB_SIZE["bytes"]) -> float:
    """Return the FLOPs of training on one token, in windows of the model's context.

    Args:
        spec: The shape.
        vocab_size: V.
    """
    D, L = spec.dim, spec.layers
    matrices = 3 if spec.activation == "swiglu" else 2
    in_matmuls = L * (4 * D**2 + matrices * D * spec.ffn_dim) + vocab_size * D
    return 6.0 * in_matmuls + 12.0 * L * spec.context * D
