"""The beginning of a peer's life: its name, and that it comes after every life before it.

An identity is a file, and files can be copied: two processes may run with one identity, on two
machines or because one was frozen while it was replaced. Of two lives the later one stays. Wall
clocks may be wrong by minutes, so a life begins at least a second after those that are known to
have begun before it: the last one in this folder, and any whose card is found on entering.
"""

import json
import math
import os
import secrets
from pathlib import Path

from protocol.card import LIFE_BYTES, Card
from protocol.errors import ConfigError

BIRTH = "birth.json"
_STEP_S = 1.0


class Birth:
    """See the module docstring.

    Args:
        life: `LIFE_BYTES` bytes as hexadecimal digits, drawn anew at each start.
        began_unix_s: When it began, as far as our clock is right.
        path: Where the next life finds it; None: nowhere.
    """

    def __init__(self, life: str, began_unix_s: float, path: Path | None = None) -> None:
        self.life = life
        self.began_unix_s = began_unix_s
        self._path = path

    @classmethod
    def after_last(cls, folder: Path, *, now_unix_s: float) -> "Birth":
        """Returns a new life that begins now, but after the last one in a peer's folder.

        Raises:
            ConfigError: it cannot be noted there.
        """
        path = folder / BIRTH
        began_unix_s = max(now_unix_s, _began(path) + _STEP_S)
        birth = cls(secrets.token_hex(LIFE_BYTES), began_unix_s, path)
        birth._write()
        return birth

    def follow(self, former: Card) -> None:
        """Begins after a life whose card was found.

        Raises:
            ConfigError: it cannot be noted.
        """
        if former.life != self.life and former.began_unix_s + _STEP_S > self.began_unix_s:
            self.began_unix_s = former.began_unix_s + _STEP_S
            self._write()

    def gives_way_to(self, card: Card) -> bool:
        """Whether this card is that of another life of ours, which began later and has not left.

        Of two that began at once the larger name decides, so that both know which one stays.
        """
        theirs, ours = (card.began_unix_s, card.life), (self.began_unix_s, self.life)
        return card.life != self.life and card.role != "left" and theirs > ours

    def _write(self) -> None:
        if self._path is None:
            return
        temporary = self._path.with_name(f".{BIRTH}-{os.getpid()}")
        try:
            fields = {"life": self.life, "began_unix_s": self.began_unix_s}
            temporary.write_text(json.dumps(fields) + "\n")
            temporary.rename(self._path)
        except OSError as error:
            raise ConfigError(f"cannot write {self._path}: {error.strerror}") from error


def _began(path: Path) -> float:
    """Returns when the life began that is noted there; 0 if there is none that makes sense."""
    try:
        began_unix_s = float(json.loads(path.read_bytes())["began_unix_s"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0
    return began_unix_s if math.isfinite(began_unix_s) else 0.0
