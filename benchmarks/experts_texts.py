"""The texts of the experiment: to train on, to estimate on, and to judge by.

All come from `benchmarks.corpora`, split by document. *Training* text is what the recipe
`text:DIR/NAME/train/*.txt` trains on, as much of each domain. *Held-out* text is that recipe's
validation text: learning rate, difficulties and priors are chosen on it. *Test* text is of the
documents in `DIR/NAME/test`, and only the last tables are made on it. Of unseen domains nothing is
trained on.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.experts_training import MIX
from peer.train.batches import validation_batches
from peer.train.data import Text, load_text

CONTEXT = 128
HELD_OUT_BYTES = 6 * 1024
TEST_BYTES = 16 * 1024
_VALIDATION_FRAC = 0.05


@dataclass(frozen=True)
class Texts:
    """See the module docstring.

    Attributes:
        train: Text by domain, and all of them as `MIX`.
        judged: Windows `[N, CONTEXT + 1]` int64 by `held_out/NAME` and `test/NAME`.
    """

    train: Mapping[str, Text]
    judged: Mapping[str, Tensor]

    def digest(self) -> str:
        """Returns what changes with the text that is trained on."""
        return hashlib.sha256(self.train[MIX].tobytes()).hexdigest()[:8]


def load_texts(folder: Path, domains: Sequence[str], unseen: Sequence[str]) -> Texts:
    """Returns the texts of these domains.

    Raises:
        ConfigError: they are not in that folder, see `benchmarks.corpora`.
    """
    train: dict[str, Text] = {}
    judged: dict[str, Tensor] = {}
    for name in (*domains, *unseen):
        corpus = load_text(f"text:{folder}/{name}/train/*.txt", _VALIDATION_FRAC)
        if name in domains:
            train[name] = corpus.train
        documents = sorted((folder / name / "test").glob("*.txt"))
        test = np.frombuffer(b"\n".join(path.read_bytes() for path in documents), dtype=np.uint8)
        judged[f"held_out/{name}"] = _windows(corpus.validation, HELD_OUT_BYTES)
        judged[f"test/{name}"] = _windows(test, TEST_BYTES)
    shortest = min(map(len, train.values()))
    train = {name: text[:shortest] for name, text in train.items()}
    train[MIX] = np.concatenate(list(train.values()))
    return Texts(train, judged)


def _windows(text: Text, max_bytes: int) -> Tensor:
    return torch.cat(
        list(validation_batches(text, context=CONTEXT, max_tokens=max_bytes, batch=64))
    )
