"""`transformers`, as far as it is trusted: imported when needed, and its complaints in one line."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from protocol.errors import ConfigError

INSTALL = "pip install 'thinwire[hf]'"


def require_library() -> None:
    """Refuse to go on without the packages.

    Raises:
        ConfigError: says what to install.
    """
    # Some models would fetch kernels, which are code, where the package `kernels` is installed.
    os.environ.setdefault("USE_HUB_KERNELS", "NO")
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(f"a model of kind 'huggingface' needs {INSTALL} ({error})") from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@contextmanager
def one_line(where: str) -> Iterator[None]:
    """Turn whatever the library says of a configuration or a folder into one line.

    Raises:
        ConfigError: it said something.
    """
    try:
        yield
    except (ConfigError, MemoryError):
        raise
    except Exception as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{where}: transformers refuses it: {words:.300}") from error
