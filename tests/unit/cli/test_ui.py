"""``ftcluster ui`` shows the embedded store and leaves no process behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from ftcluster.cli import main

RUN = [sys.executable, "-c", "import sys; from ftcluster.cli import main; sys.exit(main())"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_taken_port_is_refused_before_anything_starts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert main(["ui", "--port", str(port), "--home", str(tmp_path)]) == 2
    assert (
        f"error: port {port} is taken by another program\n  -> ftcluster ui --port {port + 1}"
        in capsys.readouterr().err
    )
    assert not list(tmp_path.iterdir())


def test_a_configured_server_is_named_instead_of_started(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ui", "tracking.uri=http://me:s3cret@mlflow.example:5000"]) == 0
    assert capsys.readouterr().out == "MLflow is a server already: http://***@mlflow.example:5000\n"


def test_a_server_that_cannot_start_says_why_and_exits_with_7(capfd: pytest.CaptureFixture[str]) -> None:
    code = main(["ui", "--port", str(free_port()), "tracking.uri=mysql+nodriver://localhost/x"])
    assert code == 7
    assert "error: MLflow's server ended with code 1" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_the_store_on_this_machine_only_and_ends_with_all_its_processes(
    ending: signal.Signals, tmp_path: Path
) -> None:
    port = free_port()
    process = subprocess.Popen(
        [*RUN, "ui", "--port", str(port), "--home", str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"MLflow: http://127.0.0.1:{port}   (Ctrl-C ends it)\n"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as reply:
            assert reply.read() == b"OK"
        children = psutil.Process(process.pid).children(recursive=True)
        listening = [item for child in children for item in child.net_connections() if item.status == "LISTEN"]
        assert {item.laddr.ip for item in listening} == {"127.0.0.1"}
        process.send_signal(ending)
        assert process.wait(60) == 0
        gone, alive = psutil.wait_procs(children, timeout=10)
        assert (len(gone), alive) == (len(children), [])
        assert {path.name for path in tmp_path.iterdir()} <= {"mlflow.db", "mlflow.db.lock", "mlartifacts"}
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGTERM)
            process.wait(60)
        assert process.stdout is not None
        process.stdout.close()
