"""Where MLflow is, and what an error of it looks like; no store is opened here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ftcluster.errors import TrackingError
from ftcluster.tracking.mlflow_store import artifact_root, mlflow_errors, tracking_uri


def test_without_a_configured_mlflow_it_is_a_file_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    uri = tracking_uri(Path("runs"), "")

    assert uri == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert artifact_root(uri) == f"file://{tmp_path}/runs/mlartifacts"


def test_a_configured_mlflow_is_used_as_it_is_and_keeps_its_artifacts_itself() -> None:
    assert tracking_uri(Path("runs"), "http://mlflow:5000") == "http://mlflow:5000"
    assert artifact_root("http://mlflow:5000") is None


def test_an_error_names_the_store_without_its_password_and_says_what_to_do() -> None:
    uri = "http://me:s3cret@mlflow:5000"

    with pytest.raises(TrackingError, match="MLflow did not take it: no route to http") as caught, mlflow_errors(uri):
        raise OSError(f"no route to {uri}\nand more lines")

    assert "s3cret" not in str(caught.value)
    assert caught.value.where == "http://***@mlflow:5000"
    assert "and more lines" not in str(caught.value)
    assert "ftcluster runs sync" in caught.value.remedy


def test_an_error_without_a_text_is_named_by_its_kind() -> None:
    with pytest.raises(TrackingError, match="MLflow did not take it: TimeoutError"), mlflow_errors("http://x"):
        raise TimeoutError


def test_importing_the_tracking_layer_imports_neither_mlflow_nor_torch() -> None:
    code = (
        "import sys, ftcluster.tracking.service, ftcluster.tracking.spool, ftcluster.tracking.history\n"
        "import ftcluster.tracking.lineage, ftcluster.tracking.system\n"
        "print([name for name in ('mlflow', 'torch') if name in sys.modules])"
    )

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
