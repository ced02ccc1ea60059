"""``ftcluster data preview``: what a person and a program see of a row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftcluster.cli import main
from ftcluster.cli.data_preview import _coloured, _marked
from ftcluster.data.prepared.preview import Stretch

STRETCHES = (Stretch("Q\n", False), Stretch("A\x1b[2J", True), Stretch("<|im_end|>", True, True), Stretch("\n", False))


@pytest.fixture
def words(tiny_qwen2: Path, tmp_path: Path) -> list[str]:
    """The command line up to its options; the second row is too long, the third has no answer."""
    rows = [("The quick", "brown fox"), ("Q", "long " * 600), ("Q", ""), ("请帮我", "订一张票")]
    lines = [json.dumps({"question": question, "answer": answer}) for question, answer in rows]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    sides = ["data.validation_fraction=0", "data.test_fraction=0"]
    return ["data", "preview", str(tmp_path / "rows.jsonl"), f"model.path={tiny_qwen2}", *sides]


def test_without_colour_what_is_trained_stands_between_marks(
    capsys: pytest.CaptureFixture[str], words: list[str], tmp_path: Path
) -> None:
    assert main([*words, "-n", "4"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{tmp_path / 'rows.jsonl'}:1  row 1 of train  question_answer  ")
    assert "<|im_start|>user\nThe quick<|im_end|>\n<|im_start|>assistant\n〔brown fox<|im_end|>〕\n" in shown
    assert "rows.jsonl:2  row 2 of train" in shown
    assert "left out: longer than 512 tokens (data.max_length)" in shown
    assert "rows.jsonl:3  unreadable  question_answer\nleft out: answer is empty\n" in shown
    assert "〔订一张票<|im_end|>〕" in shown
    assert not list(tmp_path.glob("*prepared*"))


def test_any_setting_of_the_data_can_be_tried(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main([*words, "-n", "1", "data.template=plain", "objective.loss_on=everything"]) == 0
    assert "〔The quick\nbrown fox<|im_end|>〕\n" in capsys.readouterr().out
    assert main([*words, "--row", "2", "data.too_long=truncate_right", "data.max_length=20"]) == 0
    shown = capsys.readouterr().out
    assert "answer cut off at 20 tokens (data.too_long=truncate_right)\n" in shown
    assert main([*words, "--row", "2", "data.too_long=split", "data.max_length=400"]) == 0
    assert "part 2 of " in capsys.readouterr().out


def test_programs_get_the_stretches(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main([*words, "--row", "rows.jsonl:4", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["line"], row["split"], row["dropped"]) == (4, "train", "")
    (document,) = row["documents"]
    assert document[-1] == {"text": "<|im_end|>", "trained": True, "control": True}
    assert [stretch["text"] for stretch in document if stretch["trained"]] == ["订一张票", "<|im_end|>"]


def test_a_broken_template_is_an_error_with_its_line(
    capsys: pytest.CaptureFixture[str], words: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{{ messages }}\n{% endfor %}")
    assert main([*words, f"data.template={file}"]) == 3
    assert f"{file}:2: the chat template is not valid Jinja" in capsys.readouterr().err


def test_a_row_that_is_not_there_is_an_error(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main([*words, "--row", "rows.jsonl:9"]) == 2
    assert "rows.jsonl:9: there is no such row" in capsys.readouterr().err


def test_words_that_name_nothing_are_told_what_to_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "preview"]) == 2
    assert "ftcluster data preview rows.jsonl model.path=./qwen" in " ".join(capsys.readouterr().err.split())


def test_data_never_steers_the_terminal() -> None:
    assert _marked(STRETCHES) == "Q\n〔A␛[2J<|im_end|>〕\n"
    assert "\x1b" not in _coloured(STRETCHES).plain


def test_in_colour_what_is_trained_is_green_and_control_tokens_stand_out() -> None:
    text = _coloured(STRETCHES)
    assert [str(span.style) for span in text.spans] == ["bright_black", "green", "green reverse", "bright_black"]
    assert _marked((Stretch("A", True),)) == "〔A〕"
