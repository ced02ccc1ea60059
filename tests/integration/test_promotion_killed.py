"""Promotion and rollback killed at every write: the champion is the old or the new one, and the next try completes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import registry_samples
from registry_samples import Home

from ftcluster.ledger.store import Ledger
from ftcluster.registry.examination import Case, examine
from ftcluster.registry.promotion import Promotion, carry_out, promote
from ftcluster.registry.rollback import roll_back
from ftcluster.registry.store import Registry
from ftcluster.tracking.mlflow_store import open_client
from ftcluster.training.records import store_uri

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

KILLER = """
import json, os, signal, sys
from pathlib import Path
from ftcluster.ledger.store import Ledger
from ftcluster.registry.examination import examine
from ftcluster.registry.promotion import carry_out
from ftcluster.registry.rollback import roll_back
import mlflow, mlflow.artifacts

home, uri, jobs = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])

def die_at(write):
    def before(name):
        if name == write:
            os.kill(os.getpid(), signal.SIGKILL)
    return before

for what, run, model, write in jobs:
    child = os.fork()
    if child == 0:
        try:
            if what == "rollback":
                roll_back(model, uri=uri, before_write=die_at(write))
            else:
                with Ledger.open(home) as ledger:
                    case = examine(ledger, run, home=home, model_name=model)
                carry_out(case, before_write=die_at(write))
        finally:
            os._exit(3)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (what, model, write, status)
"""
FIRST = ("test.json", "evidence.json", "model", "version", "history", "alias")
NEXT = tuple(write for write in FIRST if write != "model")
BACK = ("history", "alias", "note")


@pytest.fixture(scope="module")
def home(tiny_qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    return registry_samples.trained_home(tiny_qwen2, tmp_path_factory.getbasetemp() / "trained")


@pytest.fixture(scope="module")
def ledger(home: Home) -> Iterator[Ledger]:
    with Ledger.open(home.path) as opened:
        yield opened


@pytest.fixture(scope="module")
def uri(home: Home) -> str:
    return store_uri(home.path, "")


@pytest.fixture
def registry(uri: str) -> Registry:
    return Registry(uri)


@pytest.fixture
def give(home: Home, ledger: Ledger) -> Callable[..., Promotion]:
    """Promote a run under a model name of the test's own."""

    def promote_it(run: str, model: str, **options: Any) -> Promotion:
        return promote(ledger, run, home=home.path, model_name=model, **options)

    return promote_it


def versions(uri: str, model: str) -> list[str]:
    return sorted(str(v.version) for v in open_client(uri).search_model_versions(f"name='{model}'"))


def writes(act: Callable[[Callable[[str], None]], object]) -> tuple[str, ...]:
    """The names of all writes an action makes."""
    seen: list[str] = []
    act(seen.append)
    return tuple(seen)


@pytest.fixture(scope="module")
def killed(home: Home, ledger: Ledger, uri: str) -> dict[str, dict[str, str]]:
    """Models whose first promotion, next promotion or rollback was killed; by what was done and the write it met."""
    models = {
        what: {write: f"{what}-{write}" for write in all_writes}
        for what, all_writes in (("first", FIRST), ("next", NEXT), ("rollback", BACK))
    }
    for model in (*models["next"].values(), *models["rollback"].values()):
        promote(ledger, home.weak, home=home.path, model_name=model)
    for model in models["rollback"].values():
        promote(ledger, home.strong, home=home.path, model_name=model)
    jobs = [(what, home.strong, model, write) for what, each in models.items() for write, model in each.items()]
    killer = subprocess.run(
        [sys.executable, "-c", KILLER, str(home.path), uri, json.dumps(jobs)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert killer.returncode == 0, killer.stderr
    return models


def case_of(home: Home, ledger: Ledger, run: str, model: str) -> Case:
    return examine(ledger, run, home=home.path, model_name=model)


def test_the_writes_at_which_processes_are_killed_below_are_all_there_are(home: Home, ledger: Ledger, uri: str) -> None:
    first = case_of(home, ledger, home.weak, "writes")
    assert writes(lambda hook: carry_out(first, before_write=hook)) == FIRST
    following = case_of(home, ledger, home.strong, "writes")
    assert writes(lambda hook: carry_out(following, before_write=hook)) == NEXT
    assert writes(lambda hook: roll_back("writes", uri=uri, before_write=hook)) == BACK


def test_a_promotion_killed_at_any_write_leaves_the_old_champion_and_is_completed_by_the_next(
    give: Callable[..., Promotion], home: Home, registry: Registry, uri: str, killed: dict[str, dict[str, str]]
) -> None:
    for write, model in killed["next"].items():
        champion = registry.champion(model, "champion")
        assert champion is not None, write
        assert (champion.number, registry.history(model, "champion")) == ("1", ["1"]), write
        assert give(home.strong, model).previous == "1"
        assert versions(uri, model) == ["1", "2"], write
        assert registry.history(model, "champion") == ["1", "2"], write
        assert roll_back(model, uri=uri).version == "1"


def test_a_first_promotion_killed_at_any_write_leaves_no_champion_and_is_completed_by_the_next(
    give: Callable[..., Promotion], home: Home, registry: Registry, uri: str, killed: dict[str, dict[str, str]]
) -> None:
    for write, model in killed["first"].items():
        assert registry.champion(model, "champion") is None, write
        give(home.strong, model)
        assert versions(uri, model) == ["1"], write
        assert registry.history(model, "champion") == ["1"], write


def test_a_rollback_killed_at_any_write_leaves_one_of_the_two_champions(
    registry: Registry, killed: dict[str, dict[str, str]]
) -> None:
    expected = {"history": ["1", "2"], "alias": ["1", "2"], "note": ["1"]}
    for write, model in killed["rollback"].items():
        assert registry.history(model, "champion") == expected[write]
        champion = registry.champion(model, "champion")
        assert champion is not None
        assert champion.number == expected[write][-1]
