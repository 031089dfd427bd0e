"""How large a run's models are."""

import logging
import math

from peer.train.model import num_parameters, shapes_of_run
from protocol.errors import ConfigError
from protocol.manifest import Manifest

logger = logging.getLogger(__name__)

_BYTES = 256
"""The vocabulary of domains."""


def count_parameters(manifest: Manifest) -> int:
    """Returns the number of parameters of all models of a run; 0 if that cannot be said here.

    It may take seconds, since another library builds some models.
    """
    if manifest.domains:
        return sum(num_parameters(domain.model, _BYTES) for domain in manifest.domains)
    try:
        return sum(math.prod(shape) for shape in shapes_of_run(manifest).values())
    except ConfigError as error:  # a library that only those who train need
        logger.debug("how large the model is cannot be said here: %s", error)
        return 0
