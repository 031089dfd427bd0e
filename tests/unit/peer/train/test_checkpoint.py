import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from peer.train.checkpoint import (
    INNER,
    OUTER,
    Checkpoint,
    CheckpointInfo,
    Unusable,
    commit,
    committed,
    discard,
    latest,
    open_checkpoint,
    stage,
)
from peer.train.tensor_file import write_tensors
from protocol.errors import ConfigError
from protocol.identity import Identity

US, THEM = Identity(b"u" * 32), Identity(b"t" * 32)


def info(step: int = 3, **changes: Any) -> CheckpointInfo:
    fields = {"run_id": "run", "peer_id": US.peer_id, "step": step, "tokens": 9, "rounds": (2, 1)}
    return CheckpointInfo(**(fields | changes))


def save(
    directory: Path, step: int = 3, *, by: Identity = US, keep: int = 2, **changes: Any
) -> Path:
    staged = stage(directory, step)
    try:
        files = {
            INNER: write_tensors(staged / INNER, {"theta": torch.arange(100.0)}),
            OUTER: write_tensors(staged / OUTER, {"anchor.0": torch.full((4,), float(step))}),
        }
    except ConfigError:
        discard(staged)
        raise
    facts = info(step, peer_id=by.peer_id, **changes)
    return commit(staged, facts, files, identity=by, keep=keep)


def reopen(path: Path) -> Checkpoint:
    return open_checkpoint(path, run_id="run", peer_id=US.peer_id)


def steps_in(directory: Path) -> list[int]:
    return [int(path.name.split("-")[1]) for path in committed(directory)]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = save(tmp_path / "not yet there", step=120)
    assert path.name == "step-00000120-000001"
    assert latest(path.parent) == path
    found = reopen(path)
    assert found.info == info(120)
    assert torch.equal(found.inner()["theta"], torch.arange(100.0))
    assert torch.equal(found.outer()["anchor.0"], torch.full((4,), 120.0))
    assert sorted(os.listdir(path)) == ["checkpoint.json", "checkpoint.sig", INNER, OUTER]


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_the_last_ones_are_kept_and_stale_folders_go(tmp_path: Path, keep: int) -> None:
    stale = stage(tmp_path, 1)
    (stale / "half").write_text("")
    (tmp_path / "notes.txt").write_text("not ours")
    for step in (5, 10, 100_000_000, 100_000_001, 100_000_002):
        save(tmp_path, step, keep=keep)
    assert steps_in(tmp_path) == [5, 10, 100_000_000, 100_000_001, 100_000_002][-keep:]
    assert len(os.listdir(tmp_path)) == keep + 1
    assert latest(tmp_path).name.startswith("step-100000002-")


def test_the_newest_counts_and_not_the_one_with_most_steps(tmp_path: Path) -> None:
    for step in (500, 510, 20, 30):  # a peer that had to go back
        save(tmp_path, step)
    assert steps_in(tmp_path) == [20, 30]


def test_damaged_ones_do_not_count_among_those_that_are_kept(tmp_path: Path) -> None:
    good = save(tmp_path, 1)
    for step, name in ((2, OUTER), (3, "checkpoint.json"), (4, "checkpoint.sig")):
        path = save(tmp_path, step, keep=9)
        (path / name).write_bytes(b"damaged")
    newest = save(tmp_path, 5)
    assert steps_in(tmp_path) == [1, 2, 3, 4, 5]
    assert reopen(good)
    assert reopen(newest)
    save(tmp_path, 6)
    assert steps_in(tmp_path) == [5, 6]


def test_those_that_somebody_knows_to_be_damaged_do_not_count_either(tmp_path: Path) -> None:
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    staged = stage(tmp_path, 3)
    commit(staged, info(3), {}, identity=US, keep=1, unusable={bad})
    assert steps_in(tmp_path) == [3]
    staged = stage(tmp_path, 4)
    commit(staged, info(4), {}, identity=US, keep=2, unusable={latest(tmp_path)})
    assert steps_in(tmp_path) == [3, 4]
    assert not good.exists()


