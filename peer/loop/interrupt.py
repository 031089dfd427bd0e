"""Ctrl+C in a group of ranks: all of them leave together, after the step that they are making.

torchrun sends the signal to every rank, wherever that is; raised there, it would leave no two ranks
in the same collective, and no checkpoint could be written. So it is held until rank 0 hears of it
(`peer.loop.sharded.ShardedLearner.count`). A second one is raised at once.
"""

import signal
import threading
from types import FrameType


class Interrupt:
    """Holds SIGINT, unless somebody else handles it already.

    Attributes:
        has_come: It came since `hold`.
    """

    def __init__(self) -> None:
        self.has_come = False
        self._is_held = False

    def hold(self) -> None:
        """Keep the next SIGINT; does nothing outside of the main thread, or a second time."""
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._on_signal)
            self._is_held = True

    def release(self) -> None:
        """Let SIGINT raise KeyboardInterrupt again where it comes."""
        if self._is_held:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._is_held = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.has_come = True
        self.release()
