"""Figures: what is drawn where."""

from __future__ import annotations

import json
import math
from dataclasses import replace

from comparison_samples import ATTACK, contender, sample

from ftcluster.comparison import plots
from ftcluster.comparison.html import _figures


def test_every_figure_is_plain_json_without_nan() -> None:
    broken = replace(contender(3, score=0.5), curves={"eval/loss": ((1, math.nan), (2, 1.0))})
    for comparison in (sample(), sample(answers=False), replace(sample(), contenders=(broken,))):
        json.dumps(_figures(comparison), allow_nan=False)


def test_a_run_has_the_same_colour_everywhere() -> None:
    comparison = sample()
    colour = plots.colours(comparison)["demo-004"]
    line = next(t for t in plots.curves(comparison, "eval/loss")["data"] if t["name"] == "demo-004")
    points = plots.scatter(comparison, "optim.lr")["data"][0]["marker"]["color"]
    assert line["line"]["color"] == points[0] == colour


def test_after_the_palette_runs_are_grey() -> None:
    many = replace(sample(), contenders=tuple(contender(n, score=float(n)) for n in range(12)))
    assert list(plots.colours(many).values()).count(plots.GREY) == 12 - len(plots.PALETTE)


def test_rungs_say_how_many_got_there_and_cross_out_who_was_stopped() -> None:
    figure = plots.rungs(sample())
    assert figure["layout"]["xaxis"]["ticktext"] == ["50<br>7 runs", "100<br>7 runs", "200<br>3 runs", "400<br>3 runs"]
    crosses = figure["data"][-1]
    assert crosses["x"] == [100] * 4


def test_a_parameter_searched_on_a_log_scale_has_a_log_axis() -> None:
    assert plots.scatter(sample(), "optim.lr")["layout"]["xaxis"]["type"] == "log"
    assert "type" not in plots.scatter(sample(), "adapter.rank")["layout"]["xaxis"]
    assert plots.scatter(sample(), "adapter.targets")["layout"]["xaxis"]["type"] == "category"


def test_parallel_coordinates_place_each_value_on_its_own_axis() -> None:
    lines = {trace["name"]: trace["y"] for trace in plots.parallel(sample())["data"]}
    lowest, highest = lines["demo-000"], lines["demo-006"]
    assert (lowest[0], highest[0]) == (0.0, 1.0)
    assert abs(lines["demo-003"][0] - 0.5) < 1e-9  # the middle of a log axis
    assert lines["demo-004"][-1] == 0.0  # the smallest loss


def test_the_thick_line_is_the_best_score_in_either_direction() -> None:
    smallest = plots.parallel(sample())["data"]
    largest = plots.parallel(replace(sample(), direction="maximize"))["data"]
    assert [t["name"] for t in smallest if t["line"]["width"] == 4] == ["demo-004"]
    assert [t["name"] for t in largest if t["line"]["color"] == "rgb(0,114,178)"] == ["demo-000"]


def test_a_parameter_with_one_value_stands_in_the_middle() -> None:
    same = tuple(replace(contender(n, score=float(n)), parameters={"optim.lr": 0.1}) for n in range(2))
    assert plots.parallel(replace(sample(), contenders=same))["data"][0]["y"][0] == 0.5


def test_intervals_stand_on_the_side_of_zero_that_their_verdict_says() -> None:
    traces = {trace["y"][0]: trace for trace in plots.intervals(sample(), answers=False)["data"]}
    better = traces["demo-004 against base"]
    assert better["x"][0] + better["error_x"]["array"][0] < 0


def test_texts_that_plotly_would_read_as_html_are_escaped() -> None:
    odd = replace(contender(0, score=0.5), parameters={"data.format": ATTACK})
    figures = _figures(replace(sample(), contenders=(odd, contender(1, score=0.4))))
    assert "<script" not in json.dumps(figures)
