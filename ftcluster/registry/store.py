"""Everything that talks to MLflow's model registry: versions, their evidence, the alias and its history.

Owns the order of writes. Does not own whether a version deserves the alias (``gates``) nor which run is meant
(``promotion``). Each step of a promotion is one write of MLflow's, and the alias comes last::

    evidence files on the run -> registered model -> version with its tags -> history -> alias

So a process killed anywhere leaves the old champion or the new one, never none. What it leaves behind is used
by the next promotion of the same adapter: a version is found again by its run and the sha256 of its adapter.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcluster.errors import UsageError
from ftcluster.models.adapters import WEIGHTS
from ftcluster.registry.history import after_promotion, decode_history, encode_history, read_history
from ftcluster.tracking.mlflow_store import mlflow_errors, open_client, prepare_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

ADAPTER = "adapter"  # artifact path of a run's adapter
CHAMPION = "champion"
SHA256_TAG = "ftcluster.adapter_sha256"
ROLLED_BACK_TAG = "ftcluster.rolled_back"
_HISTORY_TAG = "ftcluster.history."
_MODEL_NAME = re.compile(r"\w[\w.-]{0,99}")
_ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,99}")
_RESERVED = re.compile(r"latest|v\d+", re.IGNORECASE)


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    model: str
    number: str
    run_id: str
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Of the adapter when it was promoted; empty for a version that ftcluster did not make."""
        return self.tags.get(SHA256_TAG, "")


def check_model_name(name: str) -> str:
    """The name, if a registered model can have it and ``models:/name@alias`` can be typed.

    Raises:
        UsageError: saying which characters it may have.
    """
    if not _MODEL_NAME.fullmatch(name):
        raise UsageError(
            f'"{name}" cannot be the name of a registered model',
            where="--name",
            remedy="use up to 100 letters, digits, dots, dashes and underscores, beginning with a letter or digit",
        )
    return name


def check_alias(alias: str) -> str:
    """The alias, if MLflow takes it.

    Raises:
        UsageError: saying which characters it may have, or that MLflow keeps the name for itself.
    """
    if _RESERVED.fullmatch(alias):
        raise UsageError(f'MLflow keeps the alias "{alias}" for itself', where="--alias", remedy=f'use "{CHAMPION}"')
    if not _ALIAS.fullmatch(alias):
        remedy = "use letters, digits, dashes and underscores, beginning with a letter"
        raise UsageError(f'"{alias}" cannot be an alias', where="--alias", remedy=remedy)
    return alias


def _go_on(_write: str) -> None:
    """Nothing happens between two writes."""


