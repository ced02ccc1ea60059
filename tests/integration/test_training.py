"""``ftcluster train`` as its user meets it: what it refuses, how it fails, what a tracking outage does to it."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from mlflow_server import Server
from safetensors.torch import load_file, save_file
from training_samples import STEPS, World, curves, make_world
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftcluster.cli import main
from ftcluster.contracts.trial import RunState
from ftcluster.ledger.store import Ledger
from ftcluster.models.tokenizer import load_tokenizer
from ftcluster.tracking.history import read_metrics

GOOD = json.dumps({"question": "What is 1 plus 2?", "answer": "It is 3."})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    torch.set_num_threads(1)
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


Told = tuple[int, str, str]


@pytest.fixture
def ftcluster(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Told]]:
    """The command line in this process: exit code, standard output, standard error."""

    def run(*words: str) -> Told:
        code = main(list(words))
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return code, said.out, said.err

    yield run
    torch.set_num_threads(1)


# --- bad input ---------------------------------------------------------------------------------------------------


def no_model(world: World, folder: Path) -> list[str]:  # noqa: ARG001 - all cases have one shape
    return [f"model.path={folder / 'missing'}"]


def copy_of(world: World, folder: Path) -> Path:
    return Path(shutil.copytree(world.model, folder / "copy"))


def no_config(world: World, folder: Path) -> list[str]:
    (copy_of(world, folder) / "config.json").unlink()
    return [f"model.path={folder / 'copy'}"]


def no_weights(world: World, folder: Path) -> list[str]:
    (copy_of(world, folder) / "model.safetensors").unlink()
    return [f"model.path={folder / 'copy'}"]


def no_tokenizer(world: World, folder: Path) -> list[str]:
    for path in copy_of(world, folder).glob("tokenizer*"):
        path.unlink()
    return [f"model.path={folder / 'copy'}"]


def other_vocabulary(world: World, folder: Path) -> list[str]:
    tokenizer = load_tokenizer(copy_of(world, folder))
    tokenizer.add_tokens([f"<|more{number}|>" for number in range(3)])
    tokenizer.save_pretrained(folder / "copy")
    return [f"model.path={folder / 'copy'}"]


def rows(*lines: str) -> Callable[[World, Path], list[str]]:
    def write(_: World, folder: Path) -> list[str]:
        (folder / "bad.jsonl").write_text("\n".join([GOOD, *lines, *[GOOD] * 40]) + "\n")
        return [f"data.train=[{folder / 'bad.jsonl'}]", "data.format=question_answer"]

    return write


def words(*given: str) -> Callable[[World, Path], list[str]]:
    return lambda _, __: list(given)


BAD: dict[str, tuple[Callable[[World, Path], list[str]], int, list[str]]] = {
    "no model folder": (no_model, 2, ["missing is not a folder"]),
    "no config.json": (no_config, 2, ["copy has no config.json", "it holds"]),
    "no safetensors": (no_weights, 4, ["no *.safetensors weights", "-> convert the weights"]),
    "no tokenizer": (no_tokenizer, 4, ["no usable tokenizer", "tokenizer.save_pretrained"]),
    "vocabulary": (other_vocabulary, 4, ["the tokenizer has ids up to", "embedding only"]),
    "no data file": (words("data.train=[/nowhere/rows.jsonl]"), 2, ["/nowhere/rows.jsonl does not exist"]),
    "no json": (rows("{half", "no json"), 3, ["bad.jsonl:2", "bad.jsonl:3"]),
    "no usable fields": (rows('{"a": 1}', '{"b": 2}'), 3, ["bad.jsonl:2", "bad.jsonl:3"]),
    "empty answer": (rows('{"question": "What?", "answer": " "}'), 3, ["bad.jsonl:2"]),
    "target": (words("adapter.targets=[q_prj]"), 4, ["no linear layer called q_prj", "q_proj, k_proj, v_proj"]),
    "unknown key": (words("optim.learning_rate=1"), 2, ["optim.learning_rate is not a known key"]),
    "wrong type": (words("optim.lr=fast"), 2, ["optim.lr=fast: expected a number, got text"]),
    "micro batch": (words("optim.micro_batch=3"), 2, ["no multiple of optim.micro_batch=3", "would do"]),
    "duration": (words("optim.duration=5 hours"), 2, ['"5 hours" is not a duration']),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_its_place_and_leaves_nothing_behind(
    world: World, tmp_path: Path, home: Path, ftcluster: Callable[..., Told], case: str
) -> None:
    make, code, said = BAD[case]
    given = make(world, tmp_path)
    found, out, err = ftcluster(*world.arguments(home, *given))
    assert found == code, err
    assert err.startswith("error: ")
    assert not [text for text in said if text not in err], err
    assert out == ""
    assert not [path.name for path in home.glob("*") if path.name != "prepared"], "something was begun"


def test_a_home_that_cannot_be_written_is_named(world: World, tmp_path: Path, ftcluster: Callable[..., Told]) -> None:
    (tmp_path / "file").write_text("in the way")
    code, _, err = ftcluster(*world.arguments(tmp_path / "file" / "home"))
    assert code == 6
    assert f"{tmp_path / 'file' / 'home'}" in err
    assert "choose another home" in err


def test_resuming_what_is_not_there_is_refused(home: Path, ftcluster: Callable[..., Told]) -> None:
    code, _, err = ftcluster("train", "--resume", "nobody", "--home", str(home))
    assert (code, 'there is no run "nobody"' in err) == (2, True)


def test_a_dry_run_shows_config_and_plan_and_registers_nothing(
    world: World, home: Path, ftcluster: Callable[..., Told]
) -> None:
    code, out, _ = ftcluster(*world.arguments(home), "--dry-run", "--json")
    assert code == 0
    shown = json.loads(out)
    assert shown["config"]["adapter"]["dropout"] == 0.1
    assert (shown["plan"]["steps"], shown["plan"]["evaluate_every"]) == (STEPS, 6)
    assert [path.name for path in home.iterdir()] == ["prepared"]


# --- how a training ends -----------------------------------------------------------------------------------------


def states(home: Path) -> dict[str, RunState]:
    with Ledger.open(home) as ledger:
        return {row.name: row.state for row in ledger.runs()}


def statuses(uri: str) -> dict[str, str]:
    client = MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return {run.data.tags["ftcluster.run"]: run.info.status for run in client.search_runs(experiments)}


@pytest.mark.slow
def test_a_training_ends_with_its_result_and_what_to_type_next(
    world: World, home: Path, ftcluster: Callable[..., Told]
) -> None:
    code, out, err = ftcluster(*world.arguments(home, "name=mine"))
    assert code == 0
    assert f"mine finished at step {STEPS}: eval/loss " in out
    assert f"result: {home / 'mine' / 'adapter'}\n" in out
    assert f"ftcluster chat mine --home {home}" in out
    assert "step 12/24" in err
    assert "\n\n" not in err, "progress leaves no empty lines in a log"
    assert states(home) == {"mine": RunState.FINISHED}
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    with Ledger.open(home) as ledger:
        row = ledger.get("mine")
    assert row.mlflow_run_id
    run = client.get_run(row.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert (run.data.params["adapter.rank"], run.data.params["seed"]) == ("8", "17")
    assert {"git.commit", "version.torch", "data.rows.jsonl.sha256"} <= run.data.tags.keys()
    assert row.metrics["eval/loss"] == run.data.metrics["eval/loss"] == curves(home / "mine")["eval/loss"][-1][1]
    artifacts = {artifact.path for artifact in client.list_artifacts(row.mlflow_run_id, "adapter")}
    assert "adapter/adapter_model.safetensors" in artifacts
    code, _, err = ftcluster("train", "--resume", "mine", "--home", str(home))
    assert (code, "mine is finished; there is nothing to resume" in err) == (2, True)


@pytest.mark.slow
def test_a_full_fine_tune_is_a_folder_that_transformers_loads(
    world: World, home: Path, ftcluster: Callable[..., Told]
) -> None:
    code, out, err = ftcluster(*world.arguments(home, "adapter=none", "name=full", "optim.lr=1e-3"), "--json")
    assert code == 0
    result = json.loads(out)
    assert result["result"] == str(home / "full" / "model")
    assert "Writing model shards" not in err
    model = AutoModelForCausalLM.from_pretrained(result["result"])
    tokenizer = AutoTokenizer.from_pretrained(result["result"])
    assert tokenizer.chat_template
    tokens = tokenizer("It is 4.", return_tensors="pt").input_ids
    trained = AutoModelForCausalLM.from_pretrained(home / "full" / "checkpoints" / f"step-{STEPS:08}")
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, trained(tokens).logits)


def poisoned(world: World, folder: Path) -> list[str]:
    weights = copy_of(world, folder) / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, weights, metadata={"format": "pt"})
    return [f"model.path={folder / 'copy'}"]


DIVERGING: dict[str, Callable[[World, Path], list[str]]] = {
    "far too high a rate": words("optim.lr=1e10", "adapter.dropout=0"),
    "far too high a rate for every weight": words("optim.lr=1e30", "adapter=none"),
    "poisoned weights": poisoned,
}


@pytest.mark.slow
@pytest.mark.parametrize("case", DIVERGING)
def test_a_training_that_diverges_has_failed_everywhere_and_nothing_stays_running(
    world: World, tmp_path: Path, home: Path, ftcluster: Callable[..., Told], case: str
) -> None:
    code, _, err = ftcluster(*world.arguments(home, "name=wild", *DIVERGING[case](world, tmp_path)))
    assert code == 5, err
    assert "became" in err
    assert "-> lower optim.lr, or check the data" in err
    assert states(home) == {"wild": RunState.FAILED}
    with Ledger.open(home) as ledger:
        assert "became" in ledger.get("wild").reason
    assert statuses(f"sqlite:///{home}/mlflow.db") == {"wild": "FAILED"}
    assert not (home / "wild" / "adapter").exists()
    assert not (home / "wild" / "model").exists()


@pytest.mark.slow
def test_with_the_tracking_server_down_training_finishes_and_what_is_missing_arrives_later(
    world: World, tmp_path: Path, home: Path, ftcluster: Callable[..., Told]
) -> None:
    server = Server(tmp_path)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", server.port)) != 0
    code, out, _ = ftcluster(*world.arguments(home, "name=alone", f"tracking.uri={server.uri}"))
    assert code == 0
    assert states(home) == {"alone": RunState.FINISHED}
    (line,) = [line for line in out.splitlines() if "not in MLflow yet" in line]
    records = len((home / "alone" / "spool.jsonl").read_text().splitlines())
    assert line.strip() == f"{records} records are not in MLflow yet; ftcluster runs sync --home {home} delivers them"
    server.start()
    try:
        for _ in range(2):
            assert ftcluster("runs", "sync", "--home", str(home))[0] == 0
        assert statuses(server.uri) == {"alone": "FINISHED"}
        client = MlflowClient(server.uri)
        with Ledger.open(home) as ledger:
            run_id = ledger.get("alone").mlflow_run_id
        for name, points in read_metrics(home / "alone").items():
            there = [(m.step, m.value) for m in client.get_metric_history(run_id, name)]
            assert sorted(there) == [(point.step, point.value) for point in points], name
    finally:
        server.kill()
