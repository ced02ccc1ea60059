"""``ftcluster doctor``: each line is ok, warn or fail, and says what to do."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from made_up_driver import MadeUpDriver

from ftcluster.cli import main
from ftcluster.cli.diagnosis import CHECKS, Finding, Place, diagnose
from ftcluster.cli.diagnosis.hardware import gpus
from ftcluster.cli.diagnosis.network import all_reduce_finding, free_head_ports, free_port, ray_cluster
from ftcluster.cli.diagnosis.nodes import clocks_agree, nodes_answer, shared_finding, versions_agree
from ftcluster.cli.diagnosis.software import deepspeed, packages, torch_matches
from ftcluster.cli.diagnosis.storage import home_folder, mlflow_store
from ftcluster.cluster.all_reduce import Result
from ftcluster.cluster.inventory import Gpu, GpuProcess, GpuReading, Inventory, Machine, Node, TorchBuild, Versions
from ftcluster.cluster.witnesses import Answer, Clock

GPU = Gpu(0, "GPU-1", "H200", 2**37, 0, compute_capability=(9, 0))
CPU_BUILD = TorchBuild("2.13.0+cpu", "", 0, ())
NOTHING = Versions()


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_sound_machine_passes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["doctor", "--quick", "--json", "--home", str(tmp_path)]) == 0
    findings = {line["name"]: line for line in json.loads(capsys.readouterr().out)}
    for name in ("Python", "packages", "GPUs", "torch build", "home", "disk", "MLflow", "Ray", "DeepSpeed"):
        assert findings[name]["state"] in ("ok", "warn")
    assert not list(tmp_path.iterdir()), "a doctor leaves nothing behind"


def test_a_failure_exits_with_1_and_names_the_remedy(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, closed_port: int
) -> None:
    words = [f"tracking.uri=http://127.0.0.1:{closed_port}", "--home", str(tmp_path)]
    assert main(["doctor", "--quick", *words]) == 1
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
    broken = Gpu(1, "GPU-2", "H200", 100, 0, recovery_action=1)
    crowded = Gpu(2, "GPU-3", "H200", 100, 60)
    taken = Gpu(3, "GPU-4", "H200", processes=(GpuProcess(7, 2**30, "python3", ours=False),))
    lines = list(gpus(GpuReading((GPU, broken, crowded, taken), "570")))
    assert [(line.name, line.state, line.remedy) for line in lines] == [
        ("GPU 0", "ok", ""),
        ("GPU 1", "fail", "the driver asks to: reset this GPU"),
        ("GPU 2", "warn", "see nvidia-smi there"),
        ("GPU 3", "warn", "end it, or keep this GPU out with CUDA_VISIBLE_DEVICES"),
    ]
    assert lines[1].detail == "H200, 0 B of 100 B in use; not used: it has failed"
    assert lines[3].detail == "H200; not used: occupied by python3 (pid 7, 1.0 GiB)"


def test_gpus_of_a_script_stand_for_the_machines_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "gpus.yaml"
    script.write_text("gpus: {GPU-a: {}, GPU-b: {xids: [79]}}")
    monkeypatch.setenv("FTCLUSTER_GPU_PROBE", str(script))
    assert main(["doctor", "--quick", "--json", "--home", str(tmp_path)]) == 1
    findings = {line["name"]: line for line in json.loads(capsys.readouterr().out)}
    assert (findings["GPU 0"]["state"], findings["GPU 1"]["state"]) == ("ok", "fail")
    assert "XID 79: the GPU has fallen off the bus" in findings["GPU 1"]["detail"]


@pytest.mark.slow
def test_what_a_driver_says_of_its_gpus_reaches_the_report(tmp_path: Path) -> None:
    driver = MadeUpDriver(tmp_path)
    taken = {"ComputeRunningProcesses": f"{os.getpid()} 9000000000"}
    driver.says({}, {"TotalEccErrors.1.0": 2, "Field.230": 1}, taken)
    words = ["doctor", "--quick", "--json", "--home", str(tmp_path / "home")]
    command = [sys.executable, "-m", "ftcluster", *words]
    done = subprocess.run(command, env=driver.variables, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    findings = {line["name"]: line for line in json.loads(done.stdout)}
    assert [findings[f"GPU {index}"]["state"] for index in range(3)] == ["ok", "fail", "warn"]
    assert "not used: it has failed; 2 memory errors" in findings["GPU 1"]["detail"]
    assert findings["GPU 1"]["remedy"] == "the driver asks to: reset this GPU"
    assert f"(pid {os.getpid()}, 8.4 GiB)" in findings["GPU 2"]["detail"]


def test_a_check_that_cannot_be_made_is_a_failure_and_the_others_go_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTCLUSTER_GPU_PROBE", str(tmp_path / "absent.yaml"))
    assert main(["doctor", "--quick", "--json", "--home", str(tmp_path)]) == 1
    findings = {line["name"]: line for line in json.loads(capsys.readouterr().out)}
    assert findings["GPUs"]["state"] == "fail"
    assert "absent.yaml" in findings["GPUs"]["detail"]
    assert findings["disk"]["state"] != "fail"


def test_no_driver_is_fine_and_a_silent_driver_is_not() -> None:
    (absent,) = gpus(GpuReading(problem="no NVIDIA driver on this machine"))
    (silent,) = gpus(GpuReading(problem="the NVIDIA driver does not answer: Unknown Error"))
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
    with sqlite3.connect(good) as connection:
        connection.execute("update alembic_version set version_num = '451aebb31d03'")
    old = mlflow_store(f"sqlite:///{good}")
    assert (old.state, old.detail) == ("fail", f"{good}: its tables are of an older MLflow")
    assert f"mlflow db upgrade sqlite:///{good}" in old.remedy


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


def test_a_cluster_that_cannot_be_reached_is_one_failure_and_not_five(tmp_path: Path, closed_port: int) -> None:
    place = Place(tmp_path, "", f"127.0.0.1:{closed_port}", 5000)
    checks = [check for check in CHECKS if check.name in ("Ray", "nodes", "clocks", "shared home")]
    asked: list[str] = []
    (finding,) = diagnose(place, asked.append, checks)
    assert (finding.name, finding.state) == ("Ray", "fail")
    assert asked == ["Ray", "nodes", "clocks", "shared home"]


def test_a_local_ray_is_not_started_to_be_looked_at(tmp_path: Path) -> None:
    checks = [check for check in CHECKS if check.name in ("Ray", "nodes")]
    (finding,) = diagnose(Place(tmp_path, "", "local", 5000), checks=checks)
    assert (finding.name, finding.state) == ("Ray", "ok")


def test_a_taken_port_names_the_next(listener: int, closed_port: int) -> None:
    assert free_port(listener).remedy == f"ftcluster ui --port {listener + 1}"
    assert free_port(closed_port).state == "ok"


def test_taken_ports_of_a_head_are_named_with_the_words_that_change_them(listener: int, closed_port: int) -> None:
    assert free_head_ports((closed_port, closed_port)).state == "ok"
    finding = free_head_ports((closed_port, listener))
    assert (finding.state, finding.remedy) == ("warn", f"ray start --head --dashboard-port={listener + 1}")


def test_deepspeed_is_optional_and_one_that_cannot_be_imported_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (absent,) = deepspeed(CPU_BUILD, start=True, module="no_such_package")
    assert (absent.state, "not installed" in absent.detail) == ("ok", True)
    install(tmp_path, "broken_speed", "7")
    monkeypatch.syspath_prepend(str(tmp_path))
    (broken,) = deepspeed(CPU_BUILD, start=True, module="broken_speed")
    assert broken.state == "warn"
    assert broken.detail == "7 cannot be imported: ModuleNotFoundError: No module named 'broken_speed'"
    assert next(deepspeed(CPU_BUILD, start=False, module="broken_speed")) == Finding("DeepSpeed", "ok", "7")


@pytest.mark.parametrize(
    ("build", "ready", "problem"),
    [
        (TorchBuild("2.13.1+cu128", "12.8", 1, ()), True, ""),
        (TorchBuild("2.14.0+cu128", "12.8", 1, ()), True, "here is torch 2.14.0+cu128 and CUDA 12.8"),
        (TorchBuild("2.13.0+cu130", "13.0", 1, ()), True, "here is torch 2.13.0+cu130 and CUDA 13.0"),
        (TorchBuild("2.14.0", "13.0", 1, ()), False, ""),  # compiles everything when it is used
        (TorchBuild("2.13.0+cpu", "", 0, ()), True, ""),
    ],
)
def test_operations_of_deepspeed_that_were_compiled_for_another_torch_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: TorchBuild, ready: bool, problem: str
) -> None:
    install(tmp_path, "made_speed", "8")
    (tmp_path / "made_speed").mkdir()
    (tmp_path / "made_speed" / "git_version_info_installed.py").write_text(
        f"installed_ops = {{'cpu_adam': {ready}, 'async_io': False}}\n"
        "torch_info = {'version': '2.13', 'cuda_version': '12.8', 'nccl_version': '2.27'}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    finding = next(deepspeed(build, start=False, module="made_speed"))
    if problem:
        assert finding.state == "warn"
        assert finding.detail == f"8, cpu_adam compiled for torch 2.13 and CUDA 12.8; {problem}"
        assert finding.remedy.endswith("--no-build-isolation made_speed==8")
    else:
        assert finding == Finding("DeepSpeed", "ok", "8")


def install(folder: Path, name: str, version: str) -> None:
    """What an installer leaves behind."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}")


