"""Plays `thinwire` in a run with domains, without a model: it only writes what a peer would write.

Peers 1, 2 and 3 are alone in a domain each at first; peer-4 goes where somebody has fallen silent.
"""

import json
import os
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import TextIO

STEPS = 60
STEPS_PER_S = 60
SILENT_S = 0.5
HOMES = {"peer-1": "python", "peer-2": "manual", "peer-3": "cpp", "peer-4": "cpp"}


def main(words: list[str]) -> None:
    options = dict(pairwise(words))
    match words[0]:
        case "new":
            Path(options["--dir"]).mkdir()
        case "bootstrap":
            (Path(words[1]) / "ticket.txt").write_text("tw1ticket\n")
            signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
            time.sleep(600)
        case "join":
            assert words[1] == "tw1ticket"
            signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
            folder = Path(options["--dir"])
            with (folder / "events.jsonl").open("a", buffering=1) as file:
                Member(folder, file).live()
        case _:
            raise AssertionError(words)


class Member:
    """One peer."""

    def __init__(self, folder: Path, file: TextIO) -> None:
        self.folder, self.file = folder, file
        self.domain = HOMES[folder.name]
        self.final: set[str] = set()

    def live(self) -> None:
        self.train(0)
        while True:
            self.copy()
            time.sleep(1 / STEPS_PER_S)
            orphan = self.orphan() if self.folder.name == "peer-4" else ""
            if orphan and orphan not in self.final:
                self.domain = orphan
                self.train(STEPS // 4)

    def train(self, step: int) -> None:
        self.write("domain_chosen")
        self.write("joined", step=step, round=0)
        while step < STEPS:
            time.sleep(1 / STEPS_PER_S)
            step += 1
            self.write("progress", step=step, loss_bits_per_byte=8 * 0.97**step)
            if step % 5 == 0:
                self.write("landed", round=step // 5, contributed=True)
                self.copy()
            if os.environ.get("FAKE_DIES") == self.folder.name:
                sys.exit(f"{self.folder.name}: out of memory")
        self.final.add(self.domain)
        self.write("domain_done", step=STEPS, round=STEPS // 5)
        self.write("left", step=STEPS)

    def copy(self) -> None:
        for domain in set(HOMES.values()) - self.final - {self.domain}:
            is_final = any(f'"{domain}"' in line for line in self.lines_of_others("domain_done"))
            self.final |= {domain} if is_final else set()
            self.write("domain_copied", of=domain, step=STEPS // 4, round=1, is_final=is_final)

    def orphan(self) -> str:
        """Returns the domain of a peer that has not written for a while."""
        for name, domain in HOMES.items():
            path = self.folder.parent / name / "events.jsonl"
            if path.exists() and time.time() - path.stat().st_mtime > SILENT_S:
                return domain
        return ""

    def lines_of_others(self, event: str) -> list[str]:
        paths = self.folder.parent.glob("peer-*/events.jsonl")
        lines = [line for path in paths for line in path.read_text().splitlines()]
        return [line for line in lines if f'"{event}"' in line]

    def write(self, event: str, **fields: object) -> None:
        common = {"t_unix_s": time.time(), "peer_id": f"id-{self.folder.name}"}
        line = common | {"domain": self.domain, "event": event} | fields
        self.file.write(json.dumps(line) + "\n")


main(sys.argv[1:])
