import contextlib
import errno
import math
import os
import resource
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from peer.train import tensor_file
from peer.train.tensor_file import TensorFile, read_tensors, require_room, write_tensors
from protocol.errors import ConfigError

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8)
shapes = st.lists(st.integers(0, 4), max_size=3)
TENSORS = {"a": torch.arange(3000.0), "b": torch.ones(2, 5), "c": torch.tensor(7)}


def filled(dtype: torch.dtype, shape: list[int]) -> Tensor:
    return torch.arange(math.prod(shape)).reshape(shape).to(dtype)


@given(outlines=st.lists(st.tuples(st.sampled_from(DTYPES), shapes), max_size=6))
def test_the_library_reads_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, outlines: list[tuple[torch.dtype, list[int]]]
) -> None:
    path = tmp_path_factory.mktemp("file") / "x.safetensors"
    tensors = {f"{n}.ü": filled(*outline) for n, outline in enumerate(outlines)}
    written = write_tensors(path, tensors)
    for found in (load_file(path), read_tensors(path)):
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(found[name], tensor)
    data = path.read_bytes()
    assert (written.num_bytes, written.digest) == (len(data), blake3(data).hexdigest())


def test_a_view_is_written_as_it_looks(tmp_path: Path) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    views = {"transposed": whole.t(), "column": whole[:, 2], "part": whole[1:3]}
    write_tensors(tmp_path / "x", views)
    assert all(torch.equal(load_file(tmp_path / "x")[name], views[name]) for name in views)


def test_no_tensor_is_held_once_it_is_written(tmp_path: Path) -> None:
    alive: list[weakref.ref[Tensor]] = []

    def one_after_the_other() -> Iterator[Tensor]:
        for n in range(6):
            assert sum(ref() is not None for ref in alive) <= 1
            tensor = torch.full((1000,), float(n))
            alive.append(weakref.ref(tensor))
            yield tensor
            del tensor

    like = {str(n): torch.empty(1000) for n in range(6)}
    TensorFile(tmp_path / "x", like).write(one_after_the_other())
    assert [float(load_file(tmp_path / "x")[str(n)][0]) for n in range(6)] == list(range(6))


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_what_was_read_does_not_hang_on_the_file(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x", TENSORS)
    tensors = read_tensors(tmp_path / "x")
    assert str(tmp_path / "x") not in Path("/proc/self/maps").read_text()
    os.truncate(tmp_path / "x", 0)
    assert torch.equal(tensors["a"], TENSORS["a"])


@pytest.mark.parametrize(
    "tensors",
    [[torch.zeros(3)], [torch.zeros(2), torch.zeros(4)], [torch.zeros(3), torch.ones(4).long()]],
    ids=["too few", "another shape", "another type"],
)
def test_other_tensors_than_promised_are_our_mistake(tmp_path: Path, tensors: list[Tensor]) -> None:
    file = TensorFile(tmp_path / "x", {"a": torch.zeros(3), "b": torch.zeros(4)})
    with pytest.raises(ValueError, match=r"promised|lacks"):
        file.write(tensors)
    assert os.listdir(tmp_path) == []


os_close = os.close


def failing(call: Callable[..., Any], after: int, code: int = errno.ENOSPC) -> Callable[..., Any]:
    """Returns `call`, which works so many times."""
    calls = iter(range(sys.maxsize))

    def limited(*arguments: Any) -> Any:
        if next(calls) >= after:
            if call is os_close:  # which lets go of the file even then
                call(*arguments)
            raise OSError(code, os.strerror(code))
        return call(*arguments)

    return limited


def open_below(folder: Path) -> list[str]:
    """Returns the files in a folder, deleted ones too, that this process has open (Linux)."""
    found = []
    for number in os.listdir("/proc/self/fd") if sys.platform == "linux" else ():
        with contextlib.suppress(FileNotFoundError):  # other threads open and close theirs
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return [path for path in found if path.startswith(str(folder))]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_is_left_open_would_be_noticed(tmp_path: Path) -> None:
    with (tmp_path / "x").open("w"):
        (tmp_path / "x").unlink()
        assert len(open_below(tmp_path)) == 1


@pytest.mark.parametrize(
    ("name", "after"),
    [("open", 0), ("posix_fallocate", 0), ("write", 0), ("write", 2), ("fsync", 0), ("close", 0)],
)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_failed_write_leaves_no_file_and_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, after: int, code: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, name, failing(getattr(os, name), after, code))
        with pytest.raises(ConfigError, match=r"cannot write to .*free some disk space") as caught:
            write_tensors(tmp_path / "x", TENSORS)
    assert os.strerror(code) in str(caught.value)
    assert os.listdir(tmp_path) == []
    assert open_below(tmp_path) == []
    write_tensors(tmp_path / "x", TENSORS)
    assert read_tensors(tmp_path / "x").keys() == TENSORS.keys()


@pytest.mark.parametrize("can_reserve", [True, False])
def test_a_limit_of_the_system_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_reserve: bool
) -> None:
    if not can_reserve:
        monkeypatch.delattr(os, "posix_fallocate")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(ConfigError, match="File too large"):
            write_tensors(tmp_path / "x", TENSORS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


def test_a_disk_that_takes_a_little_at_a_time_gets_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:777]))
    monkeypatch.setattr(tensor_file, "_CHUNK_BYTES", 1500)
    monkeypatch.setattr(tensor_file, "_SYNC_BYTES", 4000)
    write_tensors(tmp_path / "x", TENSORS)
    assert torch.equal(load_file(tmp_path / "x")["a"], TENSORS["a"])


def a_disk(free_bytes: int, total_bytes: int) -> os.statvfs_result:
    block = 1000
    blocks, free = total_bytes // block, free_bytes // block
    return os.statvfs_result((block, block, blocks, free, free, 0, 0, 0, 0, 255))


@pytest.mark.parametrize(
    ("free_bytes", "total_bytes", "is_enough"),
    [
        (10**9, 10**12, True),
        (500_000_000 + (64 << 20) - 1000, 10**12, False),  # the last 64 MiB are for others
        (500_000_000 + (64 << 20) + 1000, 10**12, True),
        (520_000_000, 600_000_000, False),  # of a small disk, a twentieth
        (531_000_000, 600_000_000, True),
    ],
)
def test_a_disk_is_not_filled_to_the_brim(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    free_bytes: int,
    total_bytes: int,
    is_enough: bool,
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: a_disk(free_bytes, total_bytes))
    if is_enough:
        require_room(tmp_path, 500_000_000)
    else:
        with pytest.raises(ConfigError, match=r"No space left.*needs 500\.0 MB.*are free"):
            require_room(tmp_path, 500_000_000)


def test_without_room_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_text("what was there")
    monkeypatch.setattr(os, "statvfs", lambda _: a_disk(10_000, 10**9))
    with pytest.raises(ConfigError, match="No space left"):
        write_tensors(tmp_path / "x", TENSORS)
    assert (tmp_path / "x").read_text() == "what was there"


def test_a_damaged_file_cannot_be_read(tmp_path: Path) -> None:
    for data in (b"", b"\0" * 100, b"\xff" * 100):
        (tmp_path / "x").write_bytes(data)
        with pytest.raises(ConfigError, match="cannot read"):
            read_tensors(tmp_path / "x")
    with pytest.raises(ConfigError, match="cannot read"):
        read_tensors(tmp_path / "nowhere")
