"""`thinwire`, as it is but for one thing: its trainers rest after each step.

A test has more peers than its machine has cores, and trainers at full speed, of which each takes
whatever it gets, would only keep the next peer from starting: that takes seconds of a core.
"""

import subprocess
from typing import Any

from thinwire.__main__ import main

WORKER, RESTING_WORKER = "peer.train.worker", "tests.net.resting_worker"


class Popen(subprocess.Popen[Any]):
    """Starts the resting trainer where the other one is asked for."""

    def __init__(self, command: Any, *args: Any, **settings: Any) -> None:
        words = [RESTING_WORKER if word == WORKER else word for word in command]
        super().__init__(words, *args, **settings)


if __name__ == "__main__":
    subprocess.Popen = Popen  # type: ignore[misc]
    main()
