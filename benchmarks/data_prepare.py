"""Tokens per second of preparing a file, ftcluster against ``datasets.map`` on all cores, and the memory it takes.

Both read the same JSONL of questions and answers, write conversations with the same chat template, tokenise with the
same tokenizer and mark the answers; the peer does so as TRL's SFTTrainer does (the prompt and the whole conversation
through ``apply_chat_template``), but batched, which is faster. ftcluster also splits, hashes, counts and examines the
rows, and starts its worker processes, on the same clock; the peer forks. Every token and flag of both is compared.

    python benchmarks/data_prepare.py [--rows FILE.jsonl] [--repeat 20] [--rounds 3] [--gigabytes 2]

With ``--gigabytes`` a file of that size is made on the spot and prepared by a process of its own, whose memory and
that of its workers is watched; then once more, which finds it done. The last line is one JSON object; ``ratio`` is
ftcluster's tokens/s over the peer's (file to tokens on both sides), ``ratio_to_map`` the same without the peer's
reading of the file.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from ftcluster.data.prepared.documents import Documents
from ftcluster.data.prepared.folder import PreparedData
from ftcluster.data.prepared.prepare import prepare
from ftcluster.data.prepared.settings import DataSettings
from ftcluster.data.prepared.workers import cores
from ftcluster.models.portable import portable

LENGTH = 4096
SHARED = Path(__file__).parents[2] / "shared" / "data" / "gsm8k_train.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, help="question/answer JSONL; default: gsm8k, else made on the spot")
    parser.add_argument("--repeat", type=int, default=20, help="how often the rows are repeated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--gigabytes", type=float, default=0.0, help="also prepare a file of this size")
    parser.add_argument("--watched", type=Path, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.watched:
        print(json.dumps(prepare_twice(*options.watched)))
        return
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        lines = _lines(options.rows)
        from ftcluster.models.tiny import train_tokenizer  # here: workers import this file, and not transformers

        texts = (" ".join(map(str, json.loads(line).values())) for line in lines)
        model = folder / "tokenizer"
        train_tokenizer(texts, vocabulary=options.vocabulary, max_length=LENGTH).save_pretrained(model)
        file = folder / "rows.jsonl"
        _write_rows(file, lines, most_rows=len(lines) * options.repeat)
        report = measure(file, model, folder, options.rounds)
        if options.gigabytes:
            report["large_file"] = watch(lines, model, folder, options.gigabytes)
    report |= {"cores": cores(), "cpu": platform.processor() or platform.machine()}
    print(json.dumps(report))


def _lines(rows: Path | None) -> list[str]:
    if rows or SHARED.exists():
        return (rows or SHARED).read_text(encoding="utf-8").splitlines()
    draw = random.Random(17)
    words = [f"word{n}" for n in range(2000)]

    def made(question: int, answer: int) -> str:
        return json.dumps(
            {"question": " ".join(draw.choices(words, k=question)), "answer": " ".join(draw.choices(words, k=answer))}
        )

    return [made(draw.randint(20, 80), draw.randint(30, 120)) for _ in range(7000)]


def measure(file: Path, model: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Alternate both; the first pair warms caches up and is compared token by token."""
    ratios, to_map, ours, theirs, work = [], [], [], [], []
    tokens = 0
    for number in range(rounds + 1):
        began = _cpu_seconds()
        seconds, data = _run_ftcluster(file, model, folder / f"store{number}")
        between = _cpu_seconds()
        reading, mapping, peer = _run_datasets(file, model, folder / f"cache{number}")
        cpu = between - began, _cpu_seconds() - between
        label = f"round {number}" if number else "warm-up"
        print(
            f"{label}: ftcluster {seconds:.1f} s ({cpu[0]:.1f} of CPU), "
            f"datasets {reading:.1f} + {mapping:.1f} s ({cpu[1]:.1f} of CPU)",
            flush=True,
        )
        if number == 0:
            tokens = compare(data, peer)
            print(f"equal: {tokens:,} tokens and their flags", flush=True)
        else:
            ours.append(tokens / seconds)
            theirs.append(tokens / (reading + mapping))
            ratios.append((reading + mapping) / seconds)
            to_map.append(mapping / seconds)
            work.append(cpu[1] / cpu[0])
        del data, peer
        shutil.rmtree(folder / f"store{number}")
        shutil.rmtree(folder / f"cache{number}")
    return {
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "ratio_to_map": round(statistics.median(to_map), 3),
        "ratio_of_cpu_time": round(statistics.median(work), 3),
        "ftcluster_tokens_per_s": round(statistics.median(ours)),
        "datasets_tokens_per_s": round(statistics.median(theirs)),
        "tokens": tokens,
        "bytes": file.stat().st_size,
        "equal": True,
    }


