"""Folders, URLs and data sets of the hub become local files: once, whole, and never others than were meant."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from hub_server import FileServer, serving

from ftcluster.data.files.blocks import read_rows
from ftcluster.data.files.places import resolve, shown
from ftcluster.data.files.source import Row
from ftcluster.data.files.training_files import training_files
from ftcluster.errors import DataError, StoreError

ROW = b'{"text": "once"}\n'


def _names(files: list[Path]) -> list[str]:
    return [file.name for file in files]


def _problem(name: str, downloads: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        resolve([name], downloads)
    return caught.value


# --- paths and folders -------------------------------------------------------------------------------------------


def test_a_path_stays_what_it_is_even_if_nothing_is_there(tmp_path: Path) -> None:
    assert resolve(["rows.jsonl", "/nowhere/rows.csv"], tmp_path) == [Path("rows.jsonl"), Path("/nowhere/rows.csv")]


def test_of_a_folder_the_data_files_are_read_by_name_without_hidden_ones_and_folders_below(tmp_path: Path) -> None:
    for name in ("2.jsonl", "10.csv", "b.parquet", "a.json.gz", ".hidden.jsonl", "README.md", "dataset_info.json"):
        (tmp_path / name).touch()
    (tmp_path / "c.jsonl").mkdir()
    (tmp_path / "other.json").touch()
    assert _names(resolve([str(tmp_path)], tmp_path)) == ["10.csv", "2.jsonl", "a.json.gz", "b.parquet", "other.json"]


def test_a_folder_without_data_files_is_refused_and_names_the_folders_in_it(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "notes.txt").touch()
    error = _problem(str(tmp_path), tmp_path)
    assert error.message == "has no data file; its folders train are not searched"
    assert error.remedy.startswith("name a folder that holds files of these kinds: .json, .jsonl")
    assert _problem(str(tmp_path / "train"), tmp_path).message == "has no data file"


# --- object stores -----------------------------------------------------------------------------------------------


@pytest.fixture
def bucket() -> Iterator[str]:
    files = fsspec.filesystem("memory")
    for name in ("1.jsonl", "2.jsonl", "3.csv", "notes.txt", "below/4.jsonl"):
        files.pipe_file(f"/bucket/rows/{name}", ROW)
    yield "memory://bucket/rows"
    files.rm("/bucket", recursive=True)


def test_a_file_a_pattern_and_a_folder_of_an_object_store_are_downloaded(tmp_path: Path, bucket: str) -> None:
    (file,) = resolve([f"{bucket}/1.jsonl"], tmp_path)
    assert [row.values for row in read_rows(file) if isinstance(row, Row)] == [{"text": "once"}]
    assert _names(resolve([f"{bucket}/*.jsonl"], tmp_path)) == ["1.jsonl", "2.jsonl"]
    assert _names(resolve([bucket, "own.jsonl"], tmp_path)) == ["1.jsonl", "2.jsonl", "3.csv", "own.jsonl"]


def test_what_was_downloaded_is_kept_until_its_folder_is_deleted(tmp_path: Path, bucket: str) -> None:
    (file,) = resolve([f"{bucket}/1.jsonl"], tmp_path)
    fsspec.filesystem("memory").pipe_file("/bucket/rows/1.jsonl", b"other")
    assert resolve([f"{bucket}/1.jsonl"], tmp_path) == [file]
    assert file.read_bytes() == ROW
    file.unlink()
    file.parent.rmdir()
    assert resolve([f"{bucket}/1.jsonl"], tmp_path)[0].read_bytes() == b"other"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing.jsonl", "is not there, or needs credentials"),
        ("nothing", "is not there, or needs credentials"),
        ("*.parquet", "has no data file"),
        ("notes.txt", 'has no data file under the name "notes.txt"'),
        ("*/4.jsonl ../1.jsonl", "has no data file"),
    ],
)
def test_what_is_not_there_or_no_data_is_refused_and_leaves_nothing_behind(
    tmp_path: Path, bucket: str, name: str, message: str
) -> None:
    assert _problem(f"{bucket}/{name}", tmp_path).message == message
    assert list(tmp_path.iterdir()) == []


def test_files_of_one_name_in_several_folders_are_refused(tmp_path: Path, bucket: str) -> None:
    fsspec.filesystem("memory").pipe_file("/bucket/rows/other/4.jsonl", ROW)
    assert _problem(f"{bucket}/*/4.jsonl", tmp_path).message == "has two files 4.jsonl"


@pytest.mark.skipif(importlib.util.find_spec("s3fs") is not None, reason="s3fs is installed here")
def test_an_object_store_whose_package_is_missing_gives_the_command_that_installs_it(tmp_path: Path) -> None:
    error = _problem("s3://bucket/rows.jsonl", tmp_path)
    assert error.message == "needs a package that is not installed: Install s3fs to access S3"
    assert error.remedy == "pip install s3fs"


def test_an_unknown_kind_of_url_is_refused(tmp_path: Path) -> None:
    error = _problem("nowhere://bucket/rows.jsonl", tmp_path)
    assert error.message == "cannot be downloaded: Protocol not known: nowhere"


# --- http --------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "my rows.jsonl").write_bytes(ROW * 100_000)
    with serving(tmp_path / "served") as server:
        yield server


def test_a_url_is_downloaded_once_under_its_name(tmp_path: Path, server: FileServer) -> None:
    url = f"{server.url}/files/my%20rows.jsonl?signature=secret"
    (file,) = resolve([url], tmp_path / "downloads")
    assert file.name == "my rows.jsonl"
    assert file.read_bytes() == ROW * 100_000
    assert "secret" not in str(file)
    server.requests.clear()
    assert resolve([url], tmp_path / "downloads") == [file]
    assert server.requests == []


def test_a_download_that_breaks_off_leaves_nothing_behind(tmp_path: Path, server: FileServer) -> None:
    server.cut.add("my rows.jsonl")
    error = _problem(f"{server.url}/files/my%20rows.jsonl?signature=secret", tmp_path / "downloads")
    assert error.message.startswith("cannot be downloaded: ")
    assert "secret" not in str(error)
    assert list((tmp_path / "downloads").iterdir()) == []
    server.cut.clear()
    assert resolve([f"{server.url}/files/my%20rows.jsonl"], tmp_path / "downloads")[0].stat().st_size == 1_700_000


def test_a_url_where_nothing_is_or_nobody_answers_is_refused_without_its_secrets(
    tmp_path: Path, server: FileServer
) -> None:
    missing = _problem(f"{server.url}/files/none.jsonl?signature=secret", tmp_path)
    assert str(missing).startswith(f"{server.url}/files/none.jsonl: is not there, or needs credentials")
    silent = _problem("http://me:secret@127.0.0.1:9/rows.jsonl?token=secret", tmp_path)
    assert str(silent).startswith("http://127.0.0.1:9/rows.jsonl: cannot be downloaded: ")
    assert "secret" not in f"{missing}{silent}"


def test_a_name_is_shown_without_user_and_query() -> None:
    assert shown("https://me:pass@host/a/b.jsonl?sig=1") == "https://host/a/b.jsonl"
    assert shown("s3://bucket/a@b.jsonl") == "s3://bucket/a@b.jsonl"
    assert shown("hub:owner/name@main") == "hub:owner/name@main"


# --- the hub -----------------------------------------------------------------------------------------------------

TRAIN = ["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl"]


def _resolved_from_hub(tmp_path: Path, *names: str) -> list[list[str] | str]:
    """For each name the files, or the error; in a process of its own, since the hub's address is read on import."""
    script = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from ftcluster.data.files.places import resolve\n"
        "from ftcluster.errors import DataError\n"
        "for name in sys.argv[2:]:\n"
        "    try:\n        found = [file.name for file in resolve([name], Path(sys.argv[1]))]\n"
        "    except DataError as error:\n        found = str(error)\n"
        "    print(json.dumps(found))\n"
    )
    with serving(tmp_path) as server:
        ran = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "downloads"), *names],
            env={"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_a_data_set_of_the_hub_gives_its_training_files_or_what_is_named(tmp_path: Path) -> None:
    for name in ("README.md", "dataset_infos.json", *TRAIN, "data/test-00000-of-00001.jsonl"):
        file = tmp_path / "hub" / "owner" / "name" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(ROW)
    train = [Path(name).name for name in TRAIN]
    whole, revision, folder, file, pattern, nowhere, unborn, lost, wrong = _resolved_from_hub(
        tmp_path,
        "hub:owner/name",
        f"hub:owner/name@{'a' * 40}",
        "hub:owner/name/data",
        "hub:owner/name@main/data/test-00000-of-00001.jsonl",
        "hub:owner/name/data/t*",
        "hub:owner/nowhere",
        "hub:owner/name@unborn",
        "hub:owner/name/none.jsonl",
        "hub:name",
    )
    assert whole == revision == folder == train
    assert file == ["test-00000-of-00001.jsonl"]
    assert pattern == ["test-00000-of-00001.jsonl", *train]
    assert str(nowhere).startswith("hub:owner/nowhere: is not there, or needs credentials")
    assert str(unborn).startswith("hub:owner/name@unborn: is not there, or needs credentials")
    assert str(lost).startswith("hub:owner/name/none.jsonl: is not there, or needs credentials")
    assert str(wrong).startswith("hub:name: is no name of a data set\n  -> write hub:owner/name")


@pytest.mark.parametrize(
    ("paths", "chosen"),
    [
        (["train.csv", "test.csv", "valid.csv"], ["train.csv"]),
        (["gsm8k_train.jsonl", "gsm8k_test.jsonl"], ["gsm8k_train.jsonl"]),
        ([*TRAIN, "data/validation-00000-of-00001.parquet"], TRAIN),
        (
            ["train-00000-of-00002-a09b74b3ef9c3b56.parquet", "train-00001-of-00002-00b1c2d3e4f5a6b7.parquet"],
            ["train-00000-of-00002-a09b74b3ef9c3b56.parquet", "train-00001-of-00002-00b1c2d3e4f5a6b7.parquet"],
        ),
        (["part1.json.gz", "part2.json.gz"], ["part1.json.gz", "part2.json.gz"]),
        (["rows.jsonl", "test.jsonl"], ["rows.jsonl"]),
        (["train/1.jsonl", "train/2.jsonl", "test/1.jsonl"], ["train/1.jsonl", "train/2.jsonl"]),
        (["constraints.jsonl"], ["constraints.jsonl"]),
    ],
)
def test_training_files_are_those_whose_names_say_so_else_all_of_no_other_split(
    paths: list[str], chosen: list[str]
) -> None:
    assert training_files(paths, "hub:owner/name") == chosen


@pytest.mark.parametrize(
    ("paths", "problem", "remedy"),
    [
        (
            ["main/train-00000-of-00001.parquet", "socratic/train-00000-of-00001.parquet"],
            "has several sets of files: main/train-*.parquet, socratic/train-*.parquet",
            "hub:owner/name/main/train-*.parquet",
        ),
        (
            ["train_sft.jsonl", "train_prefs.jsonl"],
            "has several sets of files: train_prefs.jsonl, train_sft.jsonl",
            "hub:owner/name/train_prefs.jsonl",
        ),
        (
            ["train.jsonl", "train.parquet"],
            "has several sets of files: train.jsonl, train.parquet",
            "hub:owner/name/train.jsonl",
        ),
        (
            ["test.jsonl", "dev.jsonl"],
            "has no file for training among its files: dev.jsonl, test.jsonl",
            "hub:owner/name/dev.jsonl",
        ),
    ],
)
def test_a_data_set_of_several_subsets_or_kinds_is_refused_with_a_way_to_choose(
    paths: list[str], problem: str, remedy: str
) -> None:
    with pytest.raises(DataError) as caught:
        training_files(paths, "hub:owner/name")
    assert caught.value.message == problem
    assert caught.value.remedy == f"name what to read, for example {remedy}"


def test_of_many_sets_of_files_the_first_are_listed() -> None:
    with pytest.raises(DataError, match=r"c/\*\.jsonl, .* and 4 more"):
        training_files([f"{letter}/{number}.jsonl" for letter in "abcdefghijkl" for number in (1, 2)], "hub:owner/name")


def test_a_disk_that_cannot_be_written_is_told_apart_from_a_place_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot keep a download"):
        resolve(["https://example.invalid/rows.jsonl"], tmp_path / "file" / "downloads")
