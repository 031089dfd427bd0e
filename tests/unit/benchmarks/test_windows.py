"""What follows from windows, with numbers made up so that the answers are known."""

import pytest

from benchmarks.windows import Window, cost_s_of, ratios_of, summary_of


def window(*, is_with: bool, step_s: float, landings: int = 0) -> Window:
    steps = round(4.0 / step_s)
    between_s = 0.002 * landings
    return Window(
        is_with=is_with,
        wall_s=4.0,
        steps=steps,
        elapsed_s=steps * step_s + between_s,
        between_steps_s=between_s,
        exchange_s=(0.04,) * 100 if is_with else (),
        landings=landings,
        cpu_s={"trainer": 4.0, "wire": 2.0 if is_with else 0.0, "partner": 1.0},
    )


WITHOUT = window(is_with=False, step_s=0.08)
WITH = window(is_with=True, step_s=0.1)


def test_ratios_do_not_depend_on_the_order_in_a_pair() -> None:
    ratios = ratios_of([WITHOUT, WITH, WITH, WITHOUT], lambda w: w.step_s)
    assert ratios == pytest.approx([1.25, 1.25])


def test_an_exchange_costs_its_share_of_the_lost_time() -> None:
    # 40 steps of 80 ms in 4 s: 0.8 s are lost, to 100 exchanges.
    assert cost_s_of([WITHOUT, WITH]) == pytest.approx(0.008)


def test_an_exchange_costs_one_landing_even_if_not_all_were_landed() -> None:
    landed = window(is_with=True, step_s=0.08, landings=10)
    assert cost_s_of([WITHOUT, landed]) == pytest.approx(0.002)


def test_the_summary_predicts_the_slowdown_at_an_interval() -> None:
    summary = summary_of([WITHOUT, WITH, WITH, WITHOUT])
    assert summary["ratio"]["median"] == 1.25
    assert summary["exchange"]["cpu_ms"] == {"wire": 20.0, "partner": 10.0}
    (at_100,) = (row for row in summary["at_interval"] if row["interval_steps"] == 100)
    assert at_100["in_flight_frac"] == pytest.approx(0.04 / 8)
    assert at_100["predicted_slowdown_frac"] == pytest.approx(0.008 / 8)
