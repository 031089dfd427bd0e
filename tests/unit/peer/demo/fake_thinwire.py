"""Plays `thinwire` and the lone replica, without a model: it only writes what they would write."""

import json
import os
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path

STEPS_PER_S = 60
ROUND_STEPS = 5


def main(words: list[str]) -> None:
    options = dict(pairwise(words))
    match words[0]:
        case "new":
            if "FAKE_REFUSES" in os.environ:
                sys.exit("thinwire: method: there is no preset 'x'")
            Path(options["--dir"]).mkdir()
        case "bootstrap":
            (Path(words[1]) / "ticket.txt").write_text("tw1ticket\n")
            time.sleep(600)
        case "join":
            assert words[1] == "tw1ticket"
            join(Path(options["--dir"]), int(options["--max-steps"]))
        case "--config":
            alone(int(options["--alone"]))
        case _:
            raise AssertionError(words)


def join(folder: Path, steps: int) -> None:
    name = folder.name
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with (folder / "events.jsonl").open("a", buffering=1) as file:

        def write(event: str, **fields: object) -> None:
            line = {"t_unix_s": time.time(), "peer_id": f"id-{name}", "event": event, **fields}
            file.write(json.dumps(line) + "\n")

        step = steps // 2 if name == "peer-4" else 0
        write("joined", round=step // ROUND_STEPS, step=step, members=[])
        numbers = {"sent_bytes": 1000, "is_counted_by_kernel": True, "waited_s": 0.0}
        try:
            while True:
                time.sleep(1 / STEPS_PER_S)
                step = min(step + 1, steps)
                loss = 8 * 0.97**step
                is_done = step == steps
                write("progress", step=step, loss_bits_per_byte=loss, is_done=is_done, **numbers)
                if step % ROUND_STEPS == 0 and not is_done:
                    key = f"x{step}"
                    write("exchange_begins", exchange_id=key, partners=["id-peer-1"])
                    write("landed", exchange_id=key, contributed=True, round=step // ROUND_STEPS)
                    write("evaluated", round=step // ROUND_STEPS, step=step, bits_per_byte=loss)
                if os.environ.get("FAKE_DIES") == name and step > 3:
                    sys.exit(f"{name}: out of memory")
        except KeyboardInterrupt:
            write("left", step=step, is_done=is_done, **numbers)


def alone(steps: int) -> None:
    for step in range(1, steps + 1):
        time.sleep(0.5 / STEPS_PER_S)
        line = {"kind": "progress", "step": step, "loss_bits_per_byte": 5.0}
        sys.stdout.write(json.dumps(line | {"is_done": step == steps}) + "\n")
        sys.stdout.flush()


main(sys.argv[1:])
