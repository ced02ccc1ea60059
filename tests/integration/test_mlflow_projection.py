"""The projection into a real MLflow: every record arrives once, whichever process is killed, and when."""

from __future__ import annotations

import fcntl
import json
import math
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Semaphore
from typing import cast

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow_server import Server, wait_until

from ftcluster.contracts.trial import RunState
from ftcluster.errors import TrackingError
from ftcluster.tracking.bookmark import BOOKMARK
from ftcluster.tracking.history import read_metrics
from ftcluster.tracking.mlflow_store import open_client, prepare_store, tracking_uri
from ftcluster.tracking.projection import CUT
from ftcluster.tracking.projector import Projector, RunToProject
from ftcluster.tracking.service import ProjectorThread
from ftcluster.tracking.spool import SpoolTracker

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("server"))
    running.start()
    yield running
    running.kill()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def client(server: Server) -> MlflowClient:
    return open_client(server.uri)


def a_run(home: Path, name: str = "lora-1", parent: str | None = None, experiment: str = "demo") -> RunToProject:
    return RunToProject(name, home / "runs" / name, parent, experiment, "trial")


def record_metrics(run: RunToProject, steps: range) -> None:
    with closing(SpoolTracker(run.folder)) as tracker:
        for step in steps:
            tracker.metrics({"train/loss": 1 / (step + 1), "train/lr": 1e-3, "eval/loss": math.sin(step)}, step)


def mlflow_run(client: MlflowClient, run: RunToProject) -> Run:
    """The one MLflow run of a run; that there is exactly one is part of every test that calls this."""
    remembered = json.loads((run.folder / BOOKMARK).read_text())["run_id"]
    home_tag = client.get_run(remembered).data.tags["ftcluster.home"]
    experiment = client.get_experiment_by_name(run.experiment)
    found = client.search_runs(
        [experiment.experiment_id],
        f"tags.`ftcluster.run` = '{run.name}' and tags.`ftcluster.home` = '{home_tag}'",
    )
    assert [one.info.run_id for one in found] == [remembered]
    return found[0]


def assert_every_point_once(client: MlflowClient, run: RunToProject) -> None:
    run_id = mlflow_run(client, run).info.run_id
    spooled = read_metrics(run.folder)
    assert spooled
    for name, points in spooled.items():
        expected = [(p.step, p.timestamp_ms, repr(p.value)) for p in points]
        delivered = [(p.step, p.timestamp, repr(p.value)) for p in client.get_metric_history(run_id, name)]
        assert sorted(delivered) == sorted(expected), name


def test_params_tags_metrics_artifacts_and_state_arrive(server: Server, client: MlflowClient, home: Path) -> None:
    run = a_run(home)
    adapter = run.folder / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "weights.safetensors").write_bytes(b"w" * 1000)
    (run.folder / "run.yaml").write_text("seed: 17\n")
    with closing(SpoolTracker(run.folder, clock=lambda: 1_760_000_000.0)) as tracker:
        tracker.state(RunState.RUNNING)
        tracker.params({"optim": {"lr": 1e-3}, "long": "x" * 9000, "many": {f"p{i}": "中" * 2000 for i in range(150)}})
        tracker.tags({"git.commit": "abc", "note": "y" * 9000})
        for step in range(600):
            tracker.metrics({"train/loss": 1 / (step + 1), "eval/loss": float(step)}, step)
        tracker.metrics({"train/loss": float("nan"), "up": float("inf"), "down": float("-inf")}, 600)
        tracker.artifact(adapter)
        tracker.artifact(adapter, under="best/adapter")
        tracker.artifact(run.folder / "run.yaml")
        tracker.artifact(run.folder / "run.yaml", under="config")
        tracker.state(RunState.PRUNED, "worst half at rung 1")

    delivery = Projector(server.uri, home).deliver(run)

    assert (delivery.points, delivery.pending) == (1203, 0)
    there = mlflow_run(client, run)
    data = there.data
    assert (there.info.run_name, there.info.status) == ("lora-1", "FINISHED")
    assert (there.info.start_time, there.info.end_time) == (1_760_000_000_000, 1_760_000_000_000)
    assert data.params["optim.lr"] == "0.001"
    assert data.params["many.p149"] == "中" * 2000
    assert data.params["long"].endswith(CUT)
    assert data.tags["note"].endswith(CUT)
    assert data.tags["git.commit"] == "abc"
    assert (data.tags["ftcluster.state"], data.tags["ftcluster.kind"]) == ("pruned", "trial")
    assert data.tags["ftcluster.reason"] == "worst half at rung 1"
    losses = client.get_metric_history(there.info.run_id, "train/loss")
    assert [p.value for p in losses[:-1]] == [1 / (step + 1) for step in range(600)]
    assert math.isnan(losses[-1].value)
    assert data.metrics["up"] == -data.metrics["down"] == sys.float_info.max  # MLflow's way to keep infinity
    assert files_of(client, there) == {
        "adapter/weights.safetensors",
        "best/adapter/weights.safetensors",
        "run.yaml",
        "config/run.yaml",
    }


