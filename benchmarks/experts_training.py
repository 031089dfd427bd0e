"""Experts that can be reached along one course: trained once, left at several totals of steps.

The rate is constant after a warmup and falls to zero over the last fifth of a training's own steps
(warmup, stable, decay: Hu et al. 2024, MiniCPM, arXiv:2404.06395, Sec. 4). So trainings of 600 and
750 steps on the same text share their first 480 steps, and every one of them has had a whole
schedule; with a cosine each would be a course of its own. Whatever is finished lies on the disk
under a hash of its settings and is not trained again.
"""

import copy
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from optim.inner import InnerOptimizer, inner_optimizer
from peer.experts.flops import flops_per_token
from peer.train.batches import BatchStream
from peer.train.data import Text
from peer.train.model import VOCAB_SIZE, Transformer, build_model, loss
from protocol.models import ModelSpec

BATCH_SEQUENCES = 8
DECAY_FRAC = 0.2
_WARMUP_STEPS = 20
_CLIP_NORM = 1.0
_WEIGHT_DECAY = 0.1
_VOCAB_SIZE = VOCAB_SIZE["bytes"]


@dataclass(frozen=True)
class Training:
    """Everything that decides what the parameters become.

    Attributes:
        spec: The model's shape.
        text: Name of the text that is read.
        seed: Of the initial parameters and the windows.
        steps: Inner steps on this text.
        lr: The peak rate.
        branch_steps: Steps on the mix before, whose parameters are the start; 0 is from scratch.
        is_decayed: Whether the rate falls in the end; not where others branch from it.
    """

    spec: ModelSpec
    text: str
    seed: int
    steps: int
    lr: float
    branch_steps: int = 0
    is_decayed: bool = True

    @cached_property
    def key(self) -> str:
        """Names the file; equal settings, equal key."""
        settings = asdict(self) | {"spec": self.spec.model_dump()}
        constants = (BATCH_SEQUENCES, DECAY_FRAC, _WARMUP_STEPS, _CLIP_NORM, _WEIGHT_DECAY)
        words = json.dumps([settings, constants], sort_keys=True)
        return hashlib.sha256(words.encode()).hexdigest()[:16]

    @property
    def course(self) -> tuple[object, ...]:
        """What trainings have in common that share their first steps."""
        return (self.spec.model_dump_json(), self.text, self.seed, self.lr, self.branch_steps)

    @property
    def start(self) -> "Training | None":
        """The training whose parameters are the start, if it is one."""
        if not self.branch_steps:
            return None
        return Training(self.spec, MIX, self.seed, self.branch_steps, self.lr, is_decayed=False)

    @property
    def step_of_branch(self) -> int:
        """The first step at which it is no longer the course."""
        return self.steps - (round(DECAY_FRAC * self.steps) if self.is_decayed else 0)

    @property
    def flops(self) -> float:
        """Of all its steps, without those of its start."""
        return self.steps * BATCH_SEQUENCES * self.spec.context * flops_per_token(self.spec)

    def path(self, folder: Path) -> Path:
        """Returns where its parameters are, or will be."""
        return folder / f"{self.key}.safetensors"


MIX = "mix"
"""The text of all domains, as much of each."""


def train(trainings: Sequence[Training], text: Text, folder: Path) -> None:
    """Makes all of one course that are not on the disk yet.

    Args:
        trainings: Of one `course`.
        text: Of that name, `[length]` bytes.
        folder: Where parameters lie.
    """
    missing = [training for training in trainings if not training.path(folder).exists()]
    if not missing:
        return
    first = missing[0]
    model = build_model(
        first.spec, _VOCAB_SIZE, generator=torch.Generator().manual_seed(first.seed)
    )
    if first.start is not None:
        model.load_state_dict(load_file(first.start.path(folder)))
    state = _State(model, inner_optimizer("muon", model, lr=0.0, weight_decay=_WEIGHT_DECAY))
    for training in sorted(missing, key=lambda t: t.step_of_branch):
        state.go_on(training, text, until=training.step_of_branch, is_decaying=False)
        branch = copy.deepcopy(state)
        branch.go_on(training, text, until=training.steps, is_decaying=True)
        _save(dict(branch.model.named_parameters()), training.path(folder))


class _State:
    """A replica on its way; a deep copy of it goes on alone."""

    def __init__(self, model: Transformer, optimizer: InnerOptimizer) -> None:
        self.model = model
        self._optimizer = optimizer
        self._step = 0

    def go_on(self, training: Training, text: Text, *, until: int, is_decaying: bool) -> None:
        """Makes the steps up to that one."""
        windows = BatchStream(
            text,
            batch_sequences=BATCH_SEQUENCES,
            context=training.spec.context,
            run_id=f"experts {training.seed}",
            peer_id=f"{training.text} {training.branch_steps}",
            start_step=self._step,
        )
        for step in range(self._step, until):
            frac = min(1.0, (step + 1) / _WARMUP_STEPS)
            if is_decaying:
                left = (training.steps - step) / (training.steps - training.step_of_branch)
                frac = min(frac, left)
            self._make_step(windows.next(), training.lr * frac)
        self._step = until

    def _make_step(self, tokens: Tensor, lr: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.zero_grad()
        torch.autograd.backward(loss(self.model(tokens[:, :-1]), tokens[:, 1:]))
        nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP_NORM)
        self._optimizer.step()


def parameters_of(training: Training, folder: Path) -> dict[str, Tensor]:
    """Returns parameters by name."""
    theta: dict[str, Tensor] = load_file(training.path(folder))
    return theta


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    part = path.with_suffix(f".{os.getpid()}.part")
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, part)
    part.replace(path)
