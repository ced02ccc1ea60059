"""The shell's program of a job, and addresses at which there is no cluster to send one to."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from ftcluster.cluster.jobs import Jobs, OutOfTouchError, checked, entrypoint
from ftcluster.config.environment import keep_ray_local
from ftcluster.errors import FtclusterError, UsageError

HERE = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray is imported here, for other tests of this process too, and is told an address by a variable."""
    keep_ray_local()
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")


def in_shell(program: str, path: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": path}
    return subprocess.run(["/bin/sh", "-c", program], capture_output=True, text=True, check=False, env=environment)


def test_words_reach_the_command_whole() -> None:
    done = in_shell(entrypoint(["config", "show", "name=its-$HOME", "data.columns={prompt: a question}"]), HERE)
    assert done.returncode == 0, done.stderr
    assert "name: its-$HOME " in done.stdout
    assert "prompt: a question" in done.stdout


def test_the_exit_code_is_that_of_the_command() -> None:
    assert in_shell(entrypoint(["trian"]), HERE).returncode == 2


def test_a_node_without_ftcluster_says_so() -> None:
    done = in_shell(entrypoint(["config", "show"]), "/usr/bin:/bin")
    assert done.returncode == 127
    assert "ftcluster is not installed where the job runs" in done.stderr


def test_another_version_on_the_cluster_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftcluster.cluster.jobs.__version__", "9.9.9")
    done = in_shell(entrypoint(["--version"]), HERE)
    assert done.returncode == 0
    assert "this job was sent by ftcluster 9.9.9" in done.stderr


@contextmanager
def saying(answer: bytes) -> Iterator[str]:
    """A server that answers whatever it is asked with the same bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"\x00\x01 not http at all\r\n", "what answers there is no Ray dashboard"),
        (b"HTTP/1.0 404 Not Found\r\n\r\n", "what answers there is no Ray dashboard: HTTP Error 404"),
        (b"HTTP/1.0 200 OK\r\n\r\n<html>hello</html>", "what answers there is no Ray dashboard"),
    ],
)
def test_something_else_that_answers_is_told_from_a_dashboard(answer: bytes, text: str) -> None:
    with saying(answer) as address, pytest.raises(UsageError) as caught:
        Jobs(address)
    assert caught.value.message.startswith(text)
    assert caught.value.where == address
    assert "--address http://HEAD:8265" in caught.value.remedy


def test_an_address_nobody_listens_at_is_told() -> None:
    with pytest.raises(UsageError, match="no Ray dashboard answers there: Connection refused"):
        Jobs("http://127.0.0.1:1")


def test_an_address_of_another_kind_is_told() -> None:
    with pytest.raises(UsageError, match="this is no address of a dashboard, which begins with http://"):
        Jobs("127.0.0.1:6379")


@pytest.mark.parametrize("name", ["../../etc", "", "a/b", "a" * 64, "-x"])
def test_what_could_be_no_name_of_a_job_never_becomes_part_of_a_url(name: str) -> None:
    with pytest.raises(UsageError, match="is no name of a job"):
        checked(name)
    assert checked("raysubmit_4LamXRuQpYdSMg7J") == "raysubmit_4LamXRuQpYdSMg7J"


@contextmanager
def dashboard(status: int, text: str) -> Iterator[tuple[str, HTTPServer]]:
    """A server that is a dashboard as far as its version goes, and answers every other question alike."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/api/version"
            self.send_response(200 if known else status)
            self.end_headers()
            self.wfile.write(json.dumps({"ray_version": "2.60.0"}).encode() if known else text.encode())

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("status", "text", "kind", "message"),
    [
        (404, "Job x does not exist", UsageError, "no job x on this cluster"),
        (401, "Unauthorized: Missing authentication token", UsageError, "the cluster wants a token"),
        (500, "Traceback\nKeyError: it broke", FtclusterError, "the cluster refused: KeyError: it broke."),
    ],
)
def test_what_a_cluster_refuses_is_told_in_a_line(
    status: int, text: str, kind: type[FtclusterError], message: str
) -> None:
    with dashboard(status, text) as (address, _):
        jobs = Jobs(address)
        with pytest.raises(kind) as caught:
            jobs.get("x")
    assert caught.value.message == message
    assert caught.value.where == address


def test_a_cluster_that_is_gone_is_told_from_a_job_that_failed() -> None:
    with dashboard(200, "") as (address, _):
        jobs = Jobs(address)
    with pytest.raises(OutOfTouchError, match="the cluster does not answer any more") as caught:
        jobs.get("x")
    assert caught.value.retryable
