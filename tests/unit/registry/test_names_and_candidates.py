"""Which names a registered model and an alias may have, and which run a reference stands for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from ftcluster.contracts.trial import RunState, TrialReport
from ftcluster.errors import PromotionRefused, UsageError
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.registry.candidate import choose
from ftcluster.registry.store import check_alias, check_model_name


@pytest.mark.parametrize("name", ["assistant", "Tools.v2", "a_b-c", "工具", "7b"])
def test_names_that_can_be_typed_in_a_models_uri_are_taken(name: str) -> None:
    assert check_model_name(name) == name


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "a@b", "it's", "a b", "-a", ".", "..", "x" * 101])
def test_names_that_cannot_be_typed_in_a_models_uri_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a registered model") as error:
        check_model_name(name)
    assert error.value.where == "--name"


@pytest.mark.parametrize("alias", ["champion", "Stable-2", "a_b", "version1"])
def test_ordinary_aliases_are_taken(alias: str) -> None:
    assert check_alias(alias) == alias


@pytest.mark.parametrize("alias", ["latest", "Latest", "v1", "V12"])
def test_aliases_that_mlflow_keeps_for_itself_are_refused(alias: str) -> None:
    with pytest.raises(UsageError, match="MLflow keeps the alias"):
        check_alias(alias)


@pytest.mark.parametrize("alias", ["", "a b", "a/b", "1st", "好"])
def test_aliases_that_mlflow_does_not_take_are_refused(alias: str) -> None:
    with pytest.raises(UsageError, match="cannot be an alias"):
        check_alias(alias)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path) as opened:
        yield opened


def add_sweep(
    ledger: Ledger,
    trials: Mapping[str, tuple[RunState, float | None]],
    spec: Mapping[str, str] | None = None,
) -> None:
    """A sweep called s, by default on eval/loss, with trials in these states and with these values."""
    spec = {"metric": "eval/loss", "direction": "minimize"} if spec is None else spec
    ledger.add(RunRow("s", "sweep", "s", {"spec": dict(spec)}))
    for number, (name, (state, value)) in enumerate(trials.items()):
        ledger.add(RunRow(name, "trial", name, {}, parent="s", number=number))
        if value is not None:
            ledger.record(TrialReport(name, 1, {"eval/loss": value}), 0)
        ledger.set_state(name, RunState.RUNNING)
        ledger.set_state(name, state)


def test_a_sweep_stands_for_its_best_finished_trial(ledger: Ledger) -> None:
    trials = {
        "pruned": (RunState.PRUNED, 0.1),
        "good": (RunState.FINISHED, 0.5),
        "fair": (RunState.FINISHED, 0.9),
        "diverged": (RunState.FINISHED, math.nan),
        "silent": (RunState.FINISHED, None),
    }
    add_sweep(ledger, trials)
    assert choose(ledger, "s").name == "good"


def test_where_more_is_better_the_largest_value_wins(ledger: Ledger) -> None:
    spec = {"metric": "eval/loss", "direction": "maximize"}
    add_sweep(ledger, {"low": (RunState.FINISHED, 0.5), "high": (RunState.FINISHED, 0.9)}, spec)
    assert choose(ledger, "s").name == "high"


def test_of_equal_trials_the_first_is_taken(ledger: Ledger) -> None:
    add_sweep(ledger, {"zeta": (RunState.FINISHED, 0.5), "alpha": (RunState.FINISHED, 0.5)})
    assert choose(ledger, "s").name == "zeta"


def test_a_run_stands_for_itself_in_whatever_state(ledger: Ledger) -> None:
    add_sweep(ledger, {"failed": (RunState.FAILED, None)})
    assert choose(ledger, "failed").name == "failed"


def test_a_sweep_without_a_finished_trial_is_refused_with_their_states(ledger: Ledger) -> None:
    add_sweep(ledger, {"one": (RunState.FAILED, None), "two": (RunState.PRUNED, 0.2)})
    with pytest.raises(PromotionRefused, match=r"no finished trial of s reported eval/loss \(one failed, two pruned\)"):
        choose(ledger, "s")


def test_a_sweep_that_has_no_trials_yet_says_so(ledger: Ledger) -> None:
    add_sweep(ledger, {})
    with pytest.raises(PromotionRefused, match="it has no trials"):
        choose(ledger, "s")


def test_a_sweep_without_a_metric_asks_for_one_of_its_trials(ledger: Ledger) -> None:
    add_sweep(ledger, {}, spec={})
    with pytest.raises(UsageError, match="s names no metric to choose by"):
        choose(ledger, "s")
