"""``ftcluster promote`` and ``ftcluster rollback`` as people and programs see them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import registry_samples
from registry_samples import Home

from ftcluster.cli import main
from ftcluster.cli.promote import _tracking_variable
from ftcluster.registry.store import Registry
from ftcluster.training.records import store_uri

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tiny_qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    return registry_samples.trained_home(tiny_qwen2, tmp_path_factory.getbasetemp() / "trained")


@pytest.fixture
def registry(home: Home) -> Registry:
    return Registry(store_uri(home.path, ""))


def test_promote_shows_gates_scores_and_how_to_load_it(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["promote", home.strong, "--name", "shown", "--home", str(home.path)]) == 0
    printed = capsys.readouterr().out
    for part in (
        "beats base",
        "answers finish",
        "version 1, champion",
        "PeftModel.from_pretrained",
        "models:/shown@champion",
    ):
        assert part in printed


def test_a_dry_run_shows_the_gates_and_moves_nothing(
    home: Home, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["promote", home.strong, "--name", "dry", "--home", str(home.path), "--dry-run"]) == 0
    assert "nothing was moved" in capsys.readouterr().out
    assert not registry.is_registered("dry")


def test_a_refusal_exits_with_8_and_still_prints_its_gates_as_json(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--name", "refused", "--home", str(home.path), "--json"]
    assert main(["promote", home.strong, *options]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["promotion"]["version"], done["promotion"]["run"]) == ("1", home.strong)
    assert main(["promote", home.weak, *options]) == 8
    printed = capsys.readouterr()
    refused = json.loads(printed.out)
    assert refused["promotion"] is None
    assert [gate["name"] for gate in refused["gates"] if not gate["passed"]] == ["holds champion"]
    assert "holds champion" in printed.err


def test_rollback_says_where_the_alias_went(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--home", str(home.path)]
    for run in (home.weak, home.strong):
        assert main(["promote", run, "--name", "verbs", *options]) == 0
    capsys.readouterr()
    assert main(["rollback", "verbs", *options]) == 0
    assert capsys.readouterr().out.strip() == f"verbs@champion is version 1 ({home.weak}) again, not 2"
    assert main(["rollback", "verbs", *options, "--json"]) == 8
    assert "no champion before version 1 is known" in capsys.readouterr().err


def test_rollback_takes_the_run_or_sweep_a_model_is_named_after(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--home", str(home.path)]
    for reference in (home.sweep, home.strong):
        for run in (home.weak, home.strong):
            assert main(["promote", run, *options, "--force", "to have one to go back to"]) == 0
        capsys.readouterr()
        assert main(["rollback", reference, *options, "--json"]) == 0
        done = json.loads(capsys.readouterr().out)
        assert (done["model"], done["run"]) == ("answers", home.weak)


def test_rollback_of_what_is_neither_model_nor_run_names_the_registry(
    home: Home, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rollback", "nobody", "--home", str(home.path)]) == 2
    assert f'{registry.uri}: there is no registered model "nobody"' in capsys.readouterr().err


def test_a_printed_command_names_an_mlflow_that_only_the_run_knows(home: Home) -> None:
    assert _tracking_variable(store_uri(home.path, ""), home.path) == ""
    assert _tracking_variable("http://mlflow:5000", home.path) == "MLFLOW_TRACKING_URI=http://mlflow:5000 "
