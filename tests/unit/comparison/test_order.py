"""Runs in their order, from the ledger alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from report_samples import START, Trial, make_sweep

from ftcluster.comparison.order import in_order, resolve
from ftcluster.contracts.trial import RunState
from ftcluster.ledger.store import Ledger


def test_a_trial_whose_values_made_no_config_is_shown_with_those_values(tmp_path: Path) -> None:
    name = make_sweep(tmp_path, [Trial({"optim.lr": 0.1}, [1.0])])
    with Ledger.open(tmp_path) as ledger:
        base = ledger.get(name).config["base"]
        first = ledger.get(f"{name}-000")
        ledger.add(replace(first, name="refused", number=1, config=base, overrides={"optim.lr": 77.0}, metrics={}))
        found = in_order(ledger, resolve(ledger, [name]), now=START)
    refused = next(c for c in found.contenders if c.name == "refused")
    assert (refused.parameters["optim.lr"], refused.config["optim.lr"]) == (77.0, 77.0)


def test_reports_of_a_single_trial_are_its_own(tmp_path: Path) -> None:
    name = make_sweep(
        tmp_path, [Trial({"optim.lr": 0.1}, [3.0, 2.0]), Trial({"optim.lr": 0.2}, [1.0], RunState.PRUNED)]
    )
    with Ledger.open(tmp_path) as ledger:
        (found,) = in_order(ledger, resolve(ledger, [f"{name}-000"]), now=START).contenders
    assert found.rungs == ((10, 3.0), (20, 2.0))
