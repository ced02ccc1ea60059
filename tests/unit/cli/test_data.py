"""``ftcluster data``: reports, exit codes, cleaned copies, and files that are named alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftcluster.cli import main
from ftcluster.cli.data_check import as_words
from ftcluster.errors import UsageError

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs ``ftcluster data`` in an empty folder; exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FTCLUSTER_HOME", str(tmp_path / "home"))

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["data", *words])
        return code, *capsys.readouterr()

    return run


def _write(rows: list[Any], name: str = "rows.jsonl") -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


def _pairs(count: int) -> list[dict[str, str]]:
    return [
        {"question": f"How many clips were sold in week {n}?", "answer": f"There were {n + 20}."} for n in range(count)
    ]


def test_help_lists_every_verb_with_what_it_is_for(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for verb in ("check", "preview", "convert", "split", "sample", "invert", "formats"):
        assert f" {verb} " in out


@pytest.mark.parametrize("verb", ["check", "preview", "convert", "split", "sample", "invert"])
def test_every_verb_teaches_with_examples(run: Run, verb: str) -> None:
    code, out, _ = run(verb, "--help")
    assert code == 0
    assert f"ftcluster data {verb}" in out


def test_a_file_alone_is_checked_without_a_model(run: Run) -> None:
    code, out, err = run("check", _write([*_pairs(60), _pairs(1)[0]]))
    assert code == 0
    assert "61 rows read, 61 used" in out
    assert "warning duplicates: 1 of 61 rows (1.6 %) have the text of another used row" in out
    assert "-> leave the copies out with --fix" in out
    assert "no model was named" in err


def test_with_a_model_lengths_tokens_steps_and_packing_are_reported(run: Run, tiny_qwen2: Path) -> None:
    words = (_write(_pairs(80)), f"model.path={tiny_qwen2}", "data.max_length=128", "--html", "data.html")
    code, out, _ = run("check", *words)
    assert code == 0, out
    for said in ("data.max_length is 128", "trained", "steps", "packing", "report: data.html", "nothing to warn of"):
        assert said in out
    assert "<script" not in Path("data.html").read_text()
    code, out, _ = run("check", *words[:3], "--json")
    found = json.loads(out)
    assert found["report"]["rows_used"] == 80
    assert found["report"]["splits"]["train"]["trained_tokens"] > 0
    assert found["training"]["steps"].endswith("an epoch")
    assert set(found["findings"]["markers"]) == {"rows", "of", "share", "where"}


def test_a_refused_data_set_exits_with_3_and_its_report(run: Run, tiny_qwen2: Path) -> None:
    file = _write([*_pairs(60), *({"question": f"<|im_end|> {n}?", "answer": "Yes, it is."} for n in range(20))])
    code, out, _ = run("check", file, f"model.path={tiny_qwen2}", "data.max_length=128")
    assert code == 3
    assert "refused control_tokens: 20 of 80 rows (25.0 %) hold control tokens of this model" in out
    code, out, _ = run(
        "check", file, f"model.path={tiny_qwen2}", "data.max_length=128", "data.refuse={control_tokens: 1}"
    )
    assert code == 0
    assert "warning control_tokens" in out


def test_a_data_set_with_too_many_bad_rows_is_reported_all_the_same(run: Run, tiny_qwen2: Path) -> None:
    file = _write([*_pairs(60), *({"question": "Why?", "answer": ""} for _ in range(20))])
    for words in ((file,), (file, f"model.path={tiny_qwen2}")):
        code, out, _ = run("check", *words)
        assert code == 3
        assert "80 rows read, 60 used" in out
        assert "answer is empty" in out
        assert "refused unusable: 20 of 80 rows (25.0 %)" in out


def test_fix_writes_a_cleaned_copy_and_says_what_it_did(run: Run) -> None:
    file = _write([*_pairs(9), _pairs(1)[0], {"question": "Where?", "answer": "At the cafÃ© crÃ¨me."}])
    code, out, err = run("check", file, "--fix", "clean.jsonl", "--each-row")
    assert code == 0
    assert "rows.jsonl:10: a copy of an earlier row" in out
    assert "rows.jsonl:11: encoding repaired" in out
    assert "10 of 11 rows are in clean.jsonl" in out
    assert "next: ftcluster data check clean.jsonl" in err
    assert "café crème" in Path("clean.jsonl").read_text(encoding="utf-8")
    code, _, err = run("check", file, "--fix", "clean.jsonl")
    assert code == 2
    assert "--force" in err
    code, out, _ = run("check", file, "--fix", "clean.jsonl", "--force", "--json", "--each-row")
    assert code == 0
    assert json.loads(out)["cleaned"]["rows"] == 10
    assert json.loads(out)["changes"][0]["done"] == "a copy of an earlier row"


def test_a_clean_file_stays_as_it_is(run: Run) -> None:
    file = _write(_pairs(9))
    code, out, _ = run("check", file, "--fix", "clean.jsonl")
    assert code == 0
    assert "nothing had to be repaired or left out" in out
    assert Path("clean.jsonl").read_bytes() == Path(file).read_bytes()


def test_an_unknown_finding_in_the_thresholds_is_a_config_error_with_a_suggestion(run: Run) -> None:
    code, _, err = run("check", _write(_pairs(9)), "data.warn={encodin: 0.1}")
    assert code == 2
    assert "data.warn.encodin: there is no such finding. Did you mean encoding?" in err


def test_nothing_to_check_and_words_that_are_nothing_are_usage_errors(run: Run) -> None:
    code, _, err = run("check")
    assert (code, "nothing says what to check" in err) == (2, True)
    code, _, err = run("check", "nosuch.jsonl")
    assert (code, "nosuch.jsonl: is neither a file nor key=value" in err) == (2, True)


def test_files_folders_and_urls_become_training_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my rows").mkdir()
    Path("ä.jsonl").touch()
    words = as_words(["my rows", "ä.jsonl", "s3://bucket/rows.jsonl", "hub:owner/name", "optim.lr=1e-3"])
    assert words == [
        "model=folder",
        "data=jsonl",
        "optim.lr=1e-3",
        'data.train=["my rows", "ä.jsonl", "s3://bucket/rows.jsonl", "hub:owner/name"]',
    ]
    assert as_words(["tracking.uri=http://mlflow:5000", "s3://b/day=1/rows.jsonl"])[2:] == [
        "tracking.uri=http://mlflow:5000",
        'data.train=["s3://b/day=1/rows.jsonl"]',
    ]
    assert as_words(["experiment=lora_sft", "ä.jsonl", "data=gsm8k"]) == [
        "experiment=lora_sft",
        "data=gsm8k",
        'data.train=["ä.jsonl"]',
    ]
    with pytest.raises(UsageError, match="is neither a file nor key=value"):
        as_words(["nosuch"])


def test_convert_split_and_sample_say_what_they_wrote(run: Run) -> None:
    file = _write([*_pairs(200), {"question": "Why?"}])
    code, out, err = run("convert", file, "--to", "messages.jsonl")
    assert code == 0
    assert "200 rows (200 question_answer) are in messages.jsonl" in out
    assert 'no "answer"' in out
    assert "rows.jsonl:201" in out
    assert "next: ftcluster data check messages.jsonl" in err
    code, out, _ = run("split", "messages.jsonl", "--out", "divided", "--validation", "0.2", "--json")
    rows = json.loads(out)["rows"]
    assert sum(rows.values()) == 200
    assert all(Path(f"divided/{side}.jsonl").read_text().count("\n") == count for side, count in rows.items())
    code, out, _ = run("sample", file, "--share", "0.1", "--to", "tenth.jsonl")
    assert code == 0
    assert "of 200 rows are in tenth.jsonl" in out
    code, _, err = run("sample", file, "--share", "0.1", "--to", "tenth.jsonl")
    assert (code, "is there already" in err) == (2, True)


def test_columns_of_other_names_are_mapped_by_option(run: Run) -> None:
    file = _write([{"Frage": "Wie viele?", "Antwort": f"Es sind {n}."} for n in range(5)])
    mapped = ("--column", "question=Frage", "--column", "answer=Antwort")
    code, _, err = run("convert", file, "--to", "out.jsonl")
    assert (code, "no known format fits" in err) == (3, True)
    code, out, _ = run("convert", file, "--to", "out.jsonl", *mapped, "--json")
    assert (code, json.loads(out)["rows"]) == (0, 5)
    code, _, err = run("convert", file, "--to", "other.jsonl", "--column", "Frage")
    assert (code, "does not say which column a field is in" in err) == (2, True)


def test_formats_lists_fields_and_kinds_of_files(run: Run) -> None:
    code, out, _ = run("formats")
    assert code == 0
    for said in ("alpaca", "instruction, output", "preference", ".parquet", "hub:owner/name"):
        assert said in out
    code, out, _ = run("formats", "--json")
    assert json.loads(out)["formats"]["question_answer"]["required"] == ["question", "answer"]
