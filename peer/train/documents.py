"""Documents of a dataset, one after the other, as the library `datasets` streams them.

Only data is read: loading scripts are never run, and neither a token nor a folder or file of this
machine is used for a name on the hub, so a stranger's manifest reaches public text alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peer.train.dataset_recipe import HUB, DatasetRecipe
from peer.train.library import INSTALL
from peer.train.recipes import files_of
from protocol.errors import ConfigError

MAX_DOCUMENT_CHARS = 4 << 20
"""What is longer is cut."""

_FORMATS = ("arrow", "csv", "json", "parquet", "text")
"""Of datasets on the hub."""
_SHUFFLED = 1000
"""Documents among which a stream is shuffled."""
_FEW_SHARDS = 16


class Documents:
    """One split of a dataset, in its own order or shuffled.

    Args:
        recipe: The dataset.
        split: Which part of it.

    Raises:
        ConfigError: it is not to be had here, or must not be read.
    """

    def __init__(self, recipe: DatasetRecipe, split: str) -> None:
        self._recipe = recipe
        try:
            import datasets
        except ImportError as error:
            raise ConfigError(f"data.recipe {recipe.recipe!r} needs {INSTALL} ({error})") from None
        with _one_line(recipe):
            if recipe.kind == HUB:
                self._stream = _from_hub(datasets, recipe, split)
            else:
                self._stream = _from_files(datasets, recipe)

    @property
    def has_few_shards(self) -> bool:
        """Whether those who shuffle would begin with much the same documents."""
        return bool(self._stream.num_shards < _FEW_SHARDS)

    def shuffled(self, seed: int) -> "Documents":
        """Return the same documents in another order, shards first and then among some near ones.

        Raises:
            ConfigError: the dataset is not to be had any more.
        """
        with _one_line(self._recipe):
            if self.has_few_shards and hasattr(self._stream, "reshard"):
                self._stream = self._stream.reshard()
            self._stream = self._stream.shuffle(seed=seed, buffer_size=_SHUFFLED)
        return self

    def __iter__(self) -> Iterator[str]:
        """Yield what is text, and not empty.

        Raises:
            ConfigError: there is no such column, or the link failed.
        """
        recipe = self._recipe
        with _one_line(recipe):
            for row in self._stream:
                if recipe.column not in row:
                    raise ConfigError(
                        f"data.recipe {recipe.recipe!r}: there is no column {recipe.column!r}; "
                        f"there is {', '.join(map(str, row))[:200]}; add ?column=NAME"
                    )
                text = row[recipe.column]
                if isinstance(text, str) and text:
                    yield text[:MAX_DOCUMENT_CHARS]


def _from_files(datasets: Any, recipe: DatasetRecipe) -> Any:
    try:
        paths = [str(path) for _, path in files_of(f"text:{recipe.place}")[0]]
    except ConfigError as error:
        raise ConfigError(f"data.recipe {recipe.recipe!r}: read as files, {error}") from None
    # A line is no document, and a file may be too large for one.
    options = {"sample_by": "paragraph"} if recipe.kind == "text" else {}
    builder = datasets.load_dataset_builder(recipe.kind, data_files=paths, **options)
    return builder.as_streaming_dataset(split="train")


def _from_hub(datasets: Any, recipe: DatasetRecipe, split: str) -> Any:
    if Path(recipe.place).exists():
        raise ConfigError(
            f"data.recipe {recipe.recipe!r}: there is a {recipe.place} in this folder, which "
            "would be taken for it; start from another folder"
        )
    builder = datasets.load_dataset_builder(
        recipe.place, recipe.config or None, revision=recipe.revision or None, token=False
    )
    _require_own_text(recipe, builder)
    # A row may name pictures to be decoded, anywhere.
    return builder.as_streaming_dataset(split=split).decode(False)


def _require_own_text(recipe: DatasetRecipe, builder: Any) -> None:
    """Refuse a dataset whose description leads to other places, such as files here."""
    *_, package, form, _ = ("", "", "", *type(builder).__module__.split("."))
    if package != "packaged_modules" or form not in _FORMATS:
        raise ConfigError(
            f"data.recipe {recipe.recipe!r} is no text in the formats {', '.join(_FORMATS)}"
        )
    for file in (f for files in (builder.config.data_files or {}).values() for f in files):
        if not str(file).rpartition("::")[2].startswith("hf://datasets/"):
            raise ConfigError(
                f"data.recipe {recipe.recipe!r} names a file that is not its own: {file!s:.100}"
            )


@contextmanager
def _one_line(recipe: DatasetRecipe) -> Iterator[None]:
    try:
        yield
    except (ConfigError, GeneratorExit):
        raise
    except StopIteration:  # of the library, which takes the format from the first row
        raise ConfigError(f"data.recipe {recipe.recipe!r}: there is nothing in it") from None
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(f"data.recipe {recipe.recipe!r} cannot be read: {words:.300}") from error
