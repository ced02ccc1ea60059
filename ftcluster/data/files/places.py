"""Where data comes from: turns files, folders, URLs and data sets of the hub into local files.

    rows.jsonl, folder/            as they are; of a folder, the data files in it by name, hidden ones not
    s3://bucket/rows.jsonl, ...    through fsspec, which knows where credentials are; folders and patterns too
    hub:owner/name                 the files of its training split, or hub:owner/name@revision/path

What is remote is downloaded once, written aside and renamed, so what is there is whole. It stays: to have a file that
changed since, delete its folder among the downloads.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from ftcluster.config.locations import HUB, KINDS, is_remote, kind_of
from ftcluster.data.files.scratch import written_aside
from ftcluster.data.files.training_files import METADATA, training_files
from ftcluster.errors import DataError, StoreError


def resolve(names: Sequence[str], downloads: Path) -> list[Path]:
    """The local files of these names, downloaded where they are not yet.

    Raises:
        DataError: no data file there, several data sets of which none is named, or a place that cannot be reached.
        StoreError: what was downloaded cannot be written.
    """
    files: list[Path] = []
    for name in names:
        if is_remote(name):
            files += _downloaded(name, downloads)
        else:
            files += _in_folder(Path(name)) if Path(name).is_dir() else [Path(name)]
    return files


def shown(name: str) -> str:
    """A name without what may be secret in it: the user and the query of a URL."""
    return re.sub(r"//[^/@]*@", "//", name.split("?", 1)[0])


def _in_folder(folder: Path) -> list[Path]:
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    files = [entry for entry in entries if entry.is_file() and kind_of(entry) and entry.name not in METADATA]
    if not files:
        below = ", ".join(entry.name for entry in entries if entry.is_dir())
        raise DataError(
            "has no data file" + (f"; its folders {below} are not searched" if below else ""),
            where=str(folder),
            remedy=f"name a folder that holds files of these kinds: {', '.join(KINDS)}",
        )
    return files


def _downloaded(name: str, downloads: Path) -> list[Path]:
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", shown(name)).strip("-.")[:60]
    folder = downloads / f"{slug}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    if not folder.is_dir():
        try:
            downloads.mkdir(parents=True, exist_ok=True)
            with written_aside(folder) as scratch:
                _download(name, scratch)
        except OSError as error:  # of this machine's disk: a store's own are told as bad data
            raise StoreError(
                f"cannot keep a download: {error}", where=str(downloads), remedy="choose a home that can be written"
            ) from error
    return sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))


def _download(name: str, folder: Path) -> None:
    try:
        _copy(name, folder)
    except DataError:
        raise
    except ImportError as error:
        raise _missing_package(name, error) from error
    except Exception as error:  # each file system has errors of its own
        url = _url(name)
        said = str(error).replace(url, shown(url)) or type(error).__name__
        missing = isinstance(error, FileNotFoundError)
        raise DataError(
            "is not there, or needs credentials" if missing else f"cannot be downloaded: {said}",
            where=shown(name),
            remedy="check the name and the network; credentials are those of the store's own tools",
        ) from error


def _copy(name: str, folder: Path) -> None:
    import fsspec

    url = _url(name)
    files, root = fsspec.core.url_to_fs(url, **_options(url))
    paths = [root] if url.startswith(("http://", "https://")) else _matching(files, root, name)
    for path in paths:
        file = folder / _local_name(path, name)
        if file.exists():
            raise DataError(
                f"has two files {file.name}", where=shown(name), remedy="name the folder that holds one of them"
            )
        files.get_file(path, str(file))


def _matching(files: Any, root: str, name: str) -> list[str]:
    """The files of a pattern, those of a folder, or the one file that is named."""
    is_hub = name.startswith(HUB)
    if "*" in root:
        found = _data_files(files.glob(root))
    elif not files.isdir(root):
        if not files.exists(root):
            raise FileNotFoundError(root)
        return [root]
    else:
        found = _data_files(files.find(root) if is_hub else filter(files.isfile, files.ls(root, detail=False)))
        if is_hub and found:
            inner = {path.removeprefix(root).lstrip("/"): path for path in found}
            found = [inner[path] for path in training_files(list(inner), shown(name))]
    if not found:
        raise DataError("has no data file", where=shown(name), remedy=f"name files of these kinds: {', '.join(KINDS)}")
    return found


def _data_files(paths: Iterable[Any]) -> list[str]:
    names = sorted(str(path) for path in paths)
    return [name for name in names if kind_of(PurePosixPath(name)) and PurePosixPath(name).name not in METADATA]


def _url(name: str) -> str:
    if not name.startswith(HUB):
        return name
    place = name.removeprefix(HUB)
    if not re.match(r"[\w.-]+/[\w.-]+(@[^/]+)?(/|$)", place):
        raise DataError("is no name of a data set", where=name, remedy="write hub:owner/name, or hub:owner/name/path")
    return f"hf://datasets/{place}"


def _options(url: str) -> dict[str, Any]:
    """A large file may take hours; what must not take long is to connect, and to wait for the next bytes."""
    if not url.startswith(("http://", "https://")):
        return {}
    import aiohttp

    return {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)}}


def _local_name(path: str, name: str) -> str:
    local = PurePosixPath(unquote(path.split("?", 1)[0])).name
    if not kind_of(PurePosixPath(local)):
        raise DataError(
            f'has no data file under the name "{local}"',
            where=shown(name),
            remedy=f"its name must end in one of {', '.join(KINDS)}, as text also in .gz or .zst behind it",
        )
    return local


def _missing_package(name: str, error: ImportError) -> DataError:
    from fsspec.registry import known_implementations

    scheme = _url(name).split("://", 1)[0]
    known = known_implementations.get(scheme, {}).get("class", "").split(".")[0]
    package = known if known and known != "fsspec" else "fsspec[full]"
    return DataError(
        f"needs a package that is not installed: {error}", where=shown(name), remedy=f"pip install {package}"
    )
