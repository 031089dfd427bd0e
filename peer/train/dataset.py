"""The text of a dataset: some of it held out, the rest streamed without end.

Each peer reads a shuffle of its own. Validation is the first documents of a split of its own
(`validation=`), or those of the training split that the hash of their text chooses; the latter are
left out of training everywhere.
"""

import hashlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator

from peer.train.batches import generator_of
from peer.train.data import MIN_VALIDATION_BYTES, Corpus, Text
from peer.train.dataset_recipe import HUB, DatasetRecipe
from peer.train.documents import Documents
from peer.train.tokens import ByteTokenizer, Tokenizer, joined
from protocol.errors import ConfigError

logger = logging.getLogger(__name__)

VALIDATION_BYTES = 1 << 20
"""So much text is validation, if there is enough."""
MAX_LOOKED_AT_BYTES = 64 << 20
"""In how much of the stream validation is looked for."""

_SKIPPED = 10_000
"""Where a stream has few shards to be shuffled, a peer leaves out up to so many documents at first:
else all would begin with the same ones."""
_BLOCK = 32
_ATTEMPTS = 6
_RETRY_S = 1.0


def streamed_corpus(
    recipe: str,
    validation_frac: float,
    tokenizer: Tokenizer,
    on_progress: Callable[[str], None] = lambda words: None,
) -> Corpus:
    """Return a dataset's text, of which what is trained on is still to be streamed.

    Args:
        recipe: As in `peer.train.dataset_recipe`.
        validation_frac: The part of the documents that is held out, without a split for it.
        tokenizer: Whose tokens.
        on_progress: Called with what is being done, in a few words.

    Raises:
        ConfigError: there is no such dataset, column or split, or it has too little text.
    """
    found = DatasetRecipe.parse(recipe)
    on_progress(f"reading {found.place}")
    held_out = _held_out(found, validation_frac)
    validation, widths = joined(tokenizer, held_out)
    num_bytes = sum(map(_num_bytes, held_out))
    words = f"{found.split} of {found.place}" if found.kind == HUB else found.place
    return Corpus(
        validation[:0],
        validation,
        f"{words}, streamed, {num_bytes / 1e6:.1f} MB of it to validate",
        widths=None if isinstance(tokenizer, ByteTokenizer) else widths,
        stream=lambda owner: _blocks(found, owner, tokenizer, validation_frac),
    )


def _held_out(recipe: DatasetRecipe, frac: float) -> list[str]:
    """Return the documents to validate by, at least one."""
    texts, taken, seen = [], 0, 0
    for text in Documents(recipe, recipe.validation or recipe.split):
        seen += _num_bytes(text)
        if recipe.validation or _is_held_out(text, frac):
            texts.append(text)
            taken += _num_bytes(text)
        if taken >= VALIDATION_BYTES or seen >= MAX_LOOKED_AT_BYTES:
            break
    if seen == 0:
        raise ConfigError(f"data.recipe {recipe.recipe!r}: there is no text in {recipe.column!r}")
    if taken < MIN_VALIDATION_BYTES:
        raise ConfigError(
            f"data.recipe {recipe.recipe!r} has {taken} bytes of validation text, of at least "
            f"{MIN_VALIDATION_BYTES}; name a split for it (validation=NAME), or let "
            "data.validation_frac be larger"
        )
    return texts


def _blocks(
    recipe: DatasetRecipe, owner: str, tokenizer: Tokenizer, frac: float
) -> Generator[Text]:
    """Yield tokens without end, epoch after epoch; a link that fails is tried again."""
    failures = 0
    for epoch in itertools.count():
        has_any = False
        try:
            texts = _epoch(recipe, f"{owner}\0{epoch}", is_first=epoch == 0)
            kept = (t for t in texts if recipe.validation or not _is_held_out(t, frac))
            while block := list(itertools.islice(kept, _BLOCK)):
                for tokens in tokenizer.encode(block):
                    yield tokens
                    yield tokenizer.between
                has_any, failures = True, 0
        except ConfigError as error:
            if not threading.main_thread().is_alive():
                return  # at the end of the process the library breaks, and nobody listens
            failures += 1
            if failures >= _ATTEMPTS:
                raise
            logger.warning("%s; trying again", error)
            time.sleep(_RETRY_S * 2**failures)
        else:
            if not has_any and epoch > 0:  # the first may have left everything out
                raise ConfigError(f"data.recipe {recipe.recipe!r} has no text to train on")


def _epoch(recipe: DatasetRecipe, name: str, *, is_first: bool) -> Iterator[str]:
    rng = generator_of(name)
    seed, skipped = int(rng.integers(0, 1 << 32)), int(rng.integers(0, _SKIPPED))
    documents = Documents(recipe, recipe.split).shuffled(seed)
    is_spread = is_first and documents.has_few_shards
    return itertools.islice(documents, skipped if is_spread else 0, None)


def _num_bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _is_held_out(text: str, frac: float) -> bool:
    digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8]) < frac * 2**64
