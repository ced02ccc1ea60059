"""A real sweep, run and looked at as in a notebook, and its report in a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from browsing import opened, running_browser
from mlflow import MlflowClient
from playwright.sync_api import Browser, Page
from programs import finish, start
from training_samples import make_world

from ftcluster.ledger.store import Ledger

pytestmark = [pytest.mark.slow, pytest.mark.whole]

SWEEP = {
    "name": "rates",
    "space": {"optim.lr": "tag(log, interval(1e-4, 3e-2))", "adapter.rank": "choice(2, 4)"},
    "sampler": {"name": "qmc", "seed": 3},
    "pruner": {"name": "halving", "first": "3 steps", "eta": 2},
    "budget": {"trials": 8},
}
PARTS = ("ranking", "curves", "parameters", "endings", "cluster")


class Session(NamedTuple):
    """What a notebook found out."""

    home: Path
    told: dict[str, Any]
    printed: str


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("notebook")
    world = make_world(folder)
    words = world.words("optim.duration=12 steps", "evaluation.every=3 steps", "home=elsewhere")
    (folder / "rates.yaml").write_text(json.dumps({**SWEEP, "base": words}))
    home, log, answers = folder / "home", folder / "log", folder / "answers.json"
    explore = ("notebook_session", "explore", [str(folder / "rates.yaml"), str(home), str(answers)])
    printed = finish(start(["--version"], log, before=explore), log)
    return Session(home, json.loads(answers.read_text()), printed)


def test_a_sweep_runs_and_tells_of_its_trials_in_a_table(session: Session) -> None:
    told = session.told
    assert (told["state"], told["shown"]) == ("finished", "<sweep rates: finished, 4 of 4 trials ended>")
    with Ledger.open(session.home) as ledger:
        rows = ledger.runs(parent="rates")
        tokens = sum(max(report.tokens for report in ledger.reports(row.name)) for row in rows)
    assert told["trials"] == [[row.name, row.state.value, row.step, row.metrics["eval/loss"]] for row in rows]
    assert told["tokens"] == tokens
    assert {"optim.lr", "adapter.rank", "reason", "seconds"} <= set(told["columns"])


def test_curves_have_every_value_that_was_recorded(session: Session) -> None:
    steps = [step for trial, step, _ in session.told["curves"] if trial == session.told["best"][0]]
    assert steps == [3, 6, 9, 12]
    assert {"train/loss", "eval/loss"} <= set(session.told["metrics"])


def test_the_best_trial_has_its_settings_and_its_adapter(session: Session) -> None:
    name, loss, settings, result = session.told["best"]
    assert loss == min(loss for _, state, _, loss in session.told["trials"] if state == "finished")
    assert name in {row[0] for row in session.told["trials"]}
    assert (settings, result) == (["adapter.rank", "optim.lr"], "adapter")


def test_runs_of_a_home_are_a_table_too(session: Session) -> None:
    assert session.told["runs"] == ["rates", "rates-00", "rates-01", "rates-02", "rates-03"]


def test_progress_in_a_notebook_is_plain_lines(session: Session) -> None:
    assert "rates-00 running to step 3 of 12" in session.printed
    assert f"report: {session.home / 'rates' / 'report.html'}" in session.printed
    assert "\x1b" not in session.printed


def test_what_the_sweep_taught_is_said_and_where_there_are_too_few_trials_that(session: Session) -> None:
    text = " ".join(session.told["conclusions"]).replace("\u00a0", " ")
    assert f"{session.told['best'][0]} has the best value" in text
    assert "4 trials with a value at step 3 are too few" in text
    assert "early saved" in text
    assert "busy" in text


def test_the_page_is_in_the_sweeps_mlflow_run(session: Session) -> None:
    assert session.told["page"] == str(session.home / "rates" / "report.html")
    with Ledger.open(session.home) as ledger:
        run = ledger.get("rates").mlflow_run_id
    artifacts = MlflowClient(f"sqlite:///{session.home}/mlflow.db").list_artifacts(run)
    assert "report.html" in {artifact.path for artifact in artifacts}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as running:
        yield running


@pytest.fixture
def page(browser: Browser, session: Session) -> Iterator[Page]:
    with opened(browser, Path(session.told["page"]).as_uri()) as report:
        yield report


@pytest.mark.browser
def test_each_part_of_the_page_draws_its_figures(page: Page) -> None:
    drawn = []
    for part in PARTS:
        page.click(f"#tab-{part}")
        for plot in page.locator(f"#{part} .plot").all():
            box = plot.locator(".main-svg").first.bounding_box()
            assert box is not None
            assert box["width"] > 200
            drawn.append(plot.get_attribute("data-figure"))
    assert drawn == ["rungs", "curve", "slice optim.lr", "slice adapter.rank", "parallel", "timeline"]


@pytest.mark.browser
def test_the_timeline_has_a_bar_for_each_stretch(page: Page, session: Session) -> None:
    page.click("#tab-cluster")
    spans = (session.home / "rates" / "timeline.jsonl").read_text().splitlines()
    assert page.locator("[data-figure=timeline] .bars .point").count() == len(spans) >= 4


@pytest.mark.browser
def test_a_phone_needs_no_sideways_scrolling_in_light_or_dark(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 700})
    for scheme, colour in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 23, 27)")):
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == colour
        for part in PARTS:
            page.click(f"#tab-{part}")
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, part


def test_a_training_is_one_call(session: Session, tmp_path: Path) -> None:
    folder = session.home.parent
    words = json.loads((folder / "rates.yaml").read_text())["base"]
    log, answers = tmp_path / "log", tmp_path / "answers.json"
    words = [*words, "optim.duration=4 steps", "optim.lr=0.01", "name=alone"]
    one = ("notebook_session", "train_one", [words, str(session.home), str(answers)])
    printed = finish(start(["--version"], log, before=one), log)
    assert json.loads(answers.read_text()) == ["alone", "finished", 4, 0.01, str(session.home / "alone" / "adapter")]
    assert "step 4/4" in printed
