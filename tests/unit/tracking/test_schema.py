"""Whether a store's tables fit the installed MLflow."""

from __future__ import annotations

from pathlib import Path

from ftcluster.tracking.schema import schema_problem

FILE = Path("/data/mlflow.db")
FIRST = "451aebb31d03"  # MLflow's oldest migration


def test_an_older_store_is_upgraded_by_a_command() -> None:
    problem = schema_problem([FIRST], FILE)
    assert problem is not None
    assert problem.text == "its tables are of an older MLflow"
    assert problem.remedy.endswith("mlflow db upgrade sqlite:////data/mlflow.db")


def test_a_revision_nobody_here_knows_is_of_a_newer_mlflow() -> None:
    problem = schema_problem(["ffffffffffff"], FILE)
    assert problem is not None
    assert "newer MLflow" in problem.text
