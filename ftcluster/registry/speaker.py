"""Who a user wants to talk to: a base and the adapter on it, found by run, sweep, registered model or folder.

    models:/NAME@ALIAS  NAME@ALIAS  models:/NAME/3     a version in the registry, downloaded and checked
    a run or the beginning of its name, a sweep        its adapter or model; of a sweep the best trial's
    a folder                                           a Hugging Face model, or an adapter in PEFT's format

Owns finding and checking the files and loading them. The conversation itself is ``conversation``'s.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from ftcluster.config.compose import from_dict
from ftcluster.contracts.folder import RunFolder
from ftcluster.contracts.trial import RunState
from ftcluster.engine.precision import choose_device, choose_precision
from ftcluster.errors import BadAdapter, ModelError, StoreError, UsageError
from ftcluster.ledger.schema import RunRow
from ftcluster.ledger.store import Ledger
from ftcluster.models import adapters
from ftcluster.models.base import Base, load_base
from ftcluster.models.integrity import FILE, read_integrity
from ftcluster.models.tokenizer import saved_template
from ftcluster.registry.candidate import choose
from ftcluster.registry.evidence import BASE_TAG, RUN_TAG
from ftcluster.registry.store import Registry, Version, check_model_name
from ftcluster.tracking.redaction import hide_url_users

_VERSION = re.compile(r"(?:models:/)?(?P<model>[^@/:]+)(?:@(?P<alias>[^@/:]+)|/(?P<number>\d+))")


@dataclass(frozen=True)
class Speaker:
    """``adapter`` is None where the folder speaks for itself; ``template`` is the adapter's, None: the folder's own."""

    title: str
    folder: Path
    adapter: Path | None = None
    revision: str = ""
    template: str | None = None
    trust_remote_code: bool = False


def find_speaker(reference: str, home: Path, registry: Registry, scratch: Path) -> Speaker:
    """Whom a reference means; an adapter from the registry is put into the ``scratch`` folder.

    The ledger of ``home`` is opened only for a run, or for an empty reference: the newest finished one.

    Raises:
        UsageError: nothing of that name.
        StoreError: the run left no result.
        BadAdapter: the adapter is not what was promoted or saved.
    """
    match = _VERSION.fullmatch(reference)
    if match and (match["alias"] or reference.startswith("models:/")):
        return _of_version(registry, match["model"], match["alias"] or "", match["number"] or "", scratch)
    if Path(reference).is_dir() and "/" in str(reference):
        return _of_folder(Path(reference))
    if reference.startswith((".", "/", "~")):
        raise UsageError("there is no such folder", where=reference, remedy="name a folder with a model or an adapter")
    with Ledger.open(home) as ledger:
        return _of_run(choose(ledger, reference or _newest(ledger)))


def load_speaker(speaker: Speaker, device: str = "auto") -> Base:
    """The model, ready to answer.

    Raises:
        ModelError: the base is missing or no model.
        BadAdapter: the adapter was changed, or was trained on other weights than the base has now.
    """
    where = choose_device(device)
    base = load_base(
        speaker.folder,
        device=where,
        dtype=choose_precision("auto", where, full=False).weights,
        revision=speaker.revision,
        template=speaker.template,
        trust_remote_code=speaker.trust_remote_code,
    )
    if speaker.adapter is not None:
        _check_base(speaker.adapter, base)
        adapters.attach_saved(base, "speaker", speaker.adapter)
        adapters.activate(base, "speaker")
        base.model.eval()
    return base


def _newest(ledger: Ledger) -> str:
    """The sweep or training that finished last.

    Raises:
        UsageError: none has finished.
    """
    finished = [run for run in ledger.runs(states={RunState.FINISHED}) if run.kind != "trial"]
    if not finished:
        raise UsageError("no run has finished yet", remedy="name a model's folder: ftcluster chat ./qwen")
    return max(finished, key=lambda run: run.ended_at or 0.0).name


def _of_run(run: RunRow) -> Speaker:
    config, folder = from_dict(run.config), RunFolder(Path(run.folder))
    trusted = config.model.trust_remote_code
    if folder.adapter.is_dir():
        base, template = Path(config.model.path), saved_template(folder.adapter)
        return Speaker(run.name, base, folder.adapter, config.model.revision, template, trusted)
    if folder.model.is_dir():
        return Speaker(run.name, folder.model, trust_remote_code=trusted)
    remedy = "resume it, or name another run (`ftcluster runs` lists them)"
    raise StoreError(f"{run.name} is {run.state.value} and left no adapter and no model", where=run.name, remedy=remedy)


def _of_folder(folder: Path) -> Speaker:
    if not (folder / adapters.CONFIG).is_file():
        return Speaker(folder.name, folder)
    base = json.loads((folder / adapters.CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path") or ""
    return Speaker(folder.name, Path(base), folder, template=saved_template(folder))


def _of_version(registry: Registry, model: str, alias: str, number: str, scratch: Path) -> Speaker:
    check_model_name(model)
    version = registry.champion(model, alias) if alias else registry.version(model, number)
    if version is None:
        remedy = f"promote a run first: ftcluster promote RUN --name {model}; MLFLOW_TRACKING_URI names another MLflow"
        wanted = f"{model}@{alias}" if alias else f"{model}/{number}"
        raise UsageError(f"the registry has no {wanted}", where=hide_url_users(registry.uri), remedy=remedy)
    base = version.tags.get(BASE_TAG, "")
    if not base:
        remedy = "download it and name the folder instead"
        raise UsageError(f"{model} version {version.number} was not made by ftcluster", where=model, remedy=remedy)
    adapter = registry.download_adapter(version, scratch)
    _check_promoted(adapter, version)
    title = f"{model} version {version.number} ({version.tags.get(RUN_TAG, '')})"
    return Speaker(title, Path(base), adapter, template=saved_template(adapter))


def _check_promoted(adapter: Path, version: Version) -> None:
    if (found := read_integrity(adapter).sha256) != version.sha256:
        raise BadAdapter(
            f"its sha256 is {found[:12]}…, promoted was {version.sha256[:12]}…",
            where=f"{version.model} version {version.number}",
            remedy=f"go back to the champion before: ftcluster rollback {version.model}",
        )


def _check_base(adapter: Path, base: Base) -> None:
    if not (adapter / FILE).is_file():  # an adapter somebody else made
        return
    trained_on = read_integrity(adapter).base_revision
    if trained_on not in ("", base.revision):
        raise ModelError(
            f"the adapter was trained on base {trained_on[:12]}, this base is {base.revision[:12]}",
            where=str(base.folder),
            remedy="put the weights it was trained on back into this folder",
        )
