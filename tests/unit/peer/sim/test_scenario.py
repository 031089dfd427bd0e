"""A scenario says what it means, and whatever it cannot mean is refused in one line."""

from pathlib import Path

import pytest

from peer.sim.faults import Crash, Freeze, Join, Leave, Partition, Storm
from peer.sim.scenario import Churn, Scenario, packaged, read_scenario
from peer.sim.task import ToyTask
from protocol.errors import ConfigError

WHOLE = """
title = "Two"
seed = 3
duration = "2min"
stands_for_params = "1M"

[toy]
parameters = "4k"

[run]
method = { preset = "streaming", schedule = { interval_steps = 20 } }
round = { progress_s = 5.0 }

[[groups]]
name = "homes"
count = 2
region = "eu"
step = "250ms"
step_cv = 0.1
link = { up = "20M", down = "100M", latency = "20ms", latency_cv = 0.5, loss = 0.001 }

[[groups]]
name = "office"
joins = "30s"

[[distances]]
between = ["eu", "office"]
latency = "45ms"

[[faults]]
kind = "freeze"
at = "1min"
for = "10s"

[[faults]]
kind = "storm"
at_s = 20
for_s = 5.5
reorder = "300ms"

[[faults]]
kind = "partition"
at = 30
for = "15s"
shape = "bridge"
"""
LEAST = 'duration = "1min"\n[[groups]]\nname = "a"\n'
CROWD = 'level = "sizes"\nrun = { method = "noloco" }\n' + LEAST + "count = 20\n"
ALL = CROWD.replace("noloco", "diloco")


def read(tmp_path: Path, text: str) -> Scenario:
    path = tmp_path / "scenario.toml"
    path.write_text(text)
    return read_scenario(str(path))


def test_all_that_is_written_is_read(tmp_path: Path) -> None:
    scenario = read(tmp_path, WHOLE)
    homes, office = (group.seat() for group in scenario.groups)
    assert (scenario.title, scenario.seed, scenario.duration_s) == ("Two", 3, 120.0)
    assert (homes.region, homes.step_s, homes.step_cv) == ("eu", 0.25, 0.1)
    link = homes.link
    assert (link.up_bps, link.down_bps, link.latency_s) == (20e6, 100e6, 0.02)
    assert (link.latency_cv, link.loss_frac) == (0.5, 0.001)
    assert office.region == "office"
    assert [group.joins_s for group in scenario.groups] == [0.0, 30.0]
    assert scenario.distances[0].latency_s == 0.045
    assert scenario.faults == [
        Freeze(at_s=60.0, for_s=10.0),
        Storm(at_s=20.0, for_s=5.5, reorder_s=0.3),
        Partition(at_s=30.0, for_s=15.0, shape="bridge"),
    ]


def test_the_run_has_the_settings_of_a_run_toml(tmp_path: Path) -> None:
    manifest = read(tmp_path, WHOLE).manifest(5)
    assert manifest.seed == 5
    assert manifest.method.preset == "streaming"
    assert manifest.method.codec.name == "int4"
    assert manifest.method.schedule.interval_steps == 20
    assert manifest.round.progress_s == 5.0


def test_a_toy_has_whole_fragments_and_weighs_what_it_stands_for(tmp_path: Path) -> None:
    scenario = read(tmp_path, WHOLE)
    manifest = scenario.manifest(0)
    task = scenario.new_task(manifest)
    assert isinstance(task, ToyTask)
    assert task.layout.num_elements == scenario.num_elements(manifest) == 4002
    assert scenario.byte_scale(manifest) * 4002 == pytest.approx(1e6)


def test_a_crowd_is_read(tmp_path: Path) -> None:
    churn = "[churn]\ncrash_per_hour = 72_000\njoin_per_hour = 72_000"
    crowd = '[crowd]\npace_cv = 0.5\nrefresh = "20s"\n'
    scenario = read(tmp_path, CROWD.replace("20", "100_000") + crowd + churn)
    assert scenario.level == "sizes"
    assert (scenario.crowd.pace_cv, scenario.crowd.refresh_s) == (0.5, 20.0)
    assert read(tmp_path, LEAST).level == "tensors"


