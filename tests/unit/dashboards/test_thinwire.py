"""The dashboard asks for what a peer tells, and for all of it."""

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tests.unit.peer.test_metrics import SAMPLES, busy, exposition, samples

DASHBOARD = Path(__file__).parents[3] / "dashboards" / "thinwire.json"
TOLD = {name.partition("{")[0] for name in samples(exposition(busy()))}


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(DASHBOARD.read_text("utf-8"))
    return data


def expressions(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_it_shows_every_metric_and_none_that_no_peer_tells(dashboard: dict[str, Any]) -> None:
    shown = set(re.findall(r"thinwire_\w+", " ".join(expressions(dashboard))))
    assert shown == TOLD


def test_counters_are_shown_as_rates_or_as_totals_of_the_swarm(dashboard: dict[str, Any]) -> None:
    for expression in expressions(dashboard):
        for counter in re.findall(r"thinwire_\w+_total", expression):
            assert f"rate({counter}{{" in expression or f"sum({counter}{{" in expression
        gauges = re.findall(r"rate\((thinwire_\w+)", expression)
        assert all(name.endswith("_total") for name in gauges)


def test_it_sorts_by_labels_that_there_are(dashboard: dict[str, Any]) -> None:
    labels = {"instance"} | {label for name in SAMPLES for label in re.findall(r"\{(\w+)=", name)}
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            expression = target["expr"]
            used = re.findall(r"by \((\w+)\)", expression) + re.findall(
                r"\{\{(\w+)\}\}", target["legendFormat"]
            )
            assert set(used) <= labels
            assert expression.count('{instance=~"$instance"}') == expression.count("thinwire_")
            assert expression.count("(") == expression.count(")")


def test_any_prometheus_may_be_chosen(dashboard: dict[str, Any]) -> None:
    source, peers = dashboard["templating"]["list"]
    assert (source["name"], source["type"]) == ("datasource", "datasource")
    assert re.findall(r"thinwire_\w+", peers["definition"]) == ["thinwire_step"]
    asked = [panel["datasource"] for panel in dashboard["panels"]]
    asked += [target["datasource"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert all(each == {"type": "prometheus", "uid": "${datasource}"} for each in asked)


def test_panels_have_a_place_of_their_own_and_words(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["title"] and panel["description"] for panel in panels)
    cells = [
        {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        for at in (panel["gridPos"] for panel in panels)
    ]
    assert not any(one & other for one, other in combinations(cells, 2))
    assert all(x < 24 for each in cells for x, _ in each)
