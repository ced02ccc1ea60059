"""``ftcluster doctor``: each line is ok, warn or fail, and says what to do."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from ftcluster.cli import main
from ftcluster.cli.diagnosis import (
    Finding,
    free_port,
    gpus,
    home_folder,
    mlflow_store,
    packages,
    ray_cluster,
    torch_matches,
)
from ftcluster.cluster.inventory import TorchBuild
from ftcluster.cluster.nvml import Gpu, GpuReading

GPU = Gpu(0, "GPU-1", "H200", 2**37, 0, 0.0, (9, 0))


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_sound_machine_passes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["doctor", "--json", "--home", str(tmp_path)]) == 0
    findings = {line["name"]: line for line in json.loads(capsys.readouterr().out)}
    for name in ("Python", "packages", "GPUs", "torch build", "home", "disk", "MLflow", "Ray"):
        assert findings[name]["state"] in ("ok", "warn")
    assert not list(tmp_path.iterdir()), "a doctor leaves nothing behind"


def test_a_failure_exits_with_1_and_names_the_remedy(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, closed_port: int
) -> None:
    words = [f"tracking.uri=http://127.0.0.1:{closed_port}", "--home", str(tmp_path)]
    assert main(["doctor", *words]) == 1
    text = capsys.readouterr().out
    assert f"FAIL  MLflow        http://127.0.0.1:{closed_port}" in text
    assert "-> start the server, or correct tracking.uri or MLFLOW_TRACKING_URI" in text


def test_a_package_below_its_floor_fails_with_the_command_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "needy-1.dist-info"
    info.mkdir()
    needs = ["pytest>=9999", "no-such-package>=1", 'never>=1; extra == "dev"']
    lines = ["Metadata-Version: 2.1", "Name: needy", "Version: 1", *(f"Requires-Dist: {need}" for need in needs)]
    (info / "METADATA").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    low, absent = packages("needy")
    assert (low.name, low.state, low.remedy) == ("pytest", "fail", 'pip install "pytest>=9999"')
    assert absent == Finding("no-such-package", "fail", "not installed", 'pip install "no-such-package>=1"')


def test_an_uninstalled_checkout_is_a_warning() -> None:
    (finding,) = packages("not-installed-at-all")
    assert (finding.state, finding.remedy) == ("warn", "pip install -e . in the checkout")


def test_gpus_that_failed_or_are_taken_are_told_apart() -> None:
    broken = Gpu(1, "GPU-2", "H200", 100, 0, 0.0, (9, 0), recovery="reset this GPU")
    busy = Gpu(2, "GPU-3", "H200", 100, 60, 1.0, (9, 0))
    states = [(line.name, line.state, line.remedy) for line in gpus(GpuReading((GPU, broken, busy), "570"))]
    assert states == [
        ("GPU 0", "ok", ""),
        ("GPU 1", "fail", "the driver asks to: reset this GPU"),
        ("GPU 2", "warn", "another process holds more than half of its memory; see nvidia-smi"),
    ]


def test_no_driver_is_fine_and_a_silent_driver_is_not() -> None:
    (absent,) = gpus(GpuReading((), problem="no NVIDIA driver on this machine"))
    (silent,) = gpus(GpuReading((), problem="the NVIDIA driver does not answer: Unknown Error"))
    assert (absent.state, silent.state) == ("ok", "fail")


@pytest.mark.parametrize(
    ("build", "reading", "state", "part"),
    [
        (TorchBuild("2.13", "", 0, ()), GpuReading(()), "ok", "CPU only"),
        (TorchBuild("2.13", "", 0, ()), GpuReading((GPU,), "570"), "fail", "but there are GPUs"),
        (TorchBuild("2.13", "13.0", 0, ()), GpuReading((GPU,), "470"), "fail", "driver 470 lets it use no GPU"),
        (TorchBuild("2.13", "13.0", 1, ("sm_75", "sm_80")), GpuReading((GPU,), "570"), "fail", "not built for H200"),
        (TorchBuild("2.13", "13.0", 1, ("sm_80", "sm_90")), GpuReading((GPU,), "570"), "ok", "1 GPUs usable"),
        (TorchBuild("2.13", "13.0", 1, ("sm_100",)), GpuReading((GPU,), "570"), "fail", "not built for H200"),
    ],
)
def test_torch_must_match_the_gpus(build: TorchBuild, reading: GpuReading, state: str, part: str) -> None:
    finding = torch_matches(build, reading)
    assert finding.state == state
    assert part in finding.detail
    assert (finding.remedy == "") == (state == "ok")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_home_that_cannot_be_written_fails(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    finding = next(home_folder(tmp_path / "runs"))
    assert (finding.state, finding.remedy) == ("fail", "set FTCLUSTER_HOME or home=FOLDER to one you own")


def test_an_mlflow_database_is_counted_and_another_file_is_not_taken_for_one(tmp_path: Path) -> None:
    from ftcluster.tracking.mlflow_store import prepare_store

    good, bad = tmp_path / "mlflow.db", tmp_path / "other.db"
    prepare_store(f"sqlite:///{good}")
    bad.write_text("this is no database, and it is long enough to be looked at by SQLite " * 10)
    assert mlflow_store(f"sqlite:///{good}") == Finding("MLflow", "ok", f"{good}, 0 runs")
    assert mlflow_store(f"sqlite:///{bad}").remedy == "it is no MLflow database; move it away or set tracking.uri"
    with sqlite3.connect(tmp_path / "empty.db") as connection:
        connection.execute("create table t (x)")
    assert mlflow_store(f"sqlite:///{tmp_path}/empty.db").state == "fail"


def test_a_server_is_asked_for_its_health() -> None:
    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert mlflow_store(url) == Finding("MLflow", "ok", url)
        assert mlflow_store(f"{url}/elsewhere").state == "fail"
        server.shutdown()


def test_a_password_in_the_address_is_never_shown(closed_port: int) -> None:
    finding = mlflow_store(f"postgresql+psycopg2://mlflow:hunter2@127.0.0.1:{closed_port}/mlflow")
    assert finding.state == "fail"
    assert "hunter2" not in repr(finding)


def test_a_database_or_a_ray_cluster_is_knocked_at(listener: int, closed_port: int) -> None:
    assert mlflow_store(f"postgresql://127.0.0.1:{listener}/mlflow").state == "ok"
    assert ray_cluster(f"127.0.0.1:{listener}").state == "ok"
    assert ray_cluster(f"ray://127.0.0.1:{listener}").state == "ok"
    assert (
        ray_cluster(f"127.0.0.1:{closed_port}").remedy == "start the cluster, or correct cluster.address or RAY_ADDRESS"
    )
    assert ray_cluster("").detail == "embedded, started when a sweep needs it"
    assert ray_cluster("auto").state == "ok"


def test_a_taken_port_names_the_next(listener: int, closed_port: int) -> None:
    assert free_port(listener).remedy == f"ftcluster ui --port {listener + 1}"
    assert free_port(closed_port).state == "ok"