def test_tools_that_compile_operations_are_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    _, tools = deepspeed(CPU_BUILD, start=False, module="pytest")
    assert (tools.state, tools.detail) == ("warn", "g++ and ninja not found on PATH")


def test_an_all_reduce_tells_its_bandwidth_or_what_to_do() -> None:
    good = all_reduce_finding(Result("nccl", "H200", 2**30, 0.5), "a and b")
    bad = all_reduce_finding(Result(problem="Connection refused"), "a and b")
    assert (good.state, good.detail) == ("ok", "2.0 GiB/s over nccl between a and b (H200)")
    assert (bad.state, bad.detail) == ("fail", "between a and b: Connection refused")
    assert "GLOO_SOCKET_IFNAME" in bad.remedy


def node(name: str, *cards: Gpu, gpus: float = 0.0, versions: Versions = NOTHING) -> Node:
    found = Inventory(name, Machine(8, 2**34, 2**33), GpuReading(cards, "570"), versions=versions)
    return Node(name, "10.0.0.1", cpus=8.0, gpus=gpus, inventory=found)


def test_each_node_is_a_line_and_so_is_each_card_that_has_something() -> None:
    lines = list(nodes_answer([node("a", GPU, Gpu(1, "GPU-2", "H200", xids=(48,)), gpus=2.0), node("b")]))
    assert [(line.name, line.state) for line in lines] == [("node", "ok"), ("GPU 1", "fail"), ("node", "ok")]
    assert lines[0].detail == "a (a): 8 CPUs, 8.0 GiB of 16.0 GiB memory available, 1 of 2 GPUs usable"
    assert lines[1].detail.startswith("a (a): H200; not used: XID 48")


