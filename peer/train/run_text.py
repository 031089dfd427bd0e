"""The text of a run, in its tokens."""

from collections.abc import Callable
from pathlib import Path

from peer.train.data import Corpus, load_text
from peer.train.dataset import streamed_corpus
from peer.train.recipes import DATASET
from peer.train.tokens import tokenized, tokenizer_of
from protocol.errors import ConfigError
from protocol.manifest import Manifest


def text_of_run(
    manifest: Manifest,
    files: Path | None = None,
    on_progress: Callable[[str], None] = lambda words: None,
) -> Corpus:
    """Return what a run trains on and is judged by.

    Args:
        manifest: The run.
        files: The folder of the run's files.
        on_progress: Called with what is being done, in a few words.

    Raises:
        ConfigError: the text or the tokenizer is not here, or not what the manifest says.
    """
    spec = manifest.data
    is_streamed = spec.recipe.startswith(DATASET)
    if spec.tokenizer == "bytes" and not is_streamed:
        return load_text(spec.recipe, spec.validation_frac)
    tokenizer = tokenizer_of(spec.tokenizer, files)
    if spec.vocab_size and tokenizer.vocab_size != spec.vocab_size:
        raise ConfigError(
            f"{spec.tokenizer} has {tokenizer.vocab_size} tokens, and data.vocab_size is "
            f"{spec.vocab_size}"
        )
    if is_streamed:
        return streamed_corpus(spec.recipe, spec.validation_frac, tokenizer, on_progress)
    return tokenized(load_text(spec.recipe, spec.validation_frac), tokenizer, on_progress)
