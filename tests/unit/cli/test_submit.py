"""What ``ftcluster submit`` refuses before anything travels, and how it names and completes."""

from __future__ import annotations

from datetime import datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ftcluster.cli import main
from ftcluster.cli.complete import complete_command
from ftcluster.cli.submit import job_name


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "what should the cluster run?"),
        (["--list", "config", "show"], "a command, --follow, --stop and --list exclude each other"),
        (["--follow", "a", "--stop", "a"], "a command, --follow, --stop and --list exclude each other"),
        (["trian"], "trian is not a verb. Did you mean train?"),
        (["ui"], "ui is for the terminal it is typed in"),
        (["train", "experiment=lora_sft"], "home: without a home the results would lie in the job's working folder"),
        (["train", "home=runs"], "home: home=runs would lie in the job's working folder"),
        (["sweep", "a.yaml", "--home", "runs"], "home: home=runs would lie in the job's working folder"),
        (["sweep", "a.yaml", "--home=runs"], "home: home=runs would lie in the job's working folder"),
        (["--env", "NOT_SET_ANYWHERE", "config", "show"], "--env: not set here: NOT_SET_ANYWHERE"),
    ],
)
def test_what_could_not_work_on_a_cluster_is_refused_here(
    words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", *words]) == 2
    assert capsys.readouterr().err.startswith(f"error: {text}")


@pytest.mark.parametrize("words", [["train", "home=/shared"], ["--env", "FTCLUSTER_HOME", "train"], ["runs"]])
def test_what_could_work_gets_as_far_as_the_cluster(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTCLUSTER_HOME", "/shared")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    assert main(["submit", *words]) == 2
    assert "http://127.0.0.1:1: no Ray dashboard answers there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"RAY_ADDRESS": "http://127.0.0.1:2"}, "http://127.0.0.1:2"),
        ({"RAY_ADDRESS": "http://127.0.0.1:2", "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:3"}, "http://127.0.0.1:3"),
    ],
)
def test_the_address_comes_from_rays_own_variables(
    variables: dict[str, str], expected: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(["submit", "--list"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {expected}: ")


def test_a_job_is_named_after_its_verb_and_moment() -> None:
    assert job_name("sweep", datetime(2026, 11, 22, 9, 30, 5), "4f2a") == "sweep-1122-093005-4f2a"


def completed(before: list[str], incomplete: str) -> list[str]:
    context = cast(Any, SimpleNamespace(params={"command": before or None}))
    return [word for word, _ in complete_command(context, incomplete)]


def test_verbs_sweeps_and_words_complete() -> None:
    assert completed([], "tr") == ["train"]
    assert completed(["sweep"], "tool") == ["tool_calls"]
    assert completed(["train"], "model=t") == ["model=tiny"]
