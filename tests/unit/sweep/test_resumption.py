"""A sweep goes on in another way with all of its trials, or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftcluster.config.compose import from_dict, override, to_dict
from ftcluster.config.identity import identity
from ftcluster.contracts.trial import RunState
from ftcluster.errors import ConfigError, UsageError
from ftcluster.ledger.process import Owner, this_process
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.sweep.resumption import go_on_with
from ftcluster.sweep.specification import read_sweep
from ftcluster.tracking.records import SPOOL, read_lines


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path) as opened:
        yield opened


def begun(ledger: Ledger, folder: Path, space: dict[str, str], trials: list[dict[str, object]], **more: object) -> None:
    """A sweep that was stopped after its first trial finished, with the others begun."""
    base = ["model.path=/m", "data.train=[/rows.jsonl]", "optim.batch_size=8", "optim.micro_batch=4", f"home={folder}"]
    spec = {"name": "many", "base": base, "space": space, "sampler": {"name": "grid"}, **more}
    (folder / "many.yaml").write_text(json.dumps(spec))
    read, config = read_sweep(folder / "many.yaml", [])
    place = folder / "many"
    stored = {"spec": to_dict(read), "base": to_dict(config)}
    ledger.add(RunRow(name="many", kind="sweep", folder=str(place), config=stored))
    ledger.set_state("many", RunState.RUNNING)
    for number, overrides in enumerate(trials):
        name = f"many-{number:02}"
        own = override(config, [f"name={name}", *(f"{key}={value}" for key, value in overrides.items())])
        (place / name).mkdir(parents=True)
        ledger.add(
            RunRow(
                name=name,
                kind="trial",
                folder=str(place / name),
                config=to_dict(own),
                overrides=overrides,
                identity=identity(own),
                parent="many",
                number=number,
            )
        )
        ledger.set_state(name, RunState.RUNNING)
        ledger.set_state(name, RunState.PAUSED if number else RunState.FINISHED)
    ledger.set_state("many", RunState.INTERRUPTED)


def go_on(ledger: Ledger, *words: str) -> RunRow:
    return go_on_with(ledger, ledger.get("many"), words, lambda _: None)


def test_base_and_trials_that_have_not_ended_take_the_words(ledger: Ledger, tmp_path: Path) -> None:
    begun(ledger, tmp_path, {"adapter.rank": "choice(2, 4)"}, [{"adapter.rank": 2}, {"adapter.rank": 4}])
    ended, going = ledger.runs(parent="many")
    row = go_on(ledger, "cluster.ranks=2", "optim.micro_batch=2")
    assert from_dict(row.config["base"]).cluster.ranks == 2
    assert row.config["spec"] == ledger.get("many").config["spec"]
    assert ledger.get("many-00") == ended
    after = ledger.get("many-01")
    expected = override(from_dict(going.config), ["cluster.ranks=2", "optim.micro_batch=2"])
    assert from_dict(after.config) == expected
    assert (after.identity, after.state) == (identity(expected), RunState.PAUSED)
    (told,) = [line.record["values"] for line in read_lines(Path(going.folder) / SPOOL)]
    assert told == {
        "ftcluster.identity": after.identity,
        "ftcluster.resumed.0.cluster.ranks": "2",
        "ftcluster.resumed.0.optim.micro_batch": "2",
    }
    go_on(ledger, "cluster.ranks=2")  # once more: there is nothing left to tell
    assert len(list(read_lines(Path(going.folder) / SPOOL))) == 1


@pytest.mark.parametrize(
    ("space", "more", "words", "problem"),
    [
        ({"cluster.ranks": "choice(1, 2)"}, {}, ["cluster.ranks=4"], "the sweep's space depends on cluster.ranks"),
        (
            {"adapter.rank": "choice(2, 4)"},
            {"constraints": ["adapter.rank >= cluster.ranks"]},
            ["cluster.ranks=4"],
            "the sweep's space depends on cluster.ranks",
        ),
        ({"adapter.rank": "choice(2, 4)"}, {}, ["adapter.rank=8"], "the sweep's space depends on adapter.rank"),
        ({"adapter.rank": "choice(2, 4)"}, {}, ["optim.lr=1"], "optim.lr=1 may change the result"),
        ({"adapter.rank": "choice(2, 4)"}, {}, ["cluster.ranks=4", "engine.hpz=3"], "engine.hpz is 3; it divides"),
        ({"adapter.kind": "choice(lora, none)"}, {}, ["engine.name=packed"], "adapter=none changes the base"),
    ],
)
def test_words_that_a_trial_cannot_go_on_with_change_nothing(
    ledger: Ledger, tmp_path: Path, space: dict[str, str], more: dict[str, object], words: list[str], problem: str
) -> None:
    (key, text) = next(iter(space.items()))
    values = text.removeprefix("choice(").removesuffix(")").split(", ")
    begun(ledger, tmp_path, space, [{key: value} for value in values], **more)
    before = ledger.runs()
    with pytest.raises(ConfigError) as caught:
        go_on(ledger, *words)
    assert problem in str(caught.value)
    assert ledger.runs() == before
    assert not list((tmp_path / "many").rglob(SPOOL))


def test_a_sweep_that_somebody_drives_keeps_its_config(ledger: Ledger, tmp_path: Path) -> None:
    begun(ledger, tmp_path, {"adapter.rank": "choice(2, 4)"}, [{"adapter.rank": 2}])
    for owner in (this_process(), Owner("elsewhere", 4711, 0.0, "b")):
        ledger.set_state("many", RunState.RUNNING, owner=owner)
        with pytest.raises(UsageError, match=f"many is being driven by .*\n.*kill {owner.pid}"):
            go_on(ledger, "cluster.ranks=2")
    ledger.set_state("many", RunState.RUNNING, owner=Owner("elsewhere", 4711, 0.0, "b"))
    row = go_on_with(ledger, ledger.get("many"), ["cluster.ranks=2"], lambda _: None, take_over=True)
    assert row.config["base"]["cluster"]["ranks"] == 2