def test_a_node_that_does_not_answer_and_one_ray_counts_wrongly_are_told() -> None:
    silent = Node("c", "10.0.0.3", problem="it did not answer within 30 seconds")
    fail, _, warn = nodes_answer([silent, node("a", GPU, gpus=4.0)])
    assert (fail.state, fail.detail) == ("fail", "10.0.0.3 (c): it did not answer within 30 seconds")
    assert (warn.state, warn.detail) == ("warn", "a (a): Ray counts 4 GPUs, the driver 1")


def test_nodes_with_other_versions_are_named_with_what_they_have() -> None:
    here = Versions(python="3.11.7", torch="2.13.0", ray="2.60.0")
    old, bare = replace(here, torch="2.11.0"), replace(here, torch="", deepspeed="0.19.8")
    nodes = [node("a", versions=here), node("b", versions=old), node("c", versions=bare), node("d", versions=old)]
    silent = Node("e", "10.0.0.3", problem="it did not answer within 30 seconds")
    (finding,) = versions_agree(here, [*nodes, silent])
    assert (finding.name, finding.state) == ("versions", "warn")
    assert finding.detail == (
        "b (b), d (d): torch 2.11.0 (here 2.13.0); c (c): torch missing (here 2.13.0), deepspeed 0.19.8 (here missing)"
    )
    assert finding.remedy.startswith("install the same on all nodes and here")


def test_nodes_with_the_same_versions_are_one_good_line_and_no_node_is_none() -> None:
    here = Versions(python="3.11.7", torch="2.13.0")
    (finding,) = versions_agree(here, [node("a", versions=here), node("b", versions=here)])
    assert (finding.state, finding.detail) == (
        "ok",
        "all 2 nodes have those of this machine: python 3.11.7, torch 2.13.0",
    )
    assert list(versions_agree(here, [])) == []


@pytest.mark.parametrize(("ahead", "state", "part"), [(0.2, "ok", "ahead"), (-9.0, "warn", "9.000 s behind")])
def test_a_clock_that_is_seconds_off_is_a_warning(ahead: float, state: str, part: str) -> None:
    finding = clocks_agree({"a": Clock(0.1, 0.001), "b": Clock(ahead, 0.001)}, {"a": "node a", "b": "node b"})
    assert finding.state == state
    assert f"node b is {abs(ahead):.3f} s" in finding.detail
    assert part in finding.detail


def test_a_slow_answer_is_no_evidence_against_a_clock() -> None:
    assert clocks_agree({"a": Clock(9.0, 8.0)}, {"a": "node a"}).state == "ok"
    assert clocks_agree({}, {}).state == "warn"


def test_every_node_that_does_not_share_the_home_is_named(tmp_path: Path) -> None:
    names = {"a": "node a", "b": "node b", "c": "node c"}
    answers = {"a": Answer(""), "b": Answer("it sees another file"), "c": Answer(problem="it did not answer")}
    finding = shared_finding(tmp_path, answers, names)
    assert (finding.state, finding.detail) == ("fail", "node b: it sees another file; node c: it did not answer")
    assert "NFS" in finding.remedy
    assert shared_finding(tmp_path, {"a": Answer("")}, names).state == "ok"
