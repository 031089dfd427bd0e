from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from bootstrap.found_model import found
from peer.run_folder import MANIFEST
from protocol.manifest import Manifest, parse_manifest


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def a_model(seed: int = 0, width: int = 6) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 1))


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("founded") / "run"
    schedule = {"interval_steps": 4, "fragments": 2, "overlap_steps": 0}
    return found(a_model(), folder, method={"preset": "diloco", "schedule": schedule})


@pytest.fixture
def manifest(run_folder: Path) -> Manifest:
    return parse_manifest((run_folder / MANIFEST).read_bytes())
