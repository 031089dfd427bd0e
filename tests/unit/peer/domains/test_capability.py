from pathlib import Path

import pytest
import torch

from peer.domains import capability
from peer.domains.capability import flops_per_s, free_memory_bytes
from protocol.card import MAX_FLOPS_PER_S, MAX_MEMORY_BYTES, Card, parse_card


def test_what_this_machine_says_of_itself_fits_on_its_card() -> None:
    memory_bytes, speed = free_memory_bytes(), flops_per_s(torch.device("cpu"))
    assert 0 <= memory_bytes < MAX_MEMORY_BYTES
    assert 0 < speed < MAX_FLOPS_PER_S
    card = Card(wire_addresses=(), memory_bytes=memory_bytes, flops_per_s=speed)
    assert parse_card(card.to_bytes()) == card


@pytest.mark.parametrize(("limit", "is_less"), [("123456789\n", True), ("max\n", False)])
def test_a_container_has_no_more_than_its_limit(
    limit: str, is_less: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text(limit)
    monkeypatch.setattr(capability, "_CGROUP", tmp_path / "memory.max")
    assert (free_memory_bytes() == 123456789) == is_less
    assert free_memory_bytes() > 0


def test_a_machine_that_tells_nothing_has_unknown_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: object) -> str:
        raise OSError("not here")

    monkeypatch.setattr(Path, "read_text", nothing)
    assert free_memory_bytes() > 0, "all of it, at least"
    monkeypatch.setattr("os.sysconf", nothing)
    assert free_memory_bytes() == 0