def test_what_stands_for_nothing_weighs_itself(tmp_path: Path) -> None:
    scenario = read(tmp_path, LEAST)
    assert scenario.byte_scale(scenario.manifest(0)) == 1.0


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("", "duration: is missing"),
        ('duration = "1min"', "groups: is missing"),
        ('duration = "1min"\ngroups = []', "groups: "),
        (LEAST.replace("1min", "soon"), "duration: 'soon' is not a time"),
        (LEAST.replace("1min", "0s"), "duration: "),
        ("speed = 1\n" + LEAST, "speed: there is no such setting"),
        ('task = "chess"\n' + LEAST, "task: "),
        ("seed = -1\n" + LEAST, "seed: "),
        (LEAST + "speed = 1", "groups[0].speed: there is no such setting"),
        (LEAST + "count = 0", "groups[0].count: "),
        (LEAST + 'count = "two"', "groups[0].count: "),
        (LEAST + 'step = "0s"', "groups[0].step: "),
        (LEAST + 'link = { up = "20MB/s" }', "groups[0].link.up: '20MB/s' is not a rate"),
        (LEAST + "link = { loss = 1.0 }", "groups[0].link.loss: "),
        (LEAST + '[[groups]]\nname = "a"', "groups: two have the same name"),
        (LEAST + '[[distances]]\nbetween = ["a", "b"]\nlatency = 1', "distances[0].between: "),
        (LEAST + '[[distances]]\nbetween = ["a"]\nlatency = 1', "distances[0].between: "),
        (LEAST + '[[faults]]\nkind = "quake"\nat = 1', "faults[0]: "),
        (LEAST + '[[faults]]\nkind = "crash"', "faults[0].at_s: is missing"),
        (LEAST + '[[faults]]\nkind = "crash"\nat = "then"', "faults[0]: 'then' is not a time"),
        (LEAST + '[[faults]]\nkind = "crash"\nat = 1\nfor = 1', "faults[0].for_s: there is no"),
        (LEAST + "[churn]\nleave_per_hour = -1", "churn.leave_per_hour: "),
        (LEAST + '[run]\nmethod = "dicolo"', "run.method: there is no preset 'dicolo'"),
        (LEAST + "[run]\nspeed = 1", "run.speed: there is no such setting"),
        (LEAST + "[run.method.schedule]\ninterval_steps = 0", "run.method.schedule.interval_steps"),
        ('stands_for_params = "1B"\n' + LEAST + "[toy]\nparameters = 40", "stands_for_params: "),
        (LEAST + "[churn]\njoin_per_hour = 3601", "churn.join_per_hour: more than one in a second"),
        (LEAST + "[crowd]\npace_cv = 0.1", "crowd: does nothing at level tensors"),
        ('level = "molecules"\n' + LEAST, "level: "),
        ('task = "toy"\n' + CROWD, "task: does nothing at level sizes"),
        ("evaluate_every_rounds = 0\n" + CROWD, "evaluate_every_rounds: does nothing at level"),
        ("evaluation_bytes = 2048\n" + CROWD, "evaluation_bytes: does nothing at level sizes"),
        (CROWD + "[toy]\nrate = 0.1", "toy: does nothing at level sizes"),
        (CROWD + '[[faults]]\nkind = "crash"\nat = 1', "faults: does nothing at level sizes"),
        (CROWD + '[[distances]]\nbetween = ["a", "a"]\nlatency = 1', "distances: does nothing at"),
        (CROWD + '[[groups]]\nname = "b"', "groups: at level sizes all peers are of one kind"),
        (CROWD + 'joins = "1s"', "groups[0].joins: at level sizes"),
        (CROWD.replace("20", "1"), "groups[0].count: at level sizes there are 2 to 100,000"),
        (CROWD.replace("20", "100_001"), "groups[0].count: at level sizes there are 2 to 100,000"),
        (ALL.replace("20", "129"), "groups[0].count: 129 peers cannot average all together"),
        (ALL + 'link.up = "1M"', "run.round.progress_s: when all streams share a link"),
        (CROWD + "[churn]\nleave_per_hour = 1", "churn.leave_per_hour: at level sizes nobody"),
        (CROWD + "[churn]\ncrash_per_hour = 1", "churn.join_per_hour: at level sizes as many"),
        (CROWD + "[crowd]\nsize = 1", "crowd.size: there is no such setting"),
        (CROWD + '[crowd]\nrefresh = "0s"', "crowd.refresh: "),
        (CROWD.replace('"noloco"', '"gossip-stream"'), "run.method.schedule.fragments: at level"),
        (
            CROWD.replace('"noloco"', '{ preset = "noloco", mixing = "groups" }'),
            "run.method.mixing: at level sizes",
        ),
        (CROWD.replace('"noloco"', '"eager"'), "run.method.schedule.overlap_steps: at level"),
        (CROWD.replace('"noloco"', '"dicolo"'), "run.method: there is no preset"),
    ],
    ids=lambda value: value[-40:] if isinstance(value, str) else None,
)
def test_a_mistake_is_one_line_with_file_and_key(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, text)
    said = str(refused.value)
    assert said.startswith(f"{tmp_path / 'scenario.toml'}: {key}")
    assert "\n" not in said