def files_of(client: MlflowClient, run: Run, folder: str | None = None) -> set[str]:
    found = client.list_artifacts(run.info.run_id, folder)
    below = [files_of(client, run, entry.path) for entry in found if entry.is_dir]
    return {entry.path for entry in found if not entry.is_dir}.union(*below)


def test_delivering_again_from_any_point_changes_nothing(server: Server, client: MlflowClient, home: Path) -> None:
    run = a_run(home)
    record_metrics(run, range(400))
    with closing(SpoolTracker(run.folder)) as tracker:
        tracker.params({"lr": 1e-3})
        tracker.metrics({"train/loss": float("nan")}, 400)
    projector = Projector(server.uri, home)
    projector.deliver(run)
    first = mlflow_run(client, run)

    bookmark = json.loads((run.folder / BOOKMARK).read_text())
    (run.folder / BOOKMARK).write_text(json.dumps(bookmark | {"offset": 0}))
    assert projector.deliver(run).points == 1201
    (run.folder / BOOKMARK).unlink()
    assert Projector(server.uri, home).deliver(run).points == 1201

    again = mlflow_run(client, run)
    assert again.info.run_id == first.info.run_id
    assert again.data.params == first.data.params
    assert_every_point_once(client, run)


def test_nothing_new_is_told_without_asking_the_server(home: Path) -> None:
    projector = Projector("http://127.0.0.1:9", home)

    assert projector.deliver(a_run(home)) == projector.deliver(a_run(home))
    assert projector.deliver(a_run(home)).pending == 0


def test_children_hang_below_their_parent_also_when_they_come_first(
    server: Server, client: MlflowClient, home: Path
) -> None:
    sweep = RunToProject("sweep-1", home / "sweep-1", None, "family", "sweep")
    children = [a_run(home, f"sweep-1-{i}", parent="sweep-1", experiment="family") for i in range(2)]
    projector = Projector(server.uri, home)
    for run in (children[0], sweep, children[1]):
        record_metrics(run, range(3))
        projector.deliver(run)

    parent = mlflow_run(client, sweep)
    assert [mlflow_run(client, c).data.tags["mlflow.parentRunId"] for c in children] == [parent.info.run_id] * 2
    assert parent.data.tags["ftcluster.kind"] == "sweep"
    assert "mlflow.parentRunId" not in parent.data.tags


def test_a_resumed_run_is_the_same_run_opened_again(server: Server, client: MlflowClient, home: Path) -> None:
    run = a_run(home)
    seen = []
    for steps, states in [
        (range(27), [RunState.RUNNING, RunState.INTERRUPTED]),
        (range(20, 40), [RunState.RUNNING]),
        (range(40, 41), [RunState.FINISHED]),
    ]:
        record_metrics(run, steps)
        with closing(SpoolTracker(run.folder)) as tracker:
            for state in states:
                tracker.state(state, "Ctrl-C" if state is RunState.INTERRUPTED else "")
        Projector(server.uri, home).deliver(run)
        there = mlflow_run(client, run)
        seen.append((there.info.status, there.data.tags["ftcluster.state"], there.data.tags["ftcluster.reason"]))

    assert seen == [("KILLED", "interrupted", "Ctrl-C"), ("RUNNING", "running", ""), ("FINISHED", "finished", "")]
    assert_every_point_once(client, run)
    assert [p.step for p in read_metrics(run.folder)["train/loss"]] == list(range(41))


