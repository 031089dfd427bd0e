"""What a machine needs to train a domain's expert, in bytes, so that peers know what they can take.

**Symbols:** `n` = parameters, `B` = sequences of a batch, `T`, `L`, `D`, `F`, `V` as in
`peer.experts.flops`.

    states         4 n x (weights, gradients, and the inner optimizer's moments)
    activations    4 B T (L (12 D + 4 F) + 2 D + 2 V)        2 F if not gated

Activations are what autograd keeps until the backward pass, in fp32; tests/unit/peer/experts/
test_memory.py holds them against what it really keeps. Attention keeps no scores. What the outer
side needs beside is `peer.plan.memory`'s.
"""

from peer.method import method_of_run
from peer.plan.memory import memory_of
from peer.train.model import VOCAB_SIZE, layout_of_run, num_parameters
from protocol.domains import domain_manifest
from protocol.manifest import DomainSpec, Manifest
from protocol.models import ModelSpec

MOMENTS = {"adamw": 2, "muon": 1, "sgd": 1}
"""Values that an inner optimizer keeps for each parameter."""
_PARTNERS = 2


def training_bytes(domain: DomainSpec) -> float:
    """Return what the trainer needs: parameters, gradients, moments and activations."""
    n = num_parameters(domain.model, VOCAB_SIZE[domain.data.tokenizer])
    states = 4.0 * n * (2 + MOMENTS[domain.inner.optimizer])
    return states + activation_bytes(domain.model, domain.inner.batch_sequences)


def activation_bytes(spec: ModelSpec, batch_sequences: int) -> float:
    """Return what autograd keeps of a batch, in fp32.

    Args:
        spec: The shape; batches are windows of its context.
        batch_sequences: B.
    """
    D, F = spec.dim, spec.ffn_dim
    of_token = spec.layers * (12 * D + (4 if spec.activation == "swiglu" else 2) * F)
    of_token += 2 * D + 2 * VOCAB_SIZE["bytes"]
    return 4.0 * batch_sequences * spec.context * of_token


def peer_bytes(manifest: Manifest, name: str) -> float:
    """Return what a peer of a domain needs, trainer and outer side, with one partner at a time.

    Args:
        manifest: The run's.
        name: The domain's.
    """
    own = domain_manifest(manifest, name)
    sizes = [len(fragment) for fragment in layout_of_run(own).fragments]
    (domain,) = (domain for domain in manifest.domains if domain.name == name)
    return training_bytes(domain) + memory_of(method_of_run(own), sizes, _PARTNERS).total
