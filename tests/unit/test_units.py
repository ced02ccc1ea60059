"""Durations and sizes: what a user may write, and what is shown."""

from __future__ import annotations

import pytest

from ftcluster.units import Duration, format_bytes, format_count, format_seconds


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("200 steps", 200, "steps"),
        ("1 step", 1, "steps"),
        ("1e6 tokens", 1e6, "tokens"),
        ("2.5 epochs", 2.5, "epochs"),
        (" .5EPOCH ", 0.5, "epochs"),
        ("3epochs", 3, "epochs"),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, amount: float, unit: str) -> None:
    assert Duration.parse(text) == Duration(amount, unit)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["", "3", "steps", "-3 steps", "0 epochs", "0.0 tokens", "3 hours", "nan steps", "1e999 steps", "3 steps 4"]
)
def test_anything_else_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match=r'is not a duration; write "200 steps", "1e6 tokens" or "3 epochs"'):
        Duration.parse(text)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("7 steps", 7),
        ("2.5 epochs", 25),
        ("0.01 epochs", 1),
        ("1000 tokens", 20),
        ("1001 tokens", 21),
        ("0.3 epochs", 3),  # 0.3 * 10 is 3.0000000000000004 in floating point
    ],
)
def test_durations_become_whole_steps_rounded_up_and_at_least_one(text: str, steps: int) -> None:
    assert Duration.parse(text).steps(steps_per_epoch=10, tokens_per_step=50) == steps


def test_a_duration_reads_back_from_its_own_text() -> None:
    for text in ("200 steps", "2.5 epochs", "100000 tokens"):
        assert str(Duration.parse(text)) == text


def test_a_data_set_without_tokens_gives_no_division_by_zero() -> None:
    assert Duration.parse("10 tokens").steps(steps_per_epoch=1, tokens_per_step=0) == 10


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 20, "3.0 MiB"), (5 << 30, "5.0 GiB"), (2 << 40, "2.0 TiB")],
)
def test_bytes_for_people(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (75, "1:15"), (3700, "1:01:40"), (float("nan"), "-"), (float("inf"), "-")],
)
def test_seconds_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_counts_keep_three_digits() -> None:
    shown = [format_count(count) for count in (0, 7, 999, 999.6, 1234, 1_234_567, 7.6e9, 2e15)]
    assert shown == ["0", "7", "999", "1 k", "1.23 k", "1.23 M", "7.6 G", "2e+03 T"]
