"""Two real ranks over Gloo that are one peer: what rank 0 reads and writes is the whole model.

The ranks are started once (`tests.net.ranks`) and compared with one plain model in this process.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from optim.landing import blend, rebase
from optim.layout import flatten_into, layout_of, load_from, shapes_of
from peer.loop.learner import ModelLearner
from peer.loop.shards import plain_parameters
from tests.net.ranks import (
    FRAGMENTS,
    LANDINGS,
    RANKS,
    VOCAB,
    WRAPPINGS,
    Net,
    flat,
    manifest_of,
    train,
)

pytestmark = pytest.mark.net

ROOT = Path(__file__).parents[2]
TIME_LIMIT_S = 100.0

Results = list[dict[str, npt.NDArray[Any]]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    folder = tmp_path_factory.mktemp("ranks")
    settings = {"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    with ExitStack() as stack:
        processes = []
        for rank in range(RANKS):
            log = stack.enter_context((folder / f"{rank}.log").open("w"))
            command = [sys.executable, "-m", "tests.net.ranks", str(rank), str(folder)]
            process = subprocess.Popen(
                command, env=os.environ | settings, stdout=log, stderr=subprocess.STDOUT
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes.append(process)
        codes = [process.wait(TIME_LIMIT_S) for process in processes]
        said = "\n".join((folder / f"{rank}.log").read_text() for rank in range(RANKS))
        assert codes == [0] * RANKS, said
        yield [dict(np.load(folder / f"{rank}.npz")) for rank in range(RANKS)]


def _plain() -> npt.NDArray[Any]:
    model = Net()
    layout = layout_of(shapes_of(model), num_fragments=FRAGMENTS)
    out = torch.empty(layout.num_elements)
    flatten_into(out, layout, model)
    return out.numpy()


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_snapshot_is_the_flat_vector_of_the_whole_model(wrapping: str, results: Results) -> None:
    assert np.array_equal(results[0][f"{wrapping}/_reading/snapshot"], _plain())
    assert np.isnan(results[1][f"{wrapping}/_reading/snapshot"]).all()  # rank 0 alone has it


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_trained_snapshot_is_what_torch_gathers(wrapping: str, results: Results) -> None:
    found = results[0]
    trained = found[f"{wrapping}/_reading/trained/snapshot"]
    assert np.array_equal(trained, found[f"{wrapping}/_reading/trained/whole"])
    assert not np.array_equal(trained, _plain())


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_fragments_snapshot_touches_its_range_alone(wrapping: str, results: Results) -> None:
    whole = _plain()
    for fragment, span in enumerate(layout_of(shapes_of(Net()), num_fragments=FRAGMENTS).fragments):
        part = results[0][f"{wrapping}/_reading/snapshot/{fragment}"]
        inside = np.zeros(whole.size, bool)
        inside[span.start : span.stop] = True
        assert np.array_equal(part[inside], whole[inside])
        assert np.isnan(part[~inside]).all()


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_landings_reach_all_ranks_and_are_those_of_one_vector(
    wrapping: str, results: Results
) -> None:
    theta = flat(1).clone()
    for result in results:
        assert np.array_equal(result[f"{wrapping}/_landing/loaded"], theta)
    for fragment, span in enumerate(layout_of(shapes_of(Net()), num_fragments=FRAGMENTS).fragments):
        part = slice(span.start, span.stop)
        vectors = theta[part], flat(2)[part], flat(3)[part]
        how = LANDINGS[fragment]
        blend(*vectors, **how) if how else rebase(*vectors)
        for result in results:
            assert np.array_equal(result[f"{wrapping}/_landing/landed/{fragment}"], theta)


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_after_a_forward_alone_what_lands_is_used(wrapping: str, results: Results) -> None:
    # FSDP keeps the outermost parameters whole after it, for a backward that does not come.
    model = Net().eval()
    load_from(flat(1), layout_of(shapes_of(model), num_fragments=FRAGMENTS), model)
    with torch.no_grad():
        expected = model(torch.arange(VOCAB)).numpy()
    for result in results:
        logits = result[f"{wrapping}/_after_a_look/logits"]
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("into", ["same", "fresh"])
def test_a_restored_group_goes_on_as_if_it_had_not_stopped(
    into: str, wrapping: str, results: Results
) -> None:
    for result in results:
        unbroken = result[f"{wrapping}/_resuming/unbroken"]
        assert np.array_equal(result[f"{wrapping}/_resuming/{into}"], unbroken)
        assert result[f"{wrapping}/_resuming/{into}/tracked"] == 5  # BatchNorm counts batches


def test_a_checkpoint_is_whole_and_of_plain_names(results: Results) -> None:
    prefix = "/_resuming/state/"
    states = [
        {
            name.removeprefix(wrapping + prefix): value
            for name, value in results[0].items()
            if name.startswith(wrapping + prefix)
        }
        for wrapping in WRAPPINGS
    ]
    assert states[0].keys() == states[1].keys()
    for name, shape in shapes_of(Net()).items():
        for key in ("theta", "adamw.exp_avg", "adamw.exp_avg_sq"):
            assert states[0][f"{key}.{name}"].shape == states[1][f"{key}.{name}"].shape == shape
        assert states[0][f"adamw.step.{name}"] == 3
    assert not any(name.endswith("frozen.weight") for name in states[0])


def test_one_process_goes_on_from_a_groups_checkpoint(results: Results) -> None:
    prefix = "fsdp/_resuming/state/"
    state = {
        name.removeprefix(prefix): torch.from_numpy(value)
        for name, value in results[0].items()
        if name.startswith(prefix)
    }
    model = Net(seed=9)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    learner = ModelLearner(model, optimizer, manifest_of(Net()))
    learner.restore(state)
    restored = learner.state()
    assert restored.keys() == state.keys()
    assert all(torch.equal(restored[name], state[name]) for name in state)
    train(model, optimizer, 0, range(2))


def test_tokens_are_the_groups_and_the_loss_is_that_of_rank_0(results: Results) -> None:
    lead, follower = results
    assert lead["_counting/losses"].tolist() == [0.5, 1.5, 2.5]
    assert lead["_counting/tokens"] == 3 * 1000 + 100 + 101 + 102
    assert lead["_counting/step_tokens"] == 1000 + 102
    assert lead["_counting/steps"] == follower["_counting/steps"] == 3
    assert follower["_counting/has_left"]


def test_ctrl_c_on_any_rank_lets_all_leave_after_the_step(results: Results) -> None:
    lead, follower = results
    assert lead["_interrupting/is_interrupted"]
    assert follower["_interrupting/has_left"]
    for result in results:
        assert result["_interrupting/is_default_again"]


def test_a_rank_that_is_gone_is_noticed(results: Results) -> None:
    assert results[0]["after the other's end"] == "RuntimeError"


def test_an_evaluation_leaves_no_trace(results: Results) -> None:
    assert results[0]["_evaluating/bits"] == 10  # rank 0's
    assert np.array_equal(results[0]["_evaluating/afterwards"], _plain())


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("other model on rank 1", "ConfigError: .*scale: the run has .1., yours does not have it"),
        ("all frozen", "ConfigError: .*scale: the run has .1., yours does not have it"),
        ("other optimizer", "ConfigError: the optimizer has none of the model's trainable"),
        ("a parameter less", "ConfigError: .*has no theta.scale"),
        ("a larger one", "ConfigError: .*theta.scale is .2."),
        ("of sgd", "ConfigError: the checkpoint is of the inner optimizer sgd, yours is adamw"),
    ],
)
def test_all_ranks_refuse_together(what: str, words: str, results: Results) -> None:
    for result in results:
        assert re.match(words, str(result[f"_refusing/{what}"]))


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("state without a count", "ConfigError: .*no 'counter.step'"),
        ("state with a list", "ConfigError: .*odd.embedding.weight is a list"),
        ("state with a row", "ConfigError: .*odd.embedding.weight .* neither a number nor shaped"),
    ],
)
def test_rank_0_refuses_alone_before_it_orders(what: str, words: str, results: Results) -> None:
    assert re.match(words, str(results[0][f"_refusing/{what}"]))


def test_when_rank_0_raises_the_others_do(results: Results) -> None:
    said = {name: str(value) for name, value in results[1].items() if "/stopped by" in name}
    assert said == {
        "_refusing/stopped by a bug": "ThinwireError: rank 0 failed: KeyError('x')",
        "_refusing/stopped by the operator": "ConfigError: no such ticket",
    }


def test_a_loops_default_device_and_type_are_not_ours(results: Results) -> None:
    assert np.array_equal(results[0]["_elsewhere/snapshot"], flat(1).numpy())


def test_rank_0_fails_although_the_others_wait_for_it_elsewhere(results: Results) -> None:
    assert results[0]["_failing/went on"]


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch.compile's own
def test_names_are_those_without_wrappers() -> None:
    plain = list(shapes_of(Net()))
    inside = Net()
    inside.blocks[0] = checkpoint_wrapper(torch.compile(inside.blocks[0]))
    for model in (Net(), torch.compile(Net()), inside):
        assert list(plain_parameters(model)) == plain