def test_a_param_that_changed_on_resume_is_told_and_stops_nothing(
    server: Server, client: MlflowClient, home: Path
) -> None:
    run = a_run(home)
    for duration in ("3 epochs", "5 epochs"):
        with closing(SpoolTracker(run.folder)) as tracker:
            tracker.params({"optim": {"duration": duration, "lr": 1e-3}})
        Projector(server.uri, home).deliver(run)

    data = mlflow_run(client, run).data
    assert data.params["optim.duration"] == "3 epochs"
    assert data.tags["ftcluster.changed.optim.duration"] == "3 epochs -> 5 epochs"
    assert "ftcluster.changed.optim.lr" not in data.tags


def test_an_artifact_that_is_gone_is_told_and_holds_up_nothing(
    server: Server, client: MlflowClient, home: Path, tmp_path: Path
) -> None:
    run = a_run(home)
    (tmp_path / "gone.txt").write_text("x")
    with closing(SpoolTracker(run.folder)) as tracker:
        tracker.artifact(tmp_path / "gone.txt", under="notes")
        tracker.metrics({"loss": 1.0}, 1)
    (tmp_path / "gone.txt").unlink()

    assert Projector(server.uri, home).deliver(run).pending == 0
    assert mlflow_run(client, run).data.tags["ftcluster.missing_artifacts"] == "notes/gone.txt"
    assert_every_point_once(client, run)


def test_a_run_deleted_in_mlflow_comes_back_whole_when_it_records_more(
    server: Server, client: MlflowClient, home: Path
) -> None:
    run = a_run(home, experiment="deleted")
    record_metrics(run, range(5))
    Projector(server.uri, home).deliver(run)
    deleted = mlflow_run(client, run).info.run_id
    client.delete_run(deleted)
    record_metrics(run, range(5, 7))

    assert Projector(server.uri, home).deliver(run).points == 21
    assert mlflow_run(client, run).info.run_id != deleted
    assert_every_point_once(client, run)


def test_runs_of_one_name_from_two_homes_stay_two_runs(server: Server, client: MlflowClient, tmp_path: Path) -> None:
    runs = []
    for owner in ("ann", "bob"):
        runs.append(a_run(tmp_path / owner))
        record_metrics(runs[-1], range(3))
        Projector(server.uri, tmp_path / owner).deliver(runs[-1])

    assert len({mlflow_run(client, run).info.run_id for run in runs}) == 2


