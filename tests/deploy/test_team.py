"""``deploy/team.sh``: a Ray head and an MLflow server that start once, serve, refuse strangers and leave nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
DRIVER = """
import os, ray
ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
print("six times seven is", ray.get(ray.remote(lambda: 6 * 7).remote(), timeout=60))
"""


def _team(*words: str | Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [str(ROOT / "deploy" / "team.sh"), *map(str, words)]
    return subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)


def _free_ports() -> tuple[int, int, int]:
    """For Ray (with the next number free too), MLflow and the dashboard."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            ray_port = first.getsockname()[1]
            try:
                with (
                    socket.create_server(("127.0.0.1", ray_port + 1)),
                    socket.create_server(("127.0.0.1", 0)) as second,
                    socket.create_server(("127.0.0.1", 0)) as third,
                ):
                    return ray_port, second.getsockname()[1], third.getsockname()[1]
            except OSError:
                continue


class Team:
    """A started team and the words that name it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ray_port, self.mlflow_port, self.dashboard_port = _free_ports()
        self.words = [
            *("--folder", str(folder), "--ray-port", str(self.ray_port)),
            *("--mlflow-port", str(self.mlflow_port), "--dashboard-port", str(self.dashboard_port)),
        ]

    def processes(self) -> list[psutil.Process]:
        """Both servers and all that descend from them."""
        servers = [self.server("ray"), self.server("mlflow")]
        return [process for server in servers for process in (server, *server.children(recursive=True))]

    def server(self, name: str) -> psutil.Process:
        return psutil.Process(int((self.folder / f"{name}.pid").read_text().split()[0]))


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    team = Team(tmp_path_factory.mktemp("team"))
    started = _team("start", *team.words)
    try:
        assert started.returncode == 0, started.stderr
        yield team
    finally:
        _team("stop", *team.words)
        shutil.rmtree(f"/tmp/ftcluster-ray-{os.getuid()}-{team.ray_port}", ignore_errors=True)


@pytest.mark.slow
def test_mlflow_answers_and_knows_its_own_names_only(team: Team) -> None:
    health = f"http://127.0.0.1:{team.mlflow_port}/health"
    assert urllib.request.urlopen(health, timeout=10).read() == b"OK"
    runs = f"http://127.0.0.1:{team.mlflow_port}/api/2.0/mlflow/experiments/get?experiment_id=0"
    disguised = urllib.request.Request(runs, headers={"Host": "elsewhere.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(disguised, timeout=10)


@pytest.mark.slow
def test_a_driver_with_the_printed_environment_runs_a_task(team: Team) -> None:
    script = f'. {team.folder}/environment && exec "$0" -c "$1"'
    words = ["bash", "-c", script, sys.executable, DRIVER]
    driver = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert "six times seven is 42" in driver.stdout, driver.stderr


@pytest.mark.slow
def test_ray_turns_away_who_has_no_token(team: Team) -> None:
    jobs = f"http://127.0.0.1:{team.dashboard_port}/api/jobs/"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(jobs, timeout=10)
    token = team.folder / "ray-token"
    assert token.stat().st_mode & 0o077 == 0
    known = urllib.request.Request(jobs, headers={"Authorization": f"Bearer {token.read_text()}"})
    assert urllib.request.urlopen(known, timeout=10).status == 200


@pytest.mark.slow
def test_nothing_listens_beyond_this_machine(team: Team) -> None:
    addresses = set()
    for process in team.processes():
        with contextlib.suppress(psutil.NoSuchProcess):  # a short-lived child
            addresses |= {c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    assert "127.0.0.1" in addresses
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@pytest.mark.slow
def test_a_second_start_keeps_what_runs(team: Team) -> None:
    before = [team.server("ray"), team.server("mlflow")]
    again = _team("start", *team.words)
    assert "already running: ray mlflow" in again.stdout
    assert f"export RAY_ADDRESS=127.0.0.1:{team.ray_port}" in again.stdout
    assert f"export MLFLOW_TRACKING_URI=http://127.0.0.1:{team.mlflow_port}" in again.stdout
    assert [team.server("ray"), team.server("mlflow")] == before


@pytest.mark.slow
def test_a_start_brings_back_what_died_where_it_was(team: Team) -> None:
    ray, mlflow = team.server("ray"), team.server("mlflow")
    os.killpg(mlflow.pid, signal.SIGKILL)
    mlflow.wait(timeout=10)
    status = _team("status", *team.words)
    assert (status.returncode, "mlflow is not running" in status.stderr) == (1, True)
    assert _team("start", "--folder", team.folder).returncode == 0
    assert team.server("ray") == ray
    health = f"http://127.0.0.1:{team.mlflow_port}/health"
    assert urllib.request.urlopen(health, timeout=10).read() == b"OK"


@pytest.mark.slow
def test_a_port_that_is_taken_is_named_before_anything_starts(team: Team, tmp_path: Path) -> None:
    refused = _team("start", "--folder", tmp_path, *team.words[2:])
    assert refused.returncode == 1
    assert f"127.0.0.1:{team.ray_port}: it is taken" in refused.stderr
    assert "--ray-port" in refused.stderr
    assert not list(tmp_path.glob("*.pid"))
    assert _team("status", *team.words).returncode == 0


@pytest.mark.slow
def test_stop_leaves_no_process_behind(team: Team) -> None:
    processes = team.processes()
    assert len(processes) > 5
    stopped = _team("stop", *team.words)
    assert stopped.stdout.split("\n")[:2] == ["mlflow stopped", "ray stopped"]
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert alive == []
    assert _team("stop", *team.words).stdout == ""


def test_status_of_a_team_that_was_never_started_says_how_to_start_it(tmp_path: Path) -> None:
    status = _team("status", "--folder", tmp_path)
    assert status.returncode == 1
    assert f"ray is not running; start it with: deploy/team.sh start --folder {tmp_path}" in status.stderr


def test_unknown_words_are_refused_with_the_known_ones() -> None:
    assert "the first word is start, status or stop" in _team("restart").stderr
    assert "unknown option --port; the options are --folder" in _team("start", "--port", "1").stderr
    assert "--host needs a value" in _team("start", "--host").stderr


def test_a_number_given_out_again_is_not_taken_for_the_server(tmp_path: Path) -> None:
    """Stopping a team whose pid file names a stranger's process leaves the stranger alone."""
    with subprocess.Popen(["sleep", "600"]) as stranger:
        (tmp_path / "ray.pid").write_text(f"{stranger.pid}\nMon Jan  1 00:00:00 2001\n")
        assert _team("stop", "--folder", tmp_path).stdout == ""
        assert stranger.poll() is None
        stranger.terminate()
