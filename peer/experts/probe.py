"""How difficult a domain is: what a small model still needs for a byte after a short training.

Bits per byte of a domain's validation text, by one model for all domains: the run's own, or its
like of at most 1 MFLOP for a token, so that a probe takes seconds. It starts from one seed and
reads its windows from one stream, so on one machine it gives the same number each time.

**Deviation:** HDEE (arXiv:2502.19385) sorts domains into hard, medium and easy by hand.
"""

from peer.experts.flops import flops_per_token
from peer.experts.shape import shape_near
from peer.train.alone import train_alone
from peer.train.config import EVALUATION_BYTES
from peer.train.data import Corpus
from protocol.manifest import InnerSpec, Manifest
from protocol.models import ModelSpec

MAX_FLOPS_PER_TOKEN = 1e6
PROBE_STEPS = 60
_WARMUP_FRAC = 0.1
_DIGITS = 4


def difficulty_of(
    corpus: Corpus,
    base: ModelSpec,
    inner: InnerSpec,
    *,
    steps: int = PROBE_STEPS,
    seed: int = 0,
    evaluation_bytes: int = EVALUATION_BYTES,
) -> float:
    """Return the bits per byte at the end of a probe, to four decimals.

    Args:
        corpus: The domain's text.
        base: The run's model.
        inner: The run's inner optimizer; the schedule is cut to the probe's steps.
        steps: Of the probe.
        seed: Of the model's initialization, and of the stream.
        evaluation_bytes: Validation text read at the end.

    Raises:
        ConfigError: the text is shorter than one window.
        ThinwireError: the loss is not finite.
    """
    warmup_steps = min(inner.warmup_steps, int(_WARMUP_FRAC * steps))
    manifest = Manifest(
        name="probe",
        founder="probe",
        seed=seed,
        model=probe_model(base),
        inner=inner.model_copy(update={"total_steps": steps, "warmup_steps": warmup_steps}),
    )
    replica = train_alone(manifest, steps, corpus=corpus).replica
    return round(replica.evaluate(None, max_bytes=evaluation_bytes), _DIGITS)


def probe_model(base: ModelSpec) -> ModelSpec:
    """Return the model that measures all domains of a run."""
    if flops_per_token(base) <= MAX_FLOPS_PER_TOKEN:
        return base
    return shape_near(base, MAX_FLOPS_PER_TOKEN)
