"""``ftcluster ui``: MLflow's own pages on the store that runs are written to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Annotated

import typer

from ftcluster.cli.arguments import ConfigDir, Home, Overrides
from ftcluster.cli.output import console, notices
from ftcluster.errors import TrackingError, UsageError

PORT = 5000
_START_SECONDS = 120.0  # a cold start imports all of MLflow; 5 s is usual
_STOP_SECONDS = 10.0


def ui(
    overrides: Overrides = None,
    port: Annotated[int, typer.Option(help="Port on this machine.", min=1, max=65535)] = PORT,
    config_dir: ConfigDir = None,
    home: Home = None,
) -> None:
    """Open the MLflow pages of the embedded store: runs, curves, adapters, registry. Ctrl-C ends it.

      ftcluster ui
      ftcluster ui --port 5001 --home /data/runs

    It listens on 127.0.0.1 only. From another machine: [bold]ssh -L 5000:127.0.0.1:5000 HOST[/bold].
    """
    from ftcluster.cli.diagnosis import port_is_free
    from ftcluster.config.compose import compose, resolve_home
    from ftcluster.config.environment import tracking_uri
    from ftcluster.tracking import mlflow_store
    from ftcluster.tracking.redaction import hide_url_users

    config = compose(overrides or [], config_dir=config_dir)
    store = mlflow_store.tracking_uri(home or resolve_home(config), tracking_uri(config.tracking.uri))
    if store.startswith(("http://", "https://")):
        console().print(f"MLflow is a server already: {hide_url_users(store)}", soft_wrap=True)
        return
    if not port_is_free(port):
        raise UsageError(f"port {port} is taken by another program", remedy=f"ftcluster ui --port {port + 1}")
    mlflow_store.prepare_store(store)
    with _server(store, port) as server:
        url = f"http://127.0.0.1:{port}"
        notices().print("starting MLflow ...")
        _wait_until_healthy(server, url)
        console().print(f"MLflow: {url}   (Ctrl-C ends it)", soft_wrap=True)
        sys.stdout.flush()
        server.process.wait()
        raise server.ended_by_itself()


@dataclass(frozen=True)
class _Server:
    process: subprocess.Popen[bytes]
    log: IO[bytes]

    def ended_by_itself(self) -> TrackingError:
        self.log.seek(0)
        last = self.log.read().decode(errors="replace").strip().rpartition("\n")[2]
        return TrackingError(f"MLflow's server ended with code {self.process.returncode}: {last}")


@contextmanager
def _server(store: str, port: int) -> Iterator[_Server]:
    """MLflow's server in a process group of its own, which is gone when the block is left, by signals too."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    before = signal.signal(signal.SIGTERM, _interrupt)
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, env=_environment(store), start_new_session=True, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield _Server(process, log)
        except KeyboardInterrupt:
            notices().print("MLflow has ended")
        finally:
            signal.signal(signal.SIGTERM, before)
            _end(process)


def _environment(store: str) -> dict[str, str]:
    from ftcluster.config.environment import child_environment
    from ftcluster.tracking.mlflow_store import artifact_root

    # The store's address can hold a password: by environment, other users of the machine do not see it.
    changes = {
        "MLFLOW_BACKEND_STORE_URI": store,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    root = artifact_root(store)
    return child_environment(**changes, **({"MLFLOW_ARTIFACTS_DESTINATION": root} if root else {}))


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _end(process: subprocess.Popen[bytes]) -> None:
    for stop in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, stop)
            process.wait(_STOP_SECONDS)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _wait_until_healthy(server: _Server, url: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except OSError:
            if server.process.poll() is not None:
                raise server.ended_by_itself() from None
            time.sleep(0.1)
    raise TrackingError(f"MLflow's server did not answer within {_START_SECONDS:.0f} s", where=url)