HEAVY = (  # a piece of 1 KiB stands for 25 MB, and takes 2 s of the link
    'duration = "1min"\nstands_for_params = "1B"\ntoy = { parameters = "40k" }\n'
    '[[groups]]\nname = "a"\ncount = 3\nlink = { up = "100M", down = "100M" }\n'
)


@pytest.mark.parametrize(
    ("method", "num_streams"),
    [
        ('"diloco"', 2),
        ('"noloco"', 2),
        ('{ preset = "noloco", mixing = "groups", group_size = 2 }', 2),
        ('{ preset = "noloco", mixing = "groups", group_size = 3 }', 4),
        ('{ preset = "noloco", mixing = "groups", group_size = 8 }', 4),  # there are only three
    ],
)
def test_the_smallest_piece_must_get_through_while_all_streams_share_the_link(
    tmp_path: Path, method: str, num_streams: int
) -> None:
    def run(progress_s: float) -> str:
        return HEAVY + f"[run]\nmethod = {method}\nround.progress_s = {progress_s}\n"

    piece_s = 8 * 1024 * 1e9 / 40_000 / 100e6
    read(tmp_path, run(1.01 * num_streams * piece_s))
    with pytest.raises(ConfigError, match="stands_for_params"):
        read(tmp_path, run(0.99 * num_streams * piece_s))


@pytest.mark.parametrize("name", ["nowhere", "nowhere.toml", "no/where"])
def test_a_scenario_that_is_nowhere_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        read_scenario(name)


def test_what_is_no_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not valid TOML"):
        read(tmp_path, "duration = ")


# ---- churn


def churn(**rates: float) -> Churn:
    return Churn.model_validate(rates)


def test_churn_comes_at_its_rates() -> None:
    hours = 2000.0
    drawn = churn(leave_per_hour=1.0, crash_per_hour=2.0, join_per_hour=3.0).faults(1, hours * 3600)
    for kind, per_hour in ((Leave, 1.0), (Crash, 2.0), (Join, 3.0)):
        num = sum(isinstance(fault, kind) for fault in drawn)
        assert num == pytest.approx(per_hour * hours, abs=5 * (per_hour * hours) ** 0.5)
    times = [fault.at_s for fault in drawn]
    assert times == sorted(times)
    assert 0 < times[0] < times[-1] < hours * 3600


def test_churn_is_the_seeds_and_a_shorter_run_has_its_beginning() -> None:
    some = churn(leave_per_hour=5.0, join_per_hour=5.0)
    long, short = some.faults(1, 36_000), some.faults(1, 18_000)
    assert long == some.faults(1, 36_000)
    assert short == [fault for fault in long if fault.at_s < 18_000]
    assert long != some.faults(2, 36_000)


def test_no_churn_is_none() -> None:
    assert churn().faults(1, 1e9) == []


# ---- those that come with the package


@pytest.mark.parametrize("path", packaged(), ids=lambda path: path.stem)
def test_every_ready_scenario_is_found_by_its_name(path: Path) -> None:
    scenario = read_scenario(path.stem)
    assert scenario.title
    assert scenario.faults or scenario.churn != Churn()


def test_there_are_the_ready_scenarios_that_the_documentation_names() -> None:
    names = {path.stem for path in packaged()}
    page = Path("docs/simulator.md").read_text()
    assert {"home", "continents", "datacentres", "split", "crowd"} <= names
    for name in names:
        assert f"`{name}`" in page


def test_a_file_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("home").write_text(LEAST)
    assert read_scenario("home").title == ""
