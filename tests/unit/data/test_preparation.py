"""Preparation with workers, long rows and several sources: the same folder every time, and nothing in silence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from small_disk import mounted
from transformers import PreTrainedTokenizerFast

from ftcluster.data.files import jsonlines
from ftcluster.data.prepared.folder import PreparedData, open_prepared
from ftcluster.data.prepared.prepare import prepare
from ftcluster.data.prepared.settings import DataSettings, Source
from ftcluster.errors import DataError, StoreError
from ftcluster.models.tokenizer import load_tokenizer

Write = Callable[..., str]
Run = Callable[..., PreparedData]


def _pairs(count: int, start: int = 0) -> list[dict[str, str]]:
    return [{"question": f"How many is {n}?", "answer": f"It is {n}."} for n in range(start, start + count)]


@pytest.fixture
def run(tmp_path: Path, chatml: PreTrainedTokenizerFast) -> Run:
    def run(*files: str, **options: Any) -> PreparedData:
        return prepare(DataSettings(train=files, **options), chatml, "chatml", tmp_path / "store")

    return run


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a few kilobytes have many blocks."""
    monkeypatch.setattr(jsonlines, "BLOCK_BYTES", 2000)


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# --- workers ---------------------------------------------------------------------------------------------------------


@pytest.mark.whole
@pytest.mark.usefixtures("small_blocks")
def test_the_folder_is_the_same_to_the_byte_however_many_workers_there_are(
    tmp_path: Path, write_rows: Write, tiny_qwen2: Path
) -> None:
    rows: list[dict[str, str]] = [*_pairs(900), *_pairs(40), *[{"question": "x", "answer": ""}] * 9]
    rows[5]["answer"] = rows[600]["answer"] = "word " * 300
    files = (write_rows(rows), write_rows(_pairs(100, start=300), "more.jsonl"))
    mixed = tuple(Source(f"s{i}", (file,), weight=1.0 + i, limit=500) for i, file in enumerate(files))
    test = write_rows(_pairs(30, start=880), "test.jsonl")
    load = partial(load_tokenizer, tiny_qwen2)
    for number, settings in enumerate(
        [
            DataSettings(mixed=mixed, test=(test,), max_bad_rows=0.1, max_length=200, too_long="split"),
            DataSettings(train=files, max_bad_rows=0.1, max_length=200, limit=333),
        ]
    ):
        made = [
            prepare(settings, load(), "tiny", tmp_path / f"store{number}-{workers}", load=load, workers=workers)
            for workers in (1, 2, 3)
        ]
        first, *others = [_contents(data.folder) for data in made]
        assert made[0].report.rows_read > 1000
        assert all(other == first for other in others)


def test_small_data_starts_no_process(run: Run, write_rows: Write) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    run(write_rows(_pairs(300)))
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


_PROGRAM = """
import sys
from functools import partial
from pathlib import Path
from ftcluster.data.files import jsonlines
from ftcluster.data.prepared.prepare import prepare
from ftcluster.data.prepared.settings import DataSettings
from ftcluster.errors import FtclusterError
from ftcluster.models.tokenizer import load_tokenizer

if __name__ == "__main__":
    jsonlines.BLOCK_BYTES = 20_000
    load = partial(load_tokenizer, Path(sys.argv[1]))
    told = lambda done, total: print(done, flush=True)
    try:
        prepare(DataSettings(train=(sys.argv[2],)), load(), "tiny", Path(sys.argv[3]), told, load=load, workers=2)
    except FtclusterError as error:
        sys.exit(str(error))
"""


