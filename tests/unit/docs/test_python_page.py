"""The code on the Python page runs as it stands. What needs ranks runs in tests/net."""

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[3] / "docs" / "python.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
ALONE = [block for block in BLOCKS if "init_process_group" not in block]


def test_the_blocks_are_found() -> None:
    assert len(BLOCKS) == 4
    assert len(ALONE) == 3
    assert PAGE.read_text().count("```") == 2 * len(BLOCKS)


@pytest.mark.parametrize("block", ALONE, ids=["swarm", "pieces", "experts"])
def test_a_block_runs_as_it_stands(block: str) -> None:
    with torch.random.fork_rng():
        exec(compile(block, str(PAGE), "exec"), {})
