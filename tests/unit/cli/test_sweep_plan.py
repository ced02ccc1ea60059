"""The timeline of a plan in text: a line for each place of a host, within the width of a terminal."""

from __future__ import annotations

import pytest

from ftcluster.cli.sweep_plan import timeline
from ftcluster.sweep.timeline import Span


def span(trial: int, host: int, started: float, ended: float) -> Span:
    return Span(f"s-{trial:02}", 0, f"host {host}", ("a",), 0.0, started, ended, "reported")


def test_trials_that_share_a_host_have_lines_of_their_own() -> None:
    spans = [span(0, 0, 0, 10), span(1, 0, 0, 5), span(2, 0, 5, 10), span(3, 1, 0, 10)]
    assert timeline(spans, 10) == [
        "     0.0 x1 |0000000000|",
        "     0.1 x1 |1111122222|",
        "     1.0 x1 |3333333333|",
    ]


@pytest.mark.parametrize("width", [20, 44])
def test_hundreds_of_hosts_are_told_in_a_few_lines(width: int) -> None:
    lines = timeline([span(number, number, 0, 10) for number in range(100)], width)
    assert len(lines) == 25
    assert max(map(len, lines)) <= width + 16
    assert lines[-1] == "and 76 lines more"
