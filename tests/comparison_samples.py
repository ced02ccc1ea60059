"""What comparisons are tested on: one made by hand, and a small sweep of real runs in a real ledger.

The one made by hand has eight trials, one of them broken, and prompts that attack the page. The real one is
trained by a worker in this process, as a host of the cluster would, to the state a driver leaves it in.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from ftcluster.comparison.findings import Comparison, Contender, Differences, ranked
from ftcluster.config.schema import (
    AdapterConfig,
    DataConfig,
    EngineConfig,
    EvaluationConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    SweepConfig,
)
from ftcluster.config.values import to_dict
from ftcluster.contracts.evidence import TestRecord
from ftcluster.contracts.trial import RunState
from ftcluster.evaluation.bootstrap import loss_difference, match_difference
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.tracking.spool import SpoolTracker
from ftcluster.training.bench import prepare_data
from ftcluster.training.worker import Job, Worker

ATTACK = "<script>window.hacked = 1</script><img src=x onerror='window.hacked=2'>"
CITIES = ("上海", "Paris", "北京", "Lima", "东京", "Oslo")


def record(subject: str, share: float, *, rows: int = 60, answers: bool = True) -> TestRecord:
    """A record in which the first ``share`` of the answers is right; one prompt and one answer attack the page."""
    draw = np.random.default_rng(7)
    weights = tuple(float(w) for w in draw.integers(5, 30, rows))
    losses = tuple(
        w * (1.6 - 1.4 * share) * float(u) for w, u in zip(weights, draw.uniform(0.8, 1.2, rows), strict=True)
    )
    prompts = [
        f"查一下{CITIES[i % 6]}第 {i} 天的天气" if i % 2 else f"What is the weather in {CITIES[i % 6]} on day {i}?"
        for i in range(rows)
    ]
    references = [f'{{"tool":"get_weather","arguments":{{"city":"{CITIES[i % 6]}","day":{i}}}}}' for i in range(rows)]
    prompts[1] = ATTACK
    written = [
        r if i < share * rows else r.replace("get_weather", "weather").replace("上海", "上每")
        for i, r in enumerate(references)
    ]
    written[rows - 1] = ATTACK
    return TestRecord(
        subject,
        "0123456789abcdef" * 2,
        losses,
        weights,
        tuple(prompts),
        tuple(references) if answers else ("",) * rows,
        tuple(written) if answers else (),
        tuple(i % 9 != 8 for i in range(rows)) if answers else (),
    )


def contender(number: int, state: RunState = RunState.FINISHED, score: float | None = None) -> Contender:
    """A trial whose curves fall to its score."""
    steps = {RunState.FINISHED: 400, RunState.PRUNED: 100, RunState.FAILED: 37}.get(state, 50)
    final = score if score is not None else math.nan
    falling = tuple((step, final + 2.0 * math.exp(-step / 90)) for step in range(1, steps + 1, 4))
    rungs = tuple((step, final + 2.0 * math.exp(-step / 90)) for step in (50, 100, 200, 400) if step <= steps)
    rate = 10 ** (-4 + number / 3)
    parameters = {
        "optim.lr": rate,
        "adapter.rank": (4, 8, 16)[number % 3],
        "adapter.targets": ["q_proj", "v_proj"][: 1 + number % 2],
    }
    return Contender(
        name=f"demo-{number:03}",
        number=number,
        state=state,
        reason={RunState.PRUNED: "rank 6 of 8 at rung 1", RunState.FAILED: "Diverged: the loss became nan\ndetail"}.get(
            state, ""
        ),
        step=steps,
        folder=f"home/demo/{number:03}",
        parameters=parameters,
        config={**parameters, "model.path": "models/tiny", "optim.batch_size": 16},
        metrics={"eval/loss": final} if score is not None else {},
        score=score,
        tokens_per_s=12345.6 + number,
        seconds=61.0 + number,
        curves={"train/loss": falling, "eval/loss": rungs} if score is not None else {},
        rungs=rungs if score is not None else (),
    )


def sample(*, answers: bool = True) -> Comparison:
    """Trials 2 and 4 are alike and better than the base, trial 5 is worse than they are, trial 7 diverged."""
    shares = {4: 0.84, 2: 0.82, 5: 0.5}
    base = record("base", 0.02, answers=answers)
    best = record("demo-004", shares[4], answers=answers)
    found = []
    for number in range(8):
        state = RunState.FAILED if number == 7 else RunState.FINISHED if number in shares else RunState.PRUNED
        score = None if number == 7 else 0.2 + 0.08 * abs(number - 4) - (0.06 if number == 2 else 0)
        one = contender(number, state, score)
        if number in shares:
            tested = record(one.name, shares[number], answers=answers)
            one = replace(
                one,
                record=tested,
                against_base=differences(tested, base),
                against_best=differences(tested, best) if number != 4 else None,
            )
        found.append(one)
    return Comparison(
        title="demo",
        name="demo",
        metric="eval/loss",
        direction="minimize",
        contenders=tuple(ranked(found, "minimize")),
        base=base,
        log_keys=frozenset({"optim.lr"}),
        facts={"prepared data": "0123456789abcdef" * 2, "train rows": "900 (41,000 tokens)", "machine": ATTACK},
        made_at=1_760_000_000.0,
    )


def differences(subject: TestRecord, reference: TestRecord) -> Differences:
    """Both differences of two records."""
    return Differences(reference.subject, loss_difference(subject, reference), match_difference(subject, reference))


def run_config(home: Path, model: Path, rows: int = 80, **changes: object) -> RunConfig:
    """A run of four steps on rows in English and Chinese, written below ``home``."""
    file = home / f"rows-{rows}.jsonl"
    if not file.exists():
        home.mkdir(parents=True, exist_ok=True)
        pairs = [{"prompt": f"{CITIES[i % 6]} {i}?", "completion": f"fox {i % 6}"} for i in range(rows)]
        pairs[-1]["prompt"] = ATTACK
        file.write_text("".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs), encoding="utf-8")
    config = RunConfig(
        home=str(home),
        model=ModelConfig(path=str(model)),
        data=DataConfig(train=[str(file)], validation_fraction=0.2, test_fraction=0.3),
        adapter=AdapterConfig(rank=2, alpha=4.0),
        optim=OptimConfig(lr=1e-2, duration="4 steps", batch_size=8, micro_batch=8),
        engine=EngineConfig(device="cpu", precision="fp32"),
        evaluation=EvaluationConfig(every="2 steps", max_new_tokens=4),
    )
    return replace(config, **changes)


def train_run(
    ledger: Ledger, worker: Worker, row: RunRow, config: RunConfig, end: RunState = RunState.FINISHED
) -> None:
    """Train a run for real and leave it in the ledger as a driver does."""
    ledger.add(replace(row, config=to_dict(replace(config, name=row.name))))
    ledger.set_state(row.name, RunState.RUNNING)
    job = Job(ledger.get(row.name).config, row.folder, str(prepare_data(config).folder), None, {"git.commit": "c0ffee"})
    outcome = worker.run(job)
    assert outcome.report, outcome.error
    ledger.record(replace(outcome.report, name=row.name), rung=0)
    ledger.set_state(row.name, end, reason="" if end is RunState.FINISHED else "below the cut after step 4")


def finished_sweep(home: Path, model: Path, rates: tuple[float, ...] = (1e-4, 1e-2, 3e-3)) -> str:
    """A sweep over learning rates; the last trial is pruned. Returns its name."""
    worker = Worker(threads=1)
    base = run_config(home, model)
    spec = SweepConfig(name="rates", space={"optim.lr": "tag(log, interval(1e-4, 1e-2))"})
    with Ledger.open(home) as ledger:
        ledger.add(RunRow("rates", "sweep", str(home / "rates"), {"spec": to_dict(spec), "base": to_dict(base)}))
        SpoolTracker(home / "rates").close()
        for number, rate in enumerate(rates):
            name = f"rates-{number}"
            row = RunRow(
                name, "trial", str(home / "rates" / name), {}, {"optim.lr": rate}, parent="rates", number=number
            )
            end = RunState.PRUNED if number == len(rates) - 1 else RunState.FINISHED
            train_run(ledger, worker, row, replace(base, optim=replace(base.optim, lr=rate)), end)
    return "rates"