class Registry:
    """The model registry of one MLflow store; every method that asks it may raise ``TrackingError``.

    ``before_write`` is called with the name of each write that is about to happen, so that a test can stop the
    process there.
    """

    def __init__(self, uri: str, before_write: Callable[[str], None] = _go_on) -> None:
        self.uri = uri
        self._before_write = before_write
        self._opened: MlflowClient | None = None

    def champion(self, model: str, alias: str) -> Version | None:
        """The version an alias points at; None where there is no such model or alias."""
        with mlflow_errors(self.uri):
            found = self._model(model)
            number = _alias_target(found, alias) if found else None
            return self._version(model, number) if number else None

    def history(self, model: str, alias: str) -> list[str]:
        """Version numbers that were champion up to the present one, oldest first."""
        with mlflow_errors(self.uri):
            found = self._model(model)
            return _history(found, alias) if found else []

    def version(self, model: str, number: str) -> Version | None:
        """A version; None where it was deleted."""
        with mlflow_errors(self.uri):
            return self._version(model, number)

    def is_registered(self, model: str) -> bool:
        """Whether there is a model of this name."""
        with mlflow_errors(self.uri):
            return self._model(model) is not None

    def stored_sha256(self, run_id: str) -> str | None:
        """Hash of the adapter as MLflow has it now, None where it has none."""
        with mlflow_errors(self.uri), tempfile.TemporaryDirectory(prefix="ftcluster-") as folder:
            name = f"{ADAPTER}/{WEIGHTS}"
            if not any(file.path == name for file in self._client.list_artifacts(run_id, ADAPTER)):
                return None
            path = Path(self._client.download_artifacts(run_id, name, folder))
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()

    def download_adapter(self, version: Version, folder: Path) -> Path:
        """A version's adapter below an existing folder, in PEFT's format."""
        with mlflow_errors(self.uri):
            return Path(self._client.download_artifacts(version.run_id, ADAPTER, str(folder)))

    def store_adapter(self, run_id: str, folder: Path) -> None:
        """Give MLflow a run's adapter, in place of whatever it has under that name."""
        with mlflow_errors(self.uri):
            self._before_write(ADAPTER)
            self._client.log_artifacts(run_id, str(folder), ADAPTER)

    def read_json(self, run_id: str, name: str) -> Any | None:
        """A JSON artifact of a run, None where it has none of that name."""
        with mlflow_errors(self.uri), tempfile.TemporaryDirectory(prefix="ftcluster-") as folder:
            if not any(file.path == name for file in self._client.list_artifacts(run_id)):
                return None
            return json.loads(Path(self._client.download_artifacts(run_id, name, folder)).read_text(encoding="utf-8"))

    def write_json(self, run_id: str, name: str, value: dict[str, Any]) -> None:
        """Store a JSON artifact with a run, replacing one of the same name."""
        with mlflow_errors(self.uri):
            self._before_write(name)
            self._client.log_dict(run_id, value, name)

    def register(self, model: str, run_id: str, tags: Mapping[str, str]) -> Version:
        """A version for a run's adapter, carrying ``tags``: the one that is there for it already, or a new one."""
        with mlflow_errors(self.uri):
            if self._model(model) is None:
                self._before_write("model")
                self._client.create_registered_model(model)
            if known := self._find(model, run_id, tags[SHA256_TAG]):
                for key, text in tags.items():
                    self._before_write(f"tag {key}")
                    self._client.set_model_version_tag(model, known.number, key, text)
                return Version(model, known.number, run_id, {**known.tags, **tags})
            self._before_write("version")
            # Not mlflow.register_model: given plain files it fails and leaves an empty model behind.
            made = self._client.create_model_version(model, f"runs:/{run_id}/{ADAPTER}", run_id, tags=dict(tags))
            return Version(model, str(made.version), run_id, dict(tags))

    def move_alias(self, alias: str, version: Version) -> None:
        """Make a version champion and remember whom it follows."""
        self._write_alias(alias, version, after_promotion(self.history(version.model, alias), version.number))

    def move_alias_back(self, alias: str, version: Version, note: str) -> None:
        """Make an earlier champion champion again; ``note`` is kept with the version that gives way."""
        history = self.history(version.model, alias)
        self._write_alias(alias, version, history)
        with mlflow_errors(self.uri):
            self._before_write("note")
            self._client.set_model_version_tag(version.model, history[-1], ROLLED_BACK_TAG, note)

    def _write_alias(self, alias: str, version: Version, history: list[str]) -> None:
        with mlflow_errors(self.uri):
            self._before_write("history")
            text = encode_history(history)
            self._client.set_registered_model_tag(version.model, _HISTORY_TAG + alias, text)
            self._before_write("alias")
            self._client.set_registered_model_alias(version.model, alias, version.number)

    @property
    def _client(self) -> MlflowClient:
        if self._opened is None:
            prepare_store(self.uri)
            self._opened = open_client(self.uri)
        return self._opened

    def _model(self, name: str) -> Any | None:
        return _or_none(lambda: self._client.get_registered_model(name))

    def _version(self, model: str, number: str) -> Version | None:
        found = _or_none(lambda: self._client.get_model_version(model, number))
        return Version(model, str(found.version), found.run_id or "", dict(found.tags)) if found else None

    def _find(self, model: str, run_id: str, sha256: str) -> Version | None:
        condition = f"name='{model}' and run_id='{run_id}'"
        for found in self._client.search_model_versions(condition, order_by=["version_number DESC"]):
            if found.tags.get(SHA256_TAG) == sha256:
                return Version(model, str(found.version), run_id, dict(found.tags))
        return None


def _alias_target(model: Any, alias: str) -> str | None:
    number = model.aliases.get(alias)
    return None if number is None else str(number)


def _history(model: Any, alias: str) -> list[str]:
    return read_history(decode_history(model.tags.get(_HISTORY_TAG + alias)), _alias_target(model, alias))


def _or_none(ask: Callable[[], Any]) -> Any | None:
    """What was asked for, None where MLflow says that there is no such thing."""
    from mlflow.exceptions import MlflowException

    try:
        return ask()
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
