"""A folder is there whole or not at all, and what a killed writer left is removed by the next one."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftcluster.data.files.scratch import remove_abandoned, written_aside


def _inside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_takes_its_place_when_everything_is_written(tmp_path: Path) -> None:
    with written_aside(tmp_path / "made") as scratch:
        (scratch / "a").write_text("1")
        assert _inside(tmp_path) == [scratch.name]
        assert not (tmp_path / "made").exists()
    assert _inside(tmp_path) == ["made"]
    assert _inside(tmp_path / "made") == ["a"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_writer_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def write() -> None:
        with written_aside(tmp_path / "made") as scratch:
            (scratch / "a").write_text("1")
            raise error

    with pytest.raises(error):
        write()
    assert _inside(tmp_path) == []


def test_a_folder_that_got_there_first_stays(tmp_path: Path) -> None:
    with written_aside(tmp_path / "made") as scratch:
        (scratch / "a").write_text("second")
        with written_aside(tmp_path / "made") as other:
            (other / "a").write_text("first")
    assert _inside(tmp_path) == ["made"]
    assert (tmp_path / "made" / "a").read_text() == "first"


def test_what_a_living_writer_writes_is_left_alone(tmp_path: Path) -> None:
    with written_aside(tmp_path / "made") as scratch:
        remove_abandoned(tmp_path)
        assert scratch.is_dir()


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    program = (
        "import sys, time, pathlib; from ftcluster.data.files.scratch import written_aside\n"
        "with written_aside(pathlib.Path(sys.argv[1])) as scratch:\n"
        "    (scratch / 'half').write_text('x'); print('writing', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "made")], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        remove_abandoned(tmp_path)
        assert len(_inside(tmp_path)) == 1
        writer.kill()
    assert len(_inside(tmp_path)) == 1
    time.sleep(0.05)
    with written_aside(tmp_path / "other"):
        pass
    assert _inside(tmp_path) == ["other"]
