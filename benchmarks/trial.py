"""One training run of M replicas in one process: a method, data parallel, or a replica alone.

All of a seed's trials start from the same parameters and read the same streams of text, replica by
replica, so that they differ in nothing but the method. Validation text is cut in two: constants are
chosen on the first half, and what is reported is measured on the second.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.replicas import Replicas
from optim.inner import learning_rate
from optim.layout import layout_of, load_from, shapes_of
from optim.method import method_named
from optim.swarm import LocalSwarm
from peer.train.batches import BatchStream
from peer.train.data import Corpus
from peer.train.evaluate import bits_per_byte
from peer.train.model import Transformer, build_model, num_parameters
from protocol.models import ModelSpec

VOCABULARY = 256
CURVE_POINTS = 12
CURVE_BYTES = 16 * 1024
FINAL_BYTES = 128 * 1024


@dataclass(frozen=True)
class Trial:
    """What to train, and how.

    Attributes:
        method: A preset's name, `data_parallel`, or `alone` (one replica, its own text only).
        settings: Laid over the preset, see `optim.method.method_named`.
        inner: Name of the inner optimizer; `lr` its peak rate.
        replicas: M.
        steps: Inner steps of each replica.
        batch_sequences: Windows of `context` bytes in a step of one replica.
    """

    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    inner: str = "muon"
    lr: float = 0.01
    seed: int = 0
    replicas: int = 4
    steps: int = 2400
    batch_sequences: int = 4
    dim: int = 64
    layers: int = 2
    heads: int = 4
    ffn_dim: int = 176
    context: int = 64
    warmup_steps: int = 50
    final_lr_frac: float = 0.05
    weight_decay: float = 0.1
    device: str = "cpu"

    @property
    def key(self) -> str:
        """A name for exactly this trial."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def model(self) -> ModelSpec:
        """The model's shape."""
        return ModelSpec(
            dim=self.dim,
            layers=self.layers,
            heads=self.heads,
            ffn_dim=self.ffn_dim,
            context=self.context,
        )

    @property
    def parameters(self) -> int:
        """N."""
        return num_parameters(self.model, VOCABULARY)

    @property
    def tokens(self) -> int:
        """Of all replicas together."""
        readers = 1 if self.method == "alone" else self.replicas
        return readers * self.steps * self.batch_sequences * self.context


def run_trial(
    trial: Trial, corpus: Corpus, *, on_progress: Callable[[int], None] = lambda step: None
) -> dict[str, Any]:
    """Train, and return the trial, losses in nats per byte, the curve, and bytes sent."""
    began_s = time.monotonic()
    torch.manual_seed(trial.seed)
    half = len(corpus.validation) // 2
    tuning, reporting = corpus.validation[:half], corpus.validation[half:]
    run = _Run(trial, corpus)
    curve = []
    every = max(1, trial.steps // CURVE_POINTS)
    for step in range(1, trial.steps + 1):
        run.step()
        if step % every == 0 and step < trial.steps:
            nats = run.loss_of(run.outer(0), tuning, CURVE_BYTES)
            curve.append((step, run.sent_bytes, nats))
            on_progress(step)
    run.finish()
    outers = [run.outer(m) for m in range(run.num_anchors)]
    mean = torch.stack(outers).mean(0)
    spread = torch.stack([torch.linalg.vector_norm(x - mean) for x in outers]).mean().item()
    tuned = [run.loss_of(x, tuning, FINAL_BYTES) for x in outers]
    reported = [run.loss_of(x, reporting, FINAL_BYTES) for x in outers]
    result = {
        "trial": asdict(trial),
        "key": trial.key,
        "parameters": trial.parameters,
        "tokens": trial.tokens,
        "tuning_loss": sum(tuned) / len(tuned),
        "loss": sum(reported) / len(reported),
        "loss_of_mean": run.loss_of(mean, reporting, FINAL_BYTES),
        "relative_spread": spread / torch.linalg.vector_norm(mean).item(),
        "sent_bytes": run.sent_bytes,
        "took_s": round(time.monotonic() - began_s, 1),
    }
    curve.append((trial.steps, run.sent_bytes, float(result["tuning_loss"])))
    return {**result, "curve": curve}


class _Run:
    def __init__(self, trial: Trial, corpus: Corpus) -> None:
        self._trial = trial
        self._device = torch.device(trial.device)
        generator = torch.Generator().manual_seed(trial.seed)
        self._start = build_model(trial.model, VOCABULARY, generator=generator)
        self._layout = layout_of(shapes_of(self._start))
        readers = 1 if trial.method == "alone" else trial.replicas
        self._streams = [
            BatchStream(
                corpus.train,
                batch_sequences=trial.batch_sequences,
                context=trial.context,
                run_id=f"trial {trial.seed}",
                peer_id=str(replica),
            )
            for replica in range(readers)
        ]
        is_single = trial.method in ("alone", "data_parallel")
        self._models = [self._copy() for _ in range(1 if is_single else trial.replicas)]
        self._replicas = Replicas(self._models, inner=trial.inner, weight_decay=trial.weight_decay)
        self._swarm = None
        if not is_single:
            method = method_named(trial.method, **trial.settings)
            self._swarm = LocalSwarm(self._models, method, seed=trial.seed)
        self._done = 0

    @property
    def num_anchors(self) -> int:
        swarm = self._swarm
        return len(self._models) if swarm and swarm.method.mixing != "all" else 1

    @property
    def sent_bytes(self) -> float:
        if self._swarm:
            return max(self._swarm.sent_bytes)
        if self._trial.method == "alone":
            return 0
        # A ring all-reduce of fp32 gradients at each step.
        M = self._trial.replicas
        return 2 * (M - 1) / M * 4 * self._trial.parameters * self._done

    def step(self) -> None:
        batches = [stream.next() for stream in self._streams]
        if len(self._models) == 1:
            batches = [torch.cat(batches)]  # data parallel is one model on the union of the batches
        rate = learning_rate(
            self._done,
            peak=self._trial.lr,
            warmup_steps=self._trial.warmup_steps,
            total_steps=self._trial.steps,
            final_frac=self._trial.final_lr_frac,
        )
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            self._replicas.step(torch.stack(batches).to(self._device), lr=rate)
        self._done += 1
        if self._swarm:
            self._swarm.step()

    def finish(self) -> None:
        if self._swarm:
            self._swarm.finish()

    def outer(self, replica: int) -> Tensor:
        """The parameters to evaluate."""
        if self._swarm:
            return self._in_order(self._swarm, replica)
        flat = torch.empty(self._layout.num_elements)
        for entry in self._layout.entries:
            param = self._models[0].get_parameter(entry.name)
            flat[entry.start : entry.stop].copy_(param.detach().reshape(-1))
        return flat

    def loss_of(self, flat: Tensor, text: Any, num_bytes: int) -> float:
        load_from(flat, self._layout, self._start)
        bits = bits_per_byte(
            self._start.to(self._trial.device),
            text,
            context=self._trial.context,
            max_bytes=num_bytes,
            device=self._trial.device,
        )
        return bits * math.log(2)

    def _in_order(self, swarm: LocalSwarm, replica: int) -> Tensor:
        model = self._copy()
        load_from(swarm.anchor(replica), swarm.layout, model)
        parts = [model.get_parameter(e.name).detach().reshape(-1) for e in self._layout.entries]
        return torch.cat(parts).cpu()

    def _copy(self) -> Transformer:
        model = build_model(self._trial.model, VOCABULARY, generator=torch.Generator())
        model.load_state_dict(self._start.state_dict())
        return model.to(self._trial.device)