def _cpu_seconds() -> float:
    """Of this process and those that have ended: what a busy machine does not change much."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(used.ru_utime + used.ru_stime for used in both)


def _settings(file: Path) -> DataSettings:
    return DataSettings(train=(str(file),), format="question_answer", max_length=LENGTH)


def _run_ftcluster(file: Path, model: Path, store: Path) -> tuple[float, PreparedData]:
    from ftcluster.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(model)
    started = time.perf_counter()
    data = prepare(_settings(file), tokenizer, "benchmark", store, load=portable(tokenizer))
    return time.perf_counter() - started, data


def _run_datasets(file: Path, model: Path, cache: Path) -> tuple[float, float, Any]:
    import datasets

    from ftcluster.models.tokenizer import load_tokenizer

    datasets.disable_progress_bars()
    tokenizer = load_tokenizer(model)
    started = time.perf_counter()
    rows = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(cache))
    read = time.perf_counter()
    made = rows.map(
        _tokenise,
        batched=True,
        num_proc=cores(),
        remove_columns=rows.column_names,
        fn_kwargs={"tokenizer": tokenizer},
        load_from_cache_file=False,
    )
    return read - started, time.perf_counter() - read, made


def _tokenise(rows: dict[str, list[str]], tokenizer: Any) -> dict[str, list[Any]]:
    """The prompt, and the prompt with its answer; what is behind the prompt is trained, to the end of the turn."""
    prompts = [[{"role": "user", "content": question}] for question in rows["question"]]
    whole = [
        [*prompt, {"role": "assistant", "content": answer}]
        for prompt, answer in zip(prompts, rows["answer"], strict=True)
    ]
    options = {"tokenize": True, "return_dict": True, "return_attention_mask": False}
    before = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, **options)["input_ids"]
    ids = tokenizer.apply_chat_template(whole, **options)["input_ids"]
    ends = [len(row) - row[::-1].index(tokenizer.eos_token_id) for row in ids]
    return {
        "input_ids": [row[:end] for row, end in zip(ids, ends, strict=True)],
        "completion_mask": [
            [0] * len(prompt) + [1] * (end - len(prompt)) for prompt, end in zip(before, ends, strict=True)
        ],
    }


def compare(data: PreparedData, peer: Any) -> int:
    """Refuse any difference; returns the number of tokens."""
    tokens = 0
    columns = peer.with_format("numpy")
    for documents in (data.train, data.validation, data.test):
        tokens += documents.tokens
        for index, line in _numbered(documents):
            row = columns[line - 1]
            mine, flags = documents.get(index)
            if not (np.array_equal(mine, row["input_ids"]) and np.array_equal(flags, row["completion_mask"])):
                raise SystemExit(f"line {line} has other tokens or flags:\n{mine}\n{row}")
    if sum(map(len, (data.train, data.validation, data.test))) != len(peer):
        raise SystemExit("one of them left rows out")
    return tokens


def _numbered(documents: Documents) -> Iterator[tuple[int, int]]:
    return ((index, int(place.rpartition(":")[2])) for index, place in enumerate(documents.places()))


def watch(lines: list[str], model: Path, folder: Path, gigabytes: float) -> dict[str, Any]:
    """Prepare a large file in a process of its own, and see how much memory it and its workers take at most."""
    file, store = folder / "large.jsonl", folder / "large_store"
    rows = _write_rows(file, lines, most_bytes=gigabytes * 1e9)
    print(f"a file of {file.stat().st_size / 1e9:.2f} GB with {rows:,} rows", flush=True)
    words = [sys.executable, __file__, "--watched", str(file), str(model), str(store)]
    peaks: dict[int, float] = {}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        parent = psutil.Process(process.pid)
        while process.poll() is None:
            for one in _family(parent):
                peaks[one.pid] = max(peaks.get(one.pid, 0.0), _peak_mib(one.pid))
            time.sleep(0.2)
        said = process.stdout.read() if process.stdout else ""
    file.unlink()
    shutil.rmtree(store)
    workers = [peak for pid, peak in peaks.items() if pid != process.pid]
    found = json.loads(said.splitlines()[-1])
    found["peak_mib"] = {"parent": round(peaks[process.pid]), "largest_worker": round(max(workers, default=0))}
    return found


def _write_rows(file: Path, lines: list[str], *, most_rows: float = math.inf, most_bytes: float = math.inf) -> int:
    """The rows again and again, numbered so that none is a copy of another; returns how many."""
    count = size = 0
    with file.open("w", encoding="utf-8") as stream:
        while count < most_rows and size < most_bytes:
            values = json.loads(lines[count % len(lines)])
            values["question"] = f"({count}) {values['question']}"
            size += stream.write(json.dumps(values) + "\n")
            count += 1
    os.utime(file, (1_700_000_000, 1_700_000_000))  # settled: its hash may be remembered
    return count


def _family(parent: psutil.Process) -> list[psutil.Process]:
    try:
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _peak_mib(pid: int) -> float:
    """Peak resident memory as the kernel counts it, file pages included."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


def prepare_twice(file: Path, model: Path, store: Path) -> dict[str, Any]:
    """What the watched process does."""
    first, data = _run_ftcluster(file, model, store)
    second, _ = _run_ftcluster(file, model, store)
    tokens = sum(documents.tokens for documents in (data.train, data.validation, data.test))
    return {
        "bytes": file.stat().st_size,
        "rows": data.report.rows_used,
        "tokens": tokens,
        "seconds": round(first, 1),
        "second_start_s": round(second, 3),
    }


if __name__ == "__main__":
    main()
