"""Sharded training on school mathematics: a group of ranks learns, and trials of several sizes share a cluster well."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from programs import call, finish, start
from training_samples import World, curves, make_world
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftcluster.contracts.folder import RunFolder
from ftcluster.contracts.trial import RunState
from ftcluster.ledger.store import Ledger
from ftcluster.models.tiny import create_tiny_model
from ftcluster.sweep import timeline
from ftcluster.sweep.timeline import Span
from ftcluster.tracking.history import read_metrics

pytest.importorskip("deepspeed", reason="sharded trials need DeepSpeed")

ROWS = 400
GPUS = 2  # of a node


@pytest.fixture(scope="module")
def mathematics(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The first rows of GSM8K, and a model whose tokenizer was made for them."""
    world = World(tmp_path_factory.mktemp("mathematics"))
    lines = (real_data / "gsm8k_train.jsonl").read_text(encoding="utf-8").splitlines()[:ROWS]
    world.rows.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    texts = [" ".join(json.loads(line).values()) for line in lines]
    create_tiny_model(world.model, texts, hidden_size=128, layers=2, vocabulary=800)
    return world


@pytest.mark.whole
def test_two_ranks_learn_school_mathematics_and_peft_loads_what_they_learned(
    mathematics: World, tmp_path: Path
) -> None:
    length = ["optim.duration=30 steps", "evaluation.every=10 steps", "evaluation.max_rows=16"]
    sizes = ["engine=zero3", "cluster.ranks=2", "optim.micro_batch=4", "optim.lr=5e-3"]
    call(mathematics.arguments(tmp_path, *length, *sizes, "name=run"), tmp_path / "log")
    with Ledger.open(tmp_path) as ledger:
        row = ledger.get("run")
    assert (row.state, row.step) == (RunState.FINISHED, 30)
    told = {point.step: point.value for point in read_metrics(Path(row.folder))["eval/loss"]}
    assert list(told) == [10, 20, 30]
    assert told[30] < told[20] < told[10] - 0.05
    base = AutoModelForCausalLM.from_pretrained(mathematics.model)
    before = surprise(base, mathematics)
    learned = PeftModel.from_pretrained(base, RunFolder(Path(row.folder)).adapter)
    assert surprise(learned, mathematics) < before - 0.3


def surprise(model: torch.nn.Module, world: World) -> float:
    """The mean loss of some answers, as plain transformers has it."""
    tokenizer = AutoTokenizer.from_pretrained(world.model)
    answers = [json.loads(line)["answer"] for line in world.rows.read_text(encoding="utf-8").splitlines()[:16]]
    tokens = [tokenizer(answer, return_tensors="pt")["input_ids"] for answer in answers]
    with torch.no_grad():
        return sum(float(model(input_ids=each, labels=each).loss) for each in tokens) / len(tokens)


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    """That of school mathematics, or a made-up one where its data are not there."""
    try:
        return request.getfixturevalue("mathematics")
    except pytest.skip.Exception:
        return make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.thorough
def test_a_sweep_of_trials_of_one_and_two_ranks_leaves_no_gpu_idle_that_a_trial_waits_for_and_each_equals_its_run_alone(
    world: World, tmp_path: Path
) -> None:
    common = ["engine=zero3", "optim.duration=80 steps", "evaluation.every=40 steps"]
    sweep = {
        "name": "mixed",
        "base": world.words(*common),
        "space": {"adapter.rank": "choice(2, 4, 8, 16, 32)", "cluster.ranks": "choice(1, 2)"},
        "constraints": ["cluster.ranks == 2 or adapter.rank <= 4"],
        "sampler": {"name": "grid"},
        "budget": {"trials": 7},
    }
    (tmp_path / "mixed.yaml").write_text(json.dumps(sweep))
    home, log = tmp_path / "home", tmp_path / "log"
    node = {"num_cpus": GPUS, "num_gpus": GPUS}
    before = ("logical_nodes", "on_nodes_of_its_own", [{"num_cpus": 0}, node, node])
    finish(start(["sweep", str(tmp_path / "mixed.yaml"), "--home", str(home)], log, before=before), log)
    spans = timeline.read(home / "mixed")
    print(*timeline.drawn(spans), sep="\n")
    with Ledger.open(home) as ledger:
        began = ledger.get("mixed").created_at
        trials = {row.name: row for row in ledger.runs(parent="mixed")}
    assert [span.end for span in spans] == ["reported"] * 7
    ranks = {name: row.overrides["cluster.ranks"] for name, row in trials.items()}
    assert sorted(ranks.values()) == [1, 1, 2, 2, 2, 2, 2]
    assert {span.trial: len(span.nodes) for span in spans} == ranks
    assert all(len(set(span.nodes)) == 1 for span in spans)  # two ranks on one node, since it has two GPUs
    nodes = {node for span in spans for node in span.nodes}
    assert len(nodes) == 2
    assert {span.nodes[0] for span in spans if len(span.nodes) == 2} == nodes, "small hosts made way for large ones"
    assert all(min(free(spans, nodes, span.started).values()) >= 0 for span in spans)
    # Where hosts of one rank end so that one of two ranks can start, GPUs have no trial until it is up. How long that
    # takes on a machine as fast or slow as this one, the first hosts tell; later ones start beside trials that train.
    starting = min(span.started for span in spans) - began
    longest = max(idle_though_wanted(spans, nodes), default=0.0)
    print(f"{longest:.1f} s without a trial that would have fitted, {starting:.1f} s until the first hosts were up")
    assert longest < 1.5 * starting
    for number in (1, 2):
        words = [f"cluster.ranks={number}", "adapter.rank=4", f"name=alone-{number}"]
        call(world.arguments(home, *common, *words), tmp_path / f"log{number}")
        (trial,) = [t for t in trials.values() if t.overrides == {"adapter.rank": 4, "cluster.ranks": number}]
        assert curves(home / "mixed" / trial.name) == curves(home / f"alone-{number}")


def free(spans: Sequence[Span], nodes: Collection[str], moment: float) -> Counter[str]:
    """GPUs of each node on which nothing trains."""
    taken = Counter(node for span in spans if span.started <= moment < span.ended for node in span.nodes)
    return Counter({node: GPUS - taken[node] for node in nodes})


def idle_though_wanted(spans: Sequence[Span], nodes: Collection[str]) -> Iterator[float]:
    """Seconds, one after another, in which a node had room for a trial that had not started yet."""
    last = max(span.started for span in spans)
    moments = sorted({moment for span in spans for moment in (span.started, span.ended) if moment <= last})
    since = moments[0]
    for moment, after in pairwise(moments):
        room = max(free(spans, nodes, moment).values())
        if not any(len(span.nodes) <= room for span in spans if span.started > moment):
            since = after
        yield after - since
