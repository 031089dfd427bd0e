"""Three real ranks over Gloo: what they agree on, and that it is what one process computes.

The ranks are started once, as `python test_collective.py RANK FOLDER`; each goes through all cases
and leaves its results behind. The tests compare them.
"""

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.distributed as dist
from torch import nn

from optim.method import Method, method_named
from optim.swarm import LocalSwarm
from peer.collective import CollectiveOuter

pytestmark = pytest.mark.net

ROOT = Path(__file__).parents[2]
RANKS = 3
SUBGROUP = (1, 2)
STEPS = 25
SEED = 5
WEIGHTS = [1.0, 2.0, 4.0]
TIME_LIMIT_S = 60
THREE = {"fragments": 3, "separate_embeddings": False}
METHODS = {
    "diloco": method_named("diloco", schedule={"interval_steps": 4}),
    "eager": method_named("eager", schedule={"interval_steps": 5, "overlap_steps": 5}),
    "streaming": method_named(
        "streaming", schedule={"interval_steps": 6, **THREE}, codec={"name": "int4"}
    ),
    "noloco": method_named(
        "noloco", schedule={"interval_steps": 4, "overlap_steps": 1}, codec={"name": "mod4"}
    ),
    "gossip-stream": method_named("gossip-stream", schedule={"interval_steps": 6, **THREE}),
    "groups": method_named(
        "noloco", mixing="groups", group_size=3, schedule={"interval_steps": 4, "overlap_steps": 1}
    ),
    "sparseloco": method_named(
        "sparseloco", schedule={"interval_steps": 5}, codec={"feedback": 1.0}
    ),
}
EXACT = ("diloco", "eager", "noloco", "gossip-stream", "groups")
ONE_ANCHOR = ("diloco", "eager", "streaming", "sparseloco")

Results = list[dict[str, npt.NDArray[Any]]]


def _model(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(30, 40), nn.Linear(40, 50), nn.Linear(50, 30))


def _flat(model: nn.Module) -> npt.NDArray[Any]:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).numpy()


def _wish(rank: int, param: nn.Parameter) -> torch.Tensor:
    return torch.randn(param.shape, generator=torch.Generator().manual_seed(rank)) * 0.1


@torch.no_grad()
def _pull(model: nn.Module, rank: int) -> None:
    # An inner step: every rank has a place of its own where it would like to be.
    for param in model.parameters():
        param.lerp_(_wish(rank, param), 0.03)


@torch.no_grad()
def _push(model: nn.Module, rank: int) -> None:
    # An inner step that does not depend on where the parameters are.
    for param in model.parameters():
        param.add_(_wish(rank, param), alpha=0.03)


# ---- one rank, as a process of its own


def _trained(
    method: Method, rank: int, group: dist.ProcessGroup | None = None
) -> tuple[CollectiveOuter, nn.Module]:
    model = _model()
    outer = CollectiveOuter(model, method, seed=SEED, weight=WEIGHTS[rank], group=group)
    for _ in range(STEPS):
        _pull(model, rank)
        outer.step()
    outer.finish()
    return outer, model


def _feeding_back(rank: int) -> dict[str, Any]:
    model = _model()
    outer = CollectiveOuter(model, METHODS["sparseloco"])
    for _ in range(STEPS):
        _push(model, rank)
        outer.step()
    (copy,) = outer._live.copies
    return {"feedback/anchor": outer.anchor().numpy(), "feedback/residual": copy.own["residual"]}


def _refusal(rank: int, **differing: Any) -> str:
    arguments: dict[str, Any] = {"model": _model(), "method": METHODS["diloco"], **differing}
    try:
        CollectiveOuter(**arguments)
    except ValueError as refusal:
        return str(refusal)
    return "accepted"


def _leaves_alone(name: str, method: Method, rank: int, store: dist.Store) -> bool:
    """Whether rank 0 gets past its departure while the others have yet to come to theirs."""
    model = _model()
    outer = CollectiveOuter(model, method)
    outer.step()
    if rank == 0:
        outer.step()
        store.set(name, "rank 0 has departed")
        is_alone = True
    else:
        try:
            store.wait([name], timedelta(seconds=20))
            is_alone = True
        except RuntimeError:  # nothing came in time
            is_alone = False
        outer.step()
    outer.step()
    return is_alone


