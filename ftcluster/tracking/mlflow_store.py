"""Everything needed to talk to MLflow: where it is, its schema, a quiet client, its errors as ours.

Owns no run and no record. MLflow is imported inside the functions: it takes seconds, and most commands that
import this module never call it.
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ftcluster.errors import TrackingError
from ftcluster.tracking.redaction import hide_url_users

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SQLITE = "sqlite:///"


def tracking_uri(home: Path, configured: str) -> str:
    """The configured MLflow, or the embedded one: an SQLite file in the home folder."""
    return configured or f"{_SQLITE}{home.absolute() / 'mlflow.db'}"


def artifact_root(uri: str) -> str | None:
    """Where artifacts of a store without a server lie: ``mlartifacts`` beside its SQLite file.

    None for any other store: there the server decides.
    """
    return (_database(uri).parent / "mlartifacts").as_uri() if uri.startswith(_SQLITE) else None


def prepare_store(uri: str) -> None:
    """Create the tables of an SQLite store; several processes may call this at once, and be killed while they do.

    Any other store is prepared by whoever runs it, so nothing happens for it.

    Raises:
        TrackingError: the folder cannot be written, or the tables are of another MLflow version.
    """
    if not uri.startswith(_SQLITE):
        return
    with mlflow_errors(uri):
        _quieten()
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        database = _database(uri)
        database.parent.mkdir(parents=True, exist_ok=True)
        with database.with_name(f"{database.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not database.exists():  # MLflow makes tables in many steps, and cannot go on from a half of them
                aside = database.with_name(f".writing-{database.name}")
                aside.unlink(missing_ok=True)
                SqlAlchemyStore(f"{_SQLITE}{aside}", artifact_root(uri)).engine.dispose()
                aside.replace(database)
            SqlAlchemyStore(uri, artifact_root(uri)).engine.dispose()


def open_client(uri: str) -> MlflowClient:
    """An MLflow client that prints nothing and gives up soon, since whoever uses it tries again by itself."""
    _quieten()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextmanager
def mlflow_errors(uri: str) -> Iterator[None]:
    """Turn whatever goes wrong with MLflow inside the block into a ``TrackingError``.

    The client lets errors of its HTTP and SQL libraries and of the file system through beside its own, so
    everything that is not ours already counts as MLflow's.
    """
    try:
        yield
    except TrackingError:
        raise
    except Exception as error:
        raise TrackingError(
            hide_url_users(_what_happened(error)),
            where=hide_url_users(uri),
            remedy="start the server or correct tracking.uri; `ftcluster runs sync` delivers what is waiting",
        ) from error


def _what_happened(error: Exception) -> str:
    below = error.__cause__ or error.__context__
    if isinstance(below, OSError):  # raised by the HTTP library; the text MLflow makes of it is a page of internals
        return f"MLflow cannot be reached ({type(below).__name__})"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"MLflow did not take it: {lines[0]}"


def _database(uri: str) -> Path:
    return Path(uri.removeprefix(_SQLITE)).absolute()


def _quieten() -> None:
    """No log lines, progress bars, links or usage reports, no minutes of retries; what the user set stays."""
    from mlflow import environment_variables as settings
    from mlflow import telemetry

    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    }.items():
        setting = getattr(settings, name)
        if not setting.is_set():
            setting.set(value)
    telemetry.set_telemetry_client()  # reads the setting again: importing MLflow had switched it on
    # MLflow logs what it raises as well, with tracebacks; everything it raises is told by us in a line.
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)
    logging.getLogger("alembic").setLevel(logging.WARNING)
