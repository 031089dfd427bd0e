"""What models make of the texts they are judged by, and what ensembles of them come to.

A model reads each window once; every byte's log-probability is kept, as ensembles of any prior
follow from that. Shapes: K experts, N windows, T bytes predicted in each.
"""

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.experts_texts import Texts
from benchmarks.experts_training import Training, parameters_of
from optim.posterior import estimated_prior, log_posterior, log_prior_of, mixture_log_probs
from peer.experts.ensemble import Ensemble
from peer.experts.expert import Expert
from peer.experts.mean import mean_of

_BATCH = 8

Scores = Mapping[str, Tensor]
"""`[N, T]` nats by `held_out/NAME` and `test/NAME`."""


def expert_of_training(training: Training, folder: Path) -> Expert:
    """Returns the expert that a finished training made."""
    theta = parameters_of(training, folder)
    return Expert(name=training.text, spec=training.spec, theta=theta, step=training.steps)


def score(members: Sequence[Training], texts: Texts, folder: Path) -> Path:
    """Writes the scores of a model, or of the average of several, unless they are there already.

    Args:
        members: One training, or all whose parameters are averaged.
        texts: What is judged by.
        folder: Where parameters and scores lie.
    """
    path = folder / f"{_key(members, texts)}.scores"
    if not path.exists():
        experts = [expert_of_training(training, folder) for training in members]
        model = (mean_of(experts) if len(experts) > 1 else experts[0]).model()
        scores = {name: _log_probs(model, windows) for name, windows in texts.judged.items()}
        part = path.with_suffix(f".{os.getpid()}.part")
        save_file(scores, part)
        part.replace(path)
    return path


def scores_of(members: Sequence[Training], texts: Texts, folder: Path) -> Scores:
    """Returns what `score` wrote."""
    scores: Scores = load_file(folder / f"{_key(members, texts)}.scores")
    return scores


def held_out_scores(training: Training, texts: Texts, folder: Path) -> Tensor:
    """Returns the scores `[N, T]` of a model on held-out text of its own domain, and keeps none."""
    model = expert_of_training(training, folder).model()
    return _log_probs(model, texts.judged[f"held_out/{training.text}"])


def bits(scores: Tensor) -> float:
    """Returns the bits for each byte."""
    return -scores.double().mean().item() / math.log(2)


def judged(experts: Sequence[Scores], domain: str) -> dict[str, float]:
    """Returns the bits per byte of a domain's test text, by who predicts.

    `uniform` and `estimated` are the ensemble with such a prior, the latter from the domain's
    held-out text; `top1` has the estimated prior and only the likeliest expert at each byte;
    `best` is the one expert that turns out best on the test text, which nobody can know before.

    Args:
        experts: Of all K.
        domain: One that they are judged by.
    """
    test = torch.stack([scores[f"test/{domain}"] for scores in experts]).double()
    held_out = torch.stack([scores[f"held_out/{domain}"] for scores in experts]).double()
    uniform, estimated = log_prior_of(None, len(experts)), estimated_prior(held_out.sum(-1))

    def mixed(prior: Tensor, top_k: int | None = None) -> float:
        return bits(mixture_log_probs(test, log_posterior(test, prior, top_k=top_k)))

    return {
        "uniform": mixed(uniform),
        "estimated": mixed(estimated),
        "top1": mixed(estimated, top_k=1),
        "best": min(bits(own) for own in test),
    }


def asked_sparsely(
    trainings: Sequence[Training], texts: Texts, folder: Path
) -> tuple[dict[str, float], float]:
    """Returns bits per byte by domain when only likely experts are asked, and what part of all.

    The prior is the one estimated on a domain's held-out text, so the first block, in which all are
    asked, tells less than it would without one.
    """
    experts = [expert_of_training(training, folder) for training in trainings]
    found: dict[str, float] = {}
    fed, dense = 0, 0
    for name, windows in texts.judged.items():
        use, _, domain = name.partition("/")
        if use == "test":
            with torch.no_grad():
                held_out = Ensemble.of(experts).scores(texts.judged[f"held_out/{domain}"])
                prior = estimated_prior(held_out.sum(-1)).exp().tolist()
                ensemble = Ensemble.of(experts, prior=prior, is_sparse=True)
                found[domain] = bits(ensemble.score(windows))
            fed, dense = fed + ensemble.fed_tokens, dense + ensemble.dense_tokens
    return found, fed / dense


@torch.no_grad()
def _log_probs(model: nn.Module, windows: Tensor) -> Tensor:
    """Returns `Ensemble.scores` of one model, `[N, T]` fp32, in little memory."""
    parts = []
    for tokens in torch.split(windows, _BATCH):
        logits = model(tokens[:, :-1]).transpose(1, 2)
        parts.append(-functional.cross_entropy(logits, tokens[:, 1:], reduction="none"))
    return torch.cat(parts)


def _key(members: Sequence[Training], texts: Texts) -> str:
    digest = hashlib.sha256("".join(training.key for training in members).encode())
    for name, windows in texts.judged.items():
        digest.update(name.encode())
        digest.update(windows.numpy().tobytes())
    return digest.hexdigest()[:16]
