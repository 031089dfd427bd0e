"""What was measured is told as it is, and what the method makes of it as the planner has it."""

import math
import shlex
from dataclasses import replace
from typing import Any

import pytest

from peer.doctor import speed
from peer.doctor.finding import Finding
from peer.doctor.speed import Speed
from peer.method import method_of_run
from peer.net.probe import Probed
from peer.plan.estimate import Link, estimate
from peer.plan.utilisation import Workload
from peer.settings import method_settings
from peer.train.model import layout_of_run
from protocol.manifest import Manifest, manifest_from

HOME = Speed(up_bps=20e6, down_bps=100e6, trip_s=0.05)


def run(preset: str) -> Manifest:
    model = {"dim": 512, "layers": 6, "heads": 8, "ffn_dim": 1376}
    return manifest_from({"founder": "somebody", "model": model, "method": method_settings(preset)})


def judged(preset: str, link: Speed, step_s: float, **settings: Any) -> Finding:
    options = {"peers": 4, "is_capped": False, **settings}
    (finding,) = speed.utilisation(run(preset), link, step_s=step_s, **options)
    return finding


def test_a_round_trip_is_a_median_with_its_range() -> None:
    (finding,) = speed.trips([0.1, 0.02, 0.04], 5)
    assert finding.found == "median 40 ms, 20 ms to 100 ms, 3 of 5"
    (far,) = speed.trips([0.9], 1)
    assert far.verdict == "poor"
    (silent,) = speed.trips([], 3)
    assert silent.verdict == "unknown"
    assert not list(speed.trips([], 0))


def test_a_refused_probe_is_unknown_and_says_why() -> None:
    findings = list(speed.rates([], "too many probe at once", up_cap_bps=math.inf))
    assert [each.verdict for each in findings] == ["unknown", "unknown"]
    assert all("too many probe at once" in each.found for each in findings)


def test_the_best_probe_counts_and_our_own_cap_is_named() -> None:
    probes = [Probed(9e6, 50e6, ""), Probed(19e6, 0.0, "")]
    up, down = speed.rates(probes, "", up_cap_bps=20e6)
    assert up.found == "19 Mbit/s, with one peer (by --up 20 Mbit/s)"
    assert down.found == "50 Mbit/s, with one peer"
    assert Speed.of([0.01, 0.03, 0.02], probes) == Speed(19e6, 50e6, 0.02)


def test_what_the_planner_says_is_said() -> None:
    manifest = run("streaming")
    finding = judged("streaming", HOME, 1.0)
    workload = Workload(num_params=layout_of_run(manifest).num_elements, layers=6, step_s=1.0)
    link = Link(up_bps=20e6, down_bps=100e6, rtt_s=0.05)
    planned = estimate(method_of_run(manifest), workload, link, 4)
    assert finding.verdict == "good"
    assert planned.suffices
    assert f"{planned.trainer_frac:.0%}" in finding.found
    assert f"{planned.bytes_per_day / 24e6:.1f} MB an hour" in finding.found


def test_a_link_that_is_too_thin_is_poor_and_the_planner_is_called_with_these_numbers() -> None:
    thin = replace(HOME, up_bps=1e6)
    finding = judged("diloco", thin, 0.1)
    assert finding.verdict == "poor"
    assert "instead of" in finding.found
    assert "each way" in finding.why
    words = shlex.split(finding.fix)
    assert words[:2] == ["thinwire", "plan"]
    given = dict(zip(words[2::2], words[3::2], strict=True))
    assert float(given["--up"]) == 1e6
    assert given["--peers"] == "4"


def test_a_cap_that_is_too_low_is_to_be_raised() -> None:
    finding = judged("diloco", replace(HOME, up_bps=1e6), 0.1, is_capped=True)
    option, rate = finding.fix.split()
    assert option == "--up"
    assert float(rate.rstrip("kMG")) > 1


@pytest.mark.parametrize(("link", "step_s"), [(Speed(), 1.0), (HOME, 0.0)])
def test_without_rates_or_a_step_nothing_is_expected(link: Speed, step_s: float) -> None:
    assert judged("streaming", link, step_s).verdict == "unknown"