def test_a_second_projector_of_a_home_is_told_who_delivers(server: Server, home: Path) -> None:
    run = a_run(home)
    record_metrics(run, range(3))
    with (home / "projector.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("process 4711 on gpu-3")
        lock.flush()

        held = Projector(server.uri, home).deliver(run)

    assert (held.points, held.pending) == (0, 3)
    assert "process 4711 on gpu-3 is delivering" in held.note
    assert Projector(server.uri, home).deliver(run).points == 9


def test_a_projector_killed_in_mid_delivery_doubles_nothing(server: Server, client: MlflowClient, home: Path) -> None:
    run = a_run(home, experiment="killed projector")
    record_metrics(run, range(4000))
    code = (
        "import sys; from pathlib import Path; from ftcluster.tracking.projector import *\n"
        "uri, home, folder = sys.argv[1:]\n"
        "run = RunToProject('lora-1', Path(folder), None, 'killed projector', 'trial')\n"
        "Projector(uri, Path(home)).deliver(run)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, server.uri, str(home), str(run.folder)])
    projector = Projector(server.uri, home)
    wait_until(lambda: 0 < projector.pending(run) < 4000, "some but not all was delivered")
    process.kill()
    process.wait()

    left = projector.pending(run)
    delivered = projector.deliver(run).points

    assert 0 < left < 4000
    assert delivered < 12_000
    assert_every_point_once(client, run)


def test_a_killed_server_stops_no_run_and_gets_every_point_once_when_it_is_back(
    server: Server, client: MlflowClient, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def said() -> list[str]:
        return [record.message for record in caplog.records if record.name == "ftcluster.tracking.service"]

    run = a_run(home, experiment="killed server")
    thread = ProjectorThread(Projector(server.uri, home), lambda: [run], interval=0.05)
    thread.start()
    with closing(SpoolTracker(run.folder)) as tracker:
        tracker.state(RunState.RUNNING)
        for step in range(3000):
            tracker.metrics({"loss": 1 / (step + 1), "lr": float(step)}, step)
            if step == 1500:
                wait_until((run.folder / BOOKMARK).exists, "delivery has begun")
                server.kill()
        wait_until(said, "the outage is noticed")
        server.start()
        tracker.state(RunState.FINISHED)
        assert thread.stop(timeout=60) == 0

    away, back = said()
    assert away.startswith("MLflow is away, training goes on and records are kept: ")
    assert back == "MLflow is back, everything recorded meanwhile was delivered"
    assert mlflow_run(client, run).info.status == "FINISHED"
    assert len(client.get_metric_history(mlflow_run(client, run).info.run_id, "loss")) == 3000
    assert_every_point_once(client, run)


def test_a_server_that_is_not_there_is_an_error_soon_and_everything_stays_pending(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    run = a_run(home)
    record_metrics(run, range(3))
    projector = Projector(f"http://127.0.0.1:{port}", home)
    begun = time.monotonic()

    with pytest.raises(TrackingError, match=r"MLflow cannot be reached \(ConnectionError\)") as caught:
        projector.deliver(run)

    assert time.monotonic() - begun < 10
    assert "ftcluster runs sync" in str(caught.value)
    assert projector.pending(run) == 3


def test_stopping_tells_what_a_server_that_is_away_did_not_get(home: Path) -> None:
    run = a_run(home)
    record_metrics(run, range(3))
    thread = ProjectorThread(Projector("http://127.0.0.1:9", home), lambda: [run])
    thread.start()

    assert thread.stop() == 3


class OneWhenAsked:
    """A projector of five records that delivers another one whenever somebody asks how many are left."""

    def __init__(self) -> None:
        self.left, self._wanted, self._done = 5, Semaphore(0), Semaphore(0)

    def pending(self, _: RunToProject) -> int:
        if self.left:
            self._wanted.release()
            assert self._done.acquire(timeout=60)
        return self.left

    def deliver(self, _: RunToProject) -> None:
        while self.left:
            self._wanted.acquire()
            self.left -= 1
            self._done.release()


def test_stopping_waits_as_long_as_records_arrive(home: Path) -> None:
    thread = ProjectorThread(cast(Projector, OneWhenAsked()), lambda: [a_run(home)], interval=0.01)
    thread.start()

    assert thread.stop(timeout=0.01) == 0


def test_nothing_that_goes_wrong_reaches_the_driver(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    def runs() -> list[RunToProject]:
        raise RuntimeError("the ledger is locked")

    thread = ProjectorThread(Projector("http://127.0.0.1:9", home), runs, interval=0.01)
    thread.start()

    assert thread.stop() == 0
    assert sum("the ledger is locked" in message for message in caplog.messages) == 1


def test_the_embedded_store_needs_no_server_and_says_nothing(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = a_run(home)
    record_metrics(run, range(3))
    with closing(SpoolTracker(run.folder)) as tracker:
        (run.folder / "run.yaml").write_text("seed: 17\n")
        tracker.artifact(run.folder / "run.yaml")
        tracker.state(RunState.FINISHED)
    uri = tracking_uri(home, "")

    Projector(uri, home).deliver(run)

    embedded = open_client(uri)
    assert_every_point_once(embedded, run)
    stored = home / "mlartifacts" / mlflow_run(embedded, run).info.run_id / "artifacts" / "run.yaml"
    assert stored.read_text() == "seed: 17\n"
    assert capfd.readouterr() == ("", "")


def test_processes_that_prepare_a_store_at_once_make_one_schema(home: Path) -> None:
    uri = tracking_uri(home, "")
    code = f"from ftcluster.tracking.mlflow_store import prepare_store; prepare_store({uri!r})"
    processes = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(2)]

    assert [(process.communicate()[1], process.returncode) for process in processes] == [("", 0)] * 2
    assert open_client(uri).get_experiment("0").artifact_location.startswith(f"file://{home}/mlartifacts")


def test_a_store_whose_making_was_killed_is_made_by_the_next(home: Path) -> None:
    uri = tracking_uri(home, "")
    code = f"from ftcluster.tracking.mlflow_store import prepare_store; prepare_store({uri!r})"
    process = subprocess.Popen([sys.executable, "-c", code])
    aside = home / ".writing-mlflow.db"
    while not (aside.is_file() and aside.stat().st_size):  # in the middle of many steps
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert not (home / "mlflow.db").exists()
    prepare_store(uri)
    assert open_client(uri).get_experiment("0") is not None
    assert not aside.exists()


def test_a_store_that_cannot_be_made_is_an_error_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where a folder should be")

    with pytest.raises(TrackingError, match=r"home/mlflow\.db: MLflow did not take it"):
        prepare_store(tracking_uri(tmp_path / "home", ""))