def _start(tmp_path: Path, model: Path, file: str) -> subprocess.Popen[str]:
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM)
    arguments = [sys.executable, str(program), str(model), file, str(tmp_path / "store")]
    pipe = subprocess.PIPE
    return subprocess.Popen(arguments, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def _folders(store: Path) -> list[Path]:
    return [path for path in store.iterdir() if path.is_dir()]


def _gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 10
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.chaos
@pytest.mark.slow
def test_killed_while_it_prepares_it_leaves_nothing_to_read_and_the_next_start_cleans_up(
    tmp_path: Path, write_rows: Write, tiny_qwen2: Path
) -> None:
    file = write_rows(_pairs(40_000))
    store = tmp_path / "store"
    with _start(tmp_path, tiny_qwen2, file) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline()
        children = [child.pid for child in psutil.Process(parent.pid).children(recursive=True)]
        parent.kill()
    assert len(children) >= 2
    assert _gone(children)
    (left,) = _folders(store)
    assert left.name.startswith(".")
    with pytest.raises(StoreError, match="not a complete folder of prepared data"):
        open_prepared(left)
    tokenizer = load_tokenizer(tiny_qwen2)
    data = prepare(DataSettings(train=(file,)), tokenizer, "tiny", store)
    assert data.report.rows_used == 40_000
    assert _folders(store) == [data.folder]


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.parametrize("victim", ["worker", "ctrl-c"])
def test_a_killed_worker_and_ctrl_c_end_it_with_nothing_left_behind(
    tmp_path: Path, write_rows: Write, tiny_qwen2: Path, victim: str
) -> None:
    file = write_rows(_pairs(40_000))
    with _start(tmp_path, tiny_qwen2, file) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline()
        children = psutil.Process(parent.pid).children(recursive=True)
        if victim == "worker":
            worker = next(child for child in children if "spawn_main" in " ".join(child.cmdline()))
            worker.kill()
        else:
            os.killpg(parent.pid, signal.SIGINT)
        _, said = parent.communicate(timeout=60)
    assert parent.returncode != 0
    assert ("a worker process was killed" if victim == "worker" else "KeyboardInterrupt") in said
    assert said.count("Traceback") == (0 if victim == "worker" else 1)
    assert _folders(tmp_path / "store") == []
    assert _gone([child.pid for child in children])


@pytest.mark.slow
def test_a_disk_that_fills_up_is_named_and_keeps_nothing(tmp_path: Path, write_rows: Write, tiny_qwen2: Path) -> None:
    file = write_rows(_pairs(20_000))
    tokenizer = load_tokenizer(tiny_qwen2)
    with mounted(tmp_path / "small", "1m") as small:
        with pytest.raises(StoreError, match=r"cannot prepare data: .*No space left on device") as caught:
            prepare(DataSettings(train=(file,)), tokenizer, "tiny", small / "store")
        assert "free space there" in caught.value.remedy
        assert _folders(small / "store") == []


def test_a_file_that_grows_while_it_is_read_is_refused(
    write_rows: Write, tmp_path: Path, chatml: PreTrainedTokenizerFast
) -> None:
    file = write_rows(_pairs(300))
    settings = DataSettings(train=(file,))

    with pytest.raises(DataError, match="while it was read"):
        prepare(settings, chatml, "c", tmp_path / "store", lambda *_: write_rows(_pairs(301)) and None)
    assert _folders(tmp_path / "store") == []


@pytest.mark.slow
def test_a_second_start_takes_under_a_second_of_computing(run: Run, write_rows: Write) -> None:
    file = write_rows(_pairs(30_000))
    os.utime(file, (1_600_000_000, 1_600_000_000))
    run(file)
    started = time.process_time()
    run(file)
    assert time.process_time() - started < 1


# --- long rows -------------------------------------------------------------------------------------------------------


def _with_long_rows() -> list[dict[str, str]]:
    rows = _pairs(200)
    for index in (3, 60, 61, 199):
        rows[index] = {"question": f"Story {index}: " + "far away " * 80, "answer": f"It is {index}."}
    return rows


def _counted(found: Any) -> dict[str, int]:
    return {one.reason: one.rows for one in found}


def test_truncating_left_keeps_answers_and_says_which_rows_were_cut(
    run: Run, write_rows: Write, chatml: PreTrainedTokenizerFast
) -> None:
    file = write_rows(_with_long_rows())
    data = run(file, max_length=60, too_long="truncate_left")
    assert data.report.rows_used == 200
    assert data.report.dropped == ()
    cut = {one.reason: one for one in data.report.cut}["oldest tokens cut off to 60 (data.too_long=truncate_left)"]
    assert (cut.rows, sorted(cut.where)) == (4, sorted(f"{file}:{line}" for line in (4, 61, 62, 200)))
    for documents in (data.train, data.validation, data.test):
        for place, index in zip(documents.places(), range(len(documents)), strict=True):
            tokens, trained = documents.get(index)
            number = int(place.rpartition(":")[2]) - 1
            assert chatml.decode(tokens[trained]) == f"It is {number}.<|im_end|>"
            assert len(tokens) <= 60


def test_truncating_right_counts_cut_answers_and_rows_without_any(run: Run, write_rows: Write) -> None:
    rows = _with_long_rows()
    rows[7]["answer"] = "long " * 80
    data = run(write_rows(rows), max_length=60, too_long="truncate_right")
    assert _counted(data.report.dropped) == {"no trained token within 60 tokens (data.max_length)": 4}
    assert _counted(data.report.cut)["answer cut off at 60 tokens (data.too_long=truncate_right)"] == 1
    assert data.report.rows_used == 196


def test_splitting_counts_rows_once_and_their_windows_as_documents(run: Run, write_rows: Write) -> None:
    rows = [{"text": "far away " * n} for n in range(1, 200)]
    data = run(write_rows(rows), max_length=40, too_long="split", objective="pretrain")
    report = data.report
    assert (report.rows_used, report.dropped) == (199, ())
    assert sum(side.rows for side in report.splits.values()) == 199
    assert sum(side.documents for side in report.splits.values()) > 1000
    assert max(side.longest for side in report.splits.values()) == 40
    assert _counted(report.cut)["split into windows of 40 tokens (data.too_long=split)"] > 150
    assert len(data.held_out("test")) == len(data.test)


def test_held_out_rows_follow_the_rule_and_ask_the_whole_prompt_or_nothing(run: Run, write_rows: Write) -> None:
    train = write_rows(_pairs(100))
    held_out = _pairs(3, start=500)
    held_out[0]["question"] += " word" * 50  # too long to be read
    held_out[1]["question"] += " word" * 5  # of a row that is too long for the prompt alone is not
    held_out[1]["answer"] = "word " * 4
    data = run(
        train, validation=(write_rows(held_out, "v.jsonl"),), test_fraction=0.0, max_length=60, too_long="truncate_left"
    )
    asked = data.held_out("validation")
    assert len(asked) == len(data.validation) == 3
    assert [bool(question.messages) for question in asked] == [False, True, True]
    assert asked[0].reference == "It is 500."
    assert _counted(data.report.cut)["not asked: its prompt is longer than 60 tokens"] == 1


def test_the_histogram_counts_rows_before_they_are_cut(run: Run, write_rows: Write) -> None:
    data = run(write_rows(_with_long_rows()), max_length=64, too_long="truncate_left")
    ends = [one.tokens for one in data.report.lengths]
    assert ends[:16] == [4 * part for part in range(1, 17)]
    assert sum(one.rows for one in data.report.lengths) == 200
    assert sum(one.rows for one in data.report.lengths if one.tokens > 64) == 4


# --- what is trained -------------------------------------------------------------------------------------------------


def test_of_labelled_rows_sft_trains_those_with_a_thumb_up(run: Run, write_rows: Write) -> None:
    rows = [
        {
            "messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}],
            "label": n % 3 > 0,
        }
        for n in range(120)
    ]
    data = run(write_rows(rows))
    assert _counted(data.report.dropped) == {"thumbs down: sft trains rows with a thumb up": 40}
    assert (data.report.rows_used, data.report.rows_bad) == (80, 0)


def test_loss_on_everything_trains_prompts_too(run: Run, write_rows: Write) -> None:
    file = write_rows(_pairs(60))
    answers, everything = run(file), run(file, loss_on="everything")
    assert answers.folder != everything.folder
    assert everything.train.tokens == answers.train.tokens
    assert everything.train.trained_tokens > answers.train.trained_tokens


# --- sources ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def mix(tmp_path: Path, chatml: PreTrainedTokenizerFast) -> Callable[..., PreparedData]:
    def mix(*sources: Source, **options: Any) -> PreparedData:
        return prepare(DataSettings(mixed=sources, **options), chatml, "chatml", tmp_path / "store")

    return mix


def _of_source(data: PreparedData, start: int, end: int, chatml: PreTrainedTokenizerFast) -> list[int]:
    """Numbers asked in the epoch, of those from ``start`` to ``end``."""
    texts = [chatml.decode(data.train.get(int(index))[0]) for index in data.epoch]
    numbers = [int(text.split("How many is ")[1].split("?")[0]) for text in texts]
    return [number for number in numbers if start <= number < end]


def test_weights_decide_how_much_of_an_epoch_a_source_is(
    mix: Run, write_rows: Write, chatml: PreTrainedTokenizerFast
) -> None:
    one, two = write_rows(_pairs(100)), write_rows(_pairs(300, start=1000), "two.jsonl")
    data = mix(Source("one", (one,), weight=1), Source("two", (two,), weight=1))
    total = len(data.train)
    assert len(data.epoch) == total
    assert abs(len(_of_source(data, 0, 1000, chatml)) - total / 2) <= 1
    sources = data.report.sources
    assert sources["one"].documents + sources["two"].documents == total
    assert sources["one"].epoch_documents + sources["two"].epoch_documents == total == data.report.epoch.documents
    assert data.report.epoch.tokens == int(data.train.lengths[data.epoch].sum())
    assert all(len(documents) > 0 for documents in (data.validation, data.test))


def test_a_count_repeats_or_rests_rows_and_the_others_are_read_once(
    mix: Run, write_rows: Write, chatml: PreTrainedTokenizerFast
) -> None:
    one, two = write_rows(_pairs(50)), write_rows(_pairs(50, start=1000), "two.jsonl")
    held_out = write_rows(_pairs(5, start=5000), "v.jsonl")
    data = mix(Source("one", (one,), count=120), Source("two", (two,)), validation=(held_out,), test_fraction=0)
    times = np.bincount(_of_source(data, 0, 1000, chatml), minlength=50)
    assert (times.sum(), times.min(), times.max()) == (120, 2, 3)
    assert sorted(_of_source(data, 1000, 2000, chatml)) == list(range(1000, 1050))


def test_a_limit_takes_rows_by_content_so_that_smaller_ones_are_inside_larger_ones(
    mix: Run, write_rows: Write, chatml: PreTrainedTokenizerFast
) -> None:
    file, more = write_rows(_pairs(200)), write_rows([*_pairs(100, start=900), *_pairs(200)], "more.jsonl")
    small, large = (mix(Source("one", (file,), limit=limit)) for limit in (10, 40))
    taken = [set(_of_source(data, 0, 1000, chatml)) for data in (small, large)]
    assert [len(rows) for rows in taken] == [10, 40]
    assert taken[0] < taken[1]
    again = set(_of_source(mix(Source("one", (more,), limit=40)), 0, 900, chatml))
    assert again < taken[1]  # rows that were added took some places, and moved nothing else
    everything = mix(Source("one", (file,)))
    assert len(large.validation) == len(everything.validation)
    reason = "not among the 40 rows taken (data.sources.one.limit)"
    assert _counted(large.report.dropped)[reason] == len(everything.train) - 40
    assert large.report.rows_read == 200 == large.report.rows_used + sum(_counted(large.report.dropped).values())


def test_sources_of_different_formats_have_their_own_columns(mix: Run, write_rows: Write) -> None:
    one = write_rows([{"q": row["question"], "a": row["answer"]} for row in _pairs(60)])
    two = write_rows([{"instruction": f"Say {n}", "output": "ok"} for n in range(60)], "two.jsonl")
    data = mix(Source("one", (one,), "question_answer", {"question": "q", "answer": "a"}), Source("two", (two,)))
    assert data.report.formats == {one: "question_answer", two: "alpaca"}
    assert data.report.rows_used == 120


def test_a_weighted_source_that_loses_all_its_rows_is_named(mix: Run, write_rows: Write) -> None:
    two = write_rows([{"question": f"{n} " * 300, "answer": "b"} for n in range(50)], "two.jsonl")
    with pytest.raises(DataError, match=r"data.sources.two: no training rows are left of this source"):
        mix(Source("one", (write_rows(_pairs(90)),), weight=1), Source("two", (two,), weight=1), max_length=60)


def test_the_report_is_plain_json_that_reads_back(run: Run, write_rows: Write) -> None:
    data = run(write_rows(_with_long_rows()), max_length=60, too_long="truncate_left")
    stored = json.loads((data.folder / "report.json").read_text())
    assert stored["rows_used"] == 200
    assert stored["audit"]["rows"] == 200
    assert open_prepared(data.folder).report == data.report


def test_copies_are_counted_with_their_place_and_that_of_the_row_they_copy(run: Run, write_rows: Write) -> None:
    rows = _pairs(40)
    file = write_rows([*rows, rows[3], *_pairs(5, start=100), rows[3], rows[7]])
    found = run(file).report
    assert found.duplicates == 3
    assert found.copies == (f"{file}:41 like {file}:4", f"{file}:47 like {file}:4", f"{file}:48 like {file}:8")


def test_rows_that_are_left_out_are_nobodys_near_duplicates(run: Run, write_rows: Write) -> None:
    long = " ".join(f"word{n}" for n in range(200)) + " end "
    twins = [{"question": f"What happened, {n}?", "answer": long + str(n)} for n in range(6)]
    rows = write_rows([*_pairs(60), *twins])
    used = run(rows, max_length=4096).report.audit["near"]
    assert used["rows"] >= 5
    dropped = run(rows, max_length=60).report
    assert sum(one.rows for one in dropped.dropped) == 6
    assert dropped.audit["near"]["rows"] == used["rows"] - 5
    assert dropped.audit["near"]["looked_at"] == 60