def test_there_is_none_at_first(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    assert latest(tmp_path / "nowhere") is None


def test_the_same_step_again_is_a_newer_one(tmp_path: Path) -> None:
    save(tmp_path, tokens=1)
    path = save(tmp_path, tokens=2)
    assert latest(tmp_path) == path
    assert reopen(path).info.tokens == 2


@pytest.mark.parametrize("name", [INNER, OUTER])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    path = save(tmp_path)
    whole = (path / name).read_bytes()
    (path / name).write_bytes(whole[:-1])
    with pytest.raises(Unusable, match=rf"{name} has {len(whole) - 1} bytes"):
        reopen(path)
    (path / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(Unusable, match=rf"{name} is damaged"):
        reopen(path)
    (path / name).unlink()
    with pytest.raises(Unusable, match=rf"{name} is missing"):
        reopen(path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": 2}', '{"version": 2, "info": 1}', "\xff"]
)
def test_a_damaged_description_is_named(tmp_path: Path, text: str) -> None:
    path = save(tmp_path)
    (path / "checkpoint.json").write_bytes(text.encode("latin1"))
    with pytest.raises(Unusable, match=r"checkpoint\.json is damaged"):
        reopen(path)
    (path / "checkpoint.json").unlink()
    with pytest.raises(Unusable, match=r"checkpoint\.json is missing"):
        reopen(path)


def test_whatever_byte_of_the_description_is_altered_it_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, digests=("ab" * 32, "cd" * 32), lineages=("01", ""))
    for name in ("checkpoint.json", "checkpoint.sig"):
        data = (path / name).read_bytes()
        for place in range(len(data)):
            (path / name).write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            with pytest.raises(Unusable):
                reopen(path)
        (path / name).write_bytes(data)
    assert reopen(path).info.digests == ("ab" * 32, "cd" * 32)


def test_an_altered_checkpoint_cannot_be_passed_off_by_another_key(tmp_path: Path) -> None:
    path = save(tmp_path)
    text = (path / "checkpoint.json").read_text().replace('"tokens": 9', '"tokens": 8')
    (path / "checkpoint.json").write_text(text)
    (path / "checkpoint.sig").write_bytes(THEM.sign(b"thinwire checkpoint\0" + text.encode()))
    with pytest.raises(Unusable, match="altered"):
        reopen(path)


def test_a_half_without_its_other_half_is_refused(tmp_path: Path) -> None:
    staged = stage(tmp_path, 1)
    files = {INNER: write_tensors(staged / INNER, {"theta": torch.zeros(1)})}
    with pytest.raises(Unusable, match=f"does not list {OUTER}"):
        reopen(commit(staged, info(1), files, identity=US))


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"run_id": "other"}, "of run other, not of run"), ({"by": THEM}, f"not of {US.peer_id}")],
    ids=["run", "identity"],
)
def test_somebody_elses_checkpoint_is_refused(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    path = save(tmp_path, **changes)
    with pytest.raises(ConfigError, match=says) as caught:
        reopen(path)
    assert not isinstance(caught.value, Unusable)


@pytest.mark.parametrize("version", [1, 3])
def test_another_version_is_passed_over(tmp_path: Path, version: int) -> None:
    path = save(tmp_path)
    stored = json.loads((path / "checkpoint.json").read_text())
    (path / "checkpoint.json").write_text(json.dumps(stored | {"version": version}))
    with pytest.raises(Unusable, match=f"version {version}, this thinwire reads 2"):
        reopen(path)


@pytest.mark.parametrize("name", ["mkdir", "open", "write", "fsync", "rename"])
@pytest.mark.parametrize("after", range(12))
def test_a_full_disk_leaves_the_older_checkpoints_untouched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, after: int
) -> None:
    paths = [save(tmp_path, 2), save(tmp_path, 3)]
    call, calls = getattr(os, name), iter(range(1000))

    def full(*arguments: Any, **options: Any) -> Any:
        if next(calls) < after:
            return call(*arguments, **options)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, name, full)
        try:
            made = save(tmp_path, 4)
        except ConfigError as error:
            assert "No space left on device" in str(error)  # noqa: PT017
            assert "free some disk space; what was there is untouched" in str(error)  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
            assert [path for path in committed(tmp_path) if path in paths] == paths
        else:  # all there was to do was done before
            assert reopen(made).info.step == 4
    assert all(reopen(path) for path in committed(tmp_path))
    if name != "open":  # which removing a folder needs, too
        assert not list(tmp_path.glob("partial-*"))
    save(tmp_path, 5)
    assert steps_in(tmp_path)[-1] == 5
    assert not list(tmp_path.glob("partial-*"))