def _rank_main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), RANKS)
    limit = timedelta(seconds=TIME_LIMIT_S)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS, timeout=limit)
    results: dict[str, Any] = {}
    for name, method in METHODS.items():
        outer, model = _trained(method, rank)
        results[f"{name}/anchor"] = outer.anchor().numpy()
        results[f"{name}/live"] = _flat(model)
        results[f"{name}/sent_bytes"] = outer.sent_bytes
    results |= _feeding_back(rank)

    others = dist.new_group(list(SUBGROUP))
    if rank in SUBGROUP:
        for name in ("diloco", "noloco"):
            outer, _ = _trained(METHODS[name], rank, others)
            results[f"{name}/subgroup"] = outer.anchor().numpy()

    late = METHODS["eager"] if rank == 2 else METHODS["diloco"]
    weight = -1.0 if rank == 1 else 1.0
    results["refused/parameters"] = _refusal(rank, model=_model(seed=rank // 2))
    results["refused/method"] = _refusal(rank, method=late)
    results["refused/seed"] = _refusal(rank, seed=rank // 2)
    results["refused/weight"] = _refusal(rank, weight=weight)
    for mixing, preset in (("all", "diloco"), ("pairs", "noloco")):
        method = method_named(preset, schedule={"interval_steps": 2, "overlap_steps": 1})
        results[f"alone/{mixing}"] = _leaves_alone(mixing, method, rank, store)
    np.savez(folder / f"{rank}.npz", **results)
    dist.barrier()
    dist.destroy_process_group()


# ---- the tests


@contextmanager
def _processes(commands: list[list[str]]) -> Iterator[list[subprocess.Popen[str]]]:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    started = [
        subprocess.Popen(
            [sys.executable, *command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command in commands
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("ranks")
    with _processes([[__file__, str(rank), str(folder)] for rank in range(RANKS)]) as ranks:
        for process in ranks:
            output, _ = process.communicate(timeout=TIME_LIMIT_S)
            assert process.returncode == 0, output
    return [dict(np.load(folder / f"{rank}.npz")) for rank in range(RANKS)]


def _in_one_process(
    method: Method, ranks: tuple[int, ...] = (0, 1, 2)
) -> tuple[LocalSwarm, list[nn.Module]]:
    models = [_model() for _ in ranks]
    swarm = LocalSwarm(models, method, seed=SEED, weights=[WEIGHTS[r] for r in ranks])
    for _ in range(STEPS):
        for rank, model in zip(ranks, models, strict=True):
            _pull(model, rank)
        swarm.step()
    swarm.finish()
    return swarm, models


@pytest.mark.parametrize("name", EXACT)
def test_ranks_compute_what_one_process_computes_to_the_bit(name: str, results: Results) -> None:
    swarm, models = _in_one_process(METHODS[name])
    for rank, result in enumerate(results):
        assert np.array_equal(result[f"{name}/anchor"], swarm.anchor(rank).numpy())
        assert np.array_equal(result[f"{name}/live"], _flat(models[rank]))


def test_where_averages_are_not_encoded_again_the_result_is_near(results: Results) -> None:
    start = LocalSwarm([_model()], METHODS["streaming"]).anchor().numpy()
    swarm, _ = _in_one_process(METHODS["streaming"])
    there = swarm.anchor().numpy()
    apart = np.linalg.norm(results[0]["streaming/anchor"] - there)
    assert 0 < apart < 0.1 * np.linalg.norm(there - start)


@pytest.mark.parametrize("name", ONE_ANCHOR)
def test_with_mixing_all_anchors_are_equal_to_the_bit(name: str, results: Results) -> None:
    anchors = {hashlib.sha256(result[f"{name}/anchor"]).hexdigest() for result in results}
    assert len(anchors) == 1


def test_what_a_frame_left_out_is_sent_later(results: Results) -> None:
    # Each rank moves by the same in each round. So with no decay nothing is ever lost: the anchor,
    # less what is still to be sent, is where all steps together lead.
    missing = np.mean([result["feedback/residual"] for result in results], axis=0)
    assert np.linalg.norm(missing) > 0
    expected = _model()
    with torch.no_grad():
        for param in expected.parameters():
            for rank in range(RANKS):
                param.add_(_wish(rank, param), alpha=0.03 * STEPS / RANKS)
    for result in results:
        np.testing.assert_allclose(result["feedback/anchor"] - missing, _flat(expected), atol=1e-5)


def test_bytes_are_a_frame_to_each_other_member(results: Results) -> None:
    num_elements = _flat(_model()).size
    exchanges = STEPS // 4 + 1
    diloco = exchanges * (RANKS - 1) * METHODS["diloco"].codec.frame_bytes(num_elements)
    assert [int(result["diloco/sent_bytes"]) for result in results] == [diloco] * RANKS
    swarm, _ = _in_one_process(METHODS["noloco"])
    assert [int(result["noloco/sent_bytes"]) for result in results] == swarm.sent_bytes


@pytest.mark.parametrize("name", ["diloco", "noloco"])
def test_a_group_of_some_ranks_is_a_swarm_of_its_own(name: str, results: Results) -> None:
    swarm, _ = _in_one_process(METHODS[name], SUBGROUP)
    for replica, rank in enumerate(SUBGROUP):
        assert np.array_equal(results[rank][f"{name}/subgroup"], swarm.anchor(replica).numpy())


@pytest.mark.parametrize("mixing", ["all", "pairs"])
def test_a_departure_waits_for_nobody(mixing: str, results: Results) -> None:
    assert all(result[f"alone/{mixing}"] for result in results)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("parameters", "rank 2 sets out from other parameters than rank 0"),
        ("method", "rank 2 .* with another method"),
        ("seed", "rank 2 .* seed"),
        ("weight", "rank 1 has weight -1.0"),
    ],
)
def test_every_rank_refuses_what_is_not_common(what: str, words: str, results: Results) -> None:
    for result in results:
        assert re.match(words, str(result[f"refused/{what}"]))


def test_the_loop_in_the_documents_runs_under_torchrun(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.S)
    (block,) = (block for block in blocks if "init_process_group" in block)
    script = tmp_path / "train.py"
    script.write_text(block)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with _processes([[*torchrun, str(script)]]) as (process,):
        output, _ = process.communicate(timeout=TIME_LIMIT_S)
        assert process.returncode == 0, output
    first, second = re.findall(r"rank \d: (\S+)", output)
    assert first == second


if __name__ == "__main__":
    _rank_main(int(sys.argv[1]), Path(sys.argv[2]))
