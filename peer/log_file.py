"""A log on a disk that may be full: then it has gaps, and nobody's screen is covered with that."""

import logging
import sys


class LogFile(logging.FileHandler):
    """A `logging.FileHandler` that keeps quiet about what the disk does not take."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Called by logging while it handles what `emit` raised."""
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)
