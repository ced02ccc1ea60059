"""``ftcluster submit`` to a real cluster: trainings, sweeps, exit codes, and jobs that outlive who sent them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sweep_outcomes import assert_told_once, outcome
from training_samples import World, make_world

from ftcluster.config.environment import keep_ray_local
from ftcluster.contracts.trial import RunState
from ftcluster.ledger.store import Ledger
from ftcluster.sweep import timeline
from ftcluster.tracking.history import read_metrics

pytestmark = pytest.mark.whole

# Its own process: Ray keeps settings for the life of one. Jobs find ftcluster as a shell on the cluster would. Its
# agent takes a free port: by default all clusters of a machine want the same one, and only the first gets it.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
ports = {"dashboard_port": 0, "dashboard_agent_listen_port": 0}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": True, **ports})
print("http://" + cluster.head_node.webui_url, flush=True)
sys.stdin.readline()
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env={**os.environ, "PATH": path, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()
            process.wait(timeout=60)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@contextmanager
def submitting(
    world: World, dashboard: str, log: Path, *words: str, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """In the folder of model and rows, with another cluster's address in Ray's variable, as a user may have it."""
    command = [sys.executable, "-m", "ftcluster", "submit", "--address", dashboard, *words]
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1", **variables}
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=world.folder, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def submit(world: World, dashboard: str, log: Path, *words: str, expected: int = 0, **variables: str) -> str:
    with submitting(world, dashboard, log, *words, **variables) as process:
        code = process.wait(180)
    assert code == expected, log.read_text()[-3000:]
    return log.read_text()


def wait_for(condition: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.1)


def training(world: World, *more: str) -> list[str]:
    """Relative to the folder that travels."""
    return ["train", *world.words("model.path=model", "data.train=[rows.jsonl]", *more)]


def job_of(text: str) -> str:
    found = re.search(r"^(\S+) is on http", text, re.MULTILINE)
    assert found, text
    return found[1]


@pytest.mark.thorough
def test_a_training_runs_there_with_the_files_that_travelled_and_is_followed_to_its_end(
    world: World, dashboard: str, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    words = ["--env", "FTCLUSTER_HOME", *training(world, "optim.duration=6 steps")]
    text = submit(
        world, dashboard, tmp_path / "log", *words, FTCLUSTER_HOME=str(home), OTHER_SECRET="nobody's business"
    )
    assert "lora-sft finished at step 6" in text
    assert str(home) in text
    with Ledger.open(home) as ledger:
        assert ledger.get("lora-sft").state is RunState.FINISHED
    variables = known(dashboard, job_of(text)).runtime_env["env_vars"]
    assert variables == {"RAY_JOB_STOP_WAIT_TIME_S": "120", "FTCLUSTER_HOME": str(home)}


def known(dashboard: str, name: str) -> Any:
    """What the cluster itself knows of a job."""
    keep_ray_local()  # other tests of this process find Ray imported
    from ray.job_submission import JobSubmissionClient

    return JobSubmissionClient(dashboard).get_job_info(name)


def test_a_command_that_fails_there_fails_here_in_the_same_way(world: World, dashboard: str, tmp_path: Path) -> None:
    text = submit(world, dashboard, tmp_path / "log", "train", "model=nothing", f"home={tmp_path}", expected=2)
    assert "error: model=nothing: model has no such option." in text
    listed = submit(world, dashboard, tmp_path / "list", "--list", "--json")
    (job,) = [each for each in json.loads(listed) if each["job"] == job_of(text)]
    assert (job["state"], job["exit_code"], job["command"]) == ("failed", 2, f"train model=nothing home={tmp_path}")


def test_a_job_outlives_who_sent_it_and_who_follows_it_and_saves_when_it_is_stopped(
    world: World, dashboard: str, tmp_path: Path
) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    run = home / "lora-sft"

    def steps() -> int:
        return len(read_metrics(run).get("train/loss", ()))

    words = training(world, "optim.duration=100000 steps", "evaluation.every=100000 steps", f"home={home}")
    with submitting(world, dashboard, log, *words) as process:
        wait_for(lambda: steps() > 0, log)
        process.kill()
    before, name = steps(), job_of(log.read_text())
    wait_for(lambda: steps() > before, log)

    again = tmp_path / "again"
    with submitting(world, dashboard, again, "--follow", name) as process:
        wait_for(lambda: "lora-sft: 100000 steps" in again.read_text(), again)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert f"error: no longer following {name}, which goes on\n  -> ftcluster submit" in again.read_text()

    assert f"{name} was asked to save and end" in submit(world, dashboard, tmp_path / "stop", "--stop", name)
    text = submit(world, dashboard, tmp_path / "end", "--follow", name, expected=130)
    assert "lora-sft was stopped and saved" in text
    with Ledger.open(home) as ledger:
        row = ledger.get("lora-sft")
    assert row.state is RunState.INTERRUPTED
    assert (run / "checkpoints" / f"step-{row.step:08}" / "manifest.json").is_file()
    assert f"{name} had ended before" in submit(world, dashboard, tmp_path / "stop again", "--stop", name)


@pytest.mark.thorough
def test_a_sweep_whose_sender_is_gone_has_its_driver_and_its_trials_on_the_cluster_and_its_results_in_the_home(
    world: World, dashboard: str, tmp_path: Path
) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    sweep = {
        "name": "sent",
        "base": training(world, "engine.name=local", "optim.duration=60 steps", "evaluation.every=20 steps")[1:],
        "space": {"adapter.rank": "choice(2, 4)"},
        "sampler": {"name": "grid"},
        "budget": {"trials": 2},
    }
    (world.folder / "sent.yaml").write_text(json.dumps(sweep))
    with submitting(world, dashboard, log, "sweep", "sent.yaml", f"home={home}") as process:
        wait_for(lambda: any(home.glob("sent/*/checkpoints/step-*")), log)
        process.kill()
    name = job_of(log.read_text())
    submit(world, dashboard, tmp_path / "end", "--follow", name)
    ended = outcome(home, "sent")
    assert [(trial.state, trial.step, len(trial.weights)) for trial in ended.values()] == [("finished", 60, 1)] * 2
    assert_told_once(home, "sent")
    driver = known(dashboard, name).driver_node_id
    assert {span.nodes for span in timeline.read(home / "sent")} == {(driver,)}


def test_a_job_that_is_not_there_is_told(world: World, dashboard: str, tmp_path: Path) -> None:
    text = submit(world, dashboard, tmp_path / "log", "--follow", "nobody", expected=2)
    assert f"error: {dashboard}: no job nobody on this cluster" in text
