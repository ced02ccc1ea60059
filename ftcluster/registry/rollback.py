"""Rollback: an alias goes back to the champion before, once that one is known to be whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from ftcluster.errors import PromotionRefused, UsageError
from ftcluster.registry.evidence import RUN_TAG
from ftcluster.registry.store import CHAMPION, Registry, Version, check_alias, check_model_name
from ftcluster.tracking.redaction import hide_url_users


@dataclass(frozen=True)
class Rollback:
    """Where the alias went: ``version`` is champion again, ``left`` no longer."""

    model: str
    alias: str
    version: str
    left: str
    run: str


def roll_back(
    model: str,
    alias: str = CHAMPION,
    *,
    uri: str,
    by: str = "",
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    before_write: Callable[[str], None] = lambda _: None,
) -> Rollback:
    """Move an alias back to the champion before, once that one's adapter is known to be whole.

    Raises:
        UsageError: there is no such model.
        PromotionRefused: there was no champion before, or its adapter is gone or changed.
        TrackingError: MLflow is away.
    """
    registry = Registry(uri, before_write)
    if not registry.is_registered(check_model_name(model)):
        remedy = "`ftcluster ui` shows the registered models; MLFLOW_TRACKING_URI names another MLflow"
        raise UsageError(f'there is no registered model "{model}"', where=hide_url_users(uri), remedy=remedy)
    history = registry.history(model, check_alias(alias))
    if len(history) < 2:
        raise _cannot_roll_back(model, alias, history)
    version = registry.version(model, history[-2])
    if fault := _fault(registry, version):
        raise PromotionRefused(
            f"version {history[-2]} was {alias} before, but {fault}",
            where=model,
            remedy="promote another run: ftcluster promote RUN --name " + model,
        )
    assert version is not None
    registry.move_alias_back(alias, version, f"{now().isoformat(timespec='seconds')} {by}".strip())
    return Rollback(model, alias, version.number, history[-1], version.tags.get(RUN_TAG, ""))


def _cannot_roll_back(model: str, alias: str, history: list[str]) -> PromotionRefused:
    if history:
        message = f"no {alias} before version {history[0]} is known"
        remedy = f"name the run you want instead: ftcluster promote RUN --name {model}"
    else:
        message, remedy = f"{model} has no {alias}", f"ftcluster promote RUN --name {model} --alias {alias}"
    return PromotionRefused(message, where=model, remedy=remedy)


def _fault(registry: Registry, version: Version | None) -> str:
    """What speaks against a version as champion; empty if nothing does."""
    if version is None:
        return "it was deleted"
    if not version.sha256 or not version.run_id:
        return "ftcluster did not make it, so nothing says what its adapter should be"
    stored = registry.stored_sha256(version.run_id)
    if stored is None:
        return "its adapter is gone"
    return "" if stored == version.sha256 else "its adapter was changed since it was promoted"
