"""What every verb has in common: help, errors as sentences, exit codes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ftcluster.cli import main
from ftcluster.cli.app import VERBS, load
from ftcluster.errors import FtclusterError

RUN = [sys.executable, "-c", "import sys; from ftcluster.cli import main; sys.exit(main())"]


def test_help_names_every_verb_and_the_first_thing_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(verb in text for verb in VERBS)
    assert "ftcluster demo" in text


def test_no_words_show_help(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    captured = capsys.readouterr()
    assert "The main job" in captured.out + captured.err


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    from ftcluster import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ftcluster {__version__}\n"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from ftcluster.cli import main; main(['--help']);"
        "print(sorted({'torch', 'transformers', 'ray', 'mlflow', 'hydra', 'optuna', 'plotly'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"


def test_help_is_there_in_less_than_four_tenths_of_a_second_of_computing() -> None:
    def seconds() -> float:
        before = os.times().children_user + os.times().children_system
        subprocess.run([*RUN, "--help"], capture_output=True, check=True)
        return os.times().children_user + os.times().children_system - before

    assert min(seconds() for _ in range(3)) < 0.4


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert f"ftcluster {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_in_the_table_can_be_loaded(verb: str) -> None:
    assert load(verb).name == verb


def test_an_unknown_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert capsys.readouterr().err.startswith("error: trian is not a verb. Did you mean train?\n  -> verbs: train, ")


def test_an_unknown_option_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "--jsn"]) == 2
    assert "No such option" in capsys.readouterr().err


def test_an_error_is_a_sentence_on_stderr_with_the_exit_code_of_its_class(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "optim.rl=1"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: optim.rl is not a known key. Did you mean optim.lr or optim.clip?\n"
    assert captured.out == ""


@pytest.mark.parametrize("words", [["--debug", "config", "show", "lr=1"], ["config", "show", "lr=1", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "Traceback" in capsys.readouterr().err


def test_debug_can_be_switched_on_by_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTCLUSTER_DEBUG", "1")
    assert main(["config", "show", "lr=1"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_fault_of_ours_is_one_line_that_tells_how_to_see_more(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VERBS, "doctor", VERBS["doctor"]._replace(target="ftcluster.cli.nowhere:doctor"))
    assert main(["doctor"]) == 1
    assert capsys.readouterr().err == (
        "error: ModuleNotFoundError: No module named 'ftcluster.cli.nowhere'\n"
        "  -> run again with --debug for all of it\n"
    )
    assert main(["doctor", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["config", "show"], ["--version"]])
def test_a_reader_that_goes_away_makes_no_noise(words: list[str]) -> None:
    process = subprocess.Popen([*RUN, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), errors) == (1, b"")


def test_ctrl_c_exits_with_130_and_without_a_traceback() -> None:
    code = (
        "import os, signal, sys; from ftcluster.cli import main, app;"
        "app.load = lambda name: os.kill(os.getpid(), signal.SIGINT); sys.exit(main(['doctor']))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (ended.returncode, b"Traceback" in ended.stderr) == (130, False)


def test_the_documented_exit_codes_are_those_of_the_errors() -> None:
    table = (Path(__file__).parents[3] / "docs" / "cli.md").read_text(encoding="utf-8").split("## Exit codes")[1]
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", table.split("##")[0], re.MULTILINE)}
    kinds = [FtclusterError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert documented == {0} | {kind.exit_code for kind in kinds if kind.__module__ == "ftcluster.errors"}
