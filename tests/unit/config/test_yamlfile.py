"""YAML of others is data: what could act or never end is refused, with its line."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ftcluster.config.yamlfile import MAX_BYTES, read
from ftcluster.errors import ConfigError


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "x.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(folder: Path, text: str | bytes) -> str:
    path = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        read(path)
    return str(caught.value).replace(str(path), "x.yaml")


def test_values_are_read_as_hydra_reads_them(tmp_path: Path) -> None:
    file = read(
        write(tmp_path, "a: 1e-3\nb: 1_000\nc: 2024-01-01\nd: 1.5e3\ne: .5\nf: '1e-3'\ng: null\nh: [yes, 中]\n")
    )
    assert file.content == {
        "a": 1e-3,
        "b": 1000,
        "c": "2024-01-01",
        "d": 1500.0,
        "e": 0.5,
        "f": "1e-3",
        "g": None,
        "h": [True, "中"],
    }


def test_every_key_has_a_line_and_the_package_is_known(tmp_path: Path) -> None:
    file = read(write(tmp_path, "# @package _global_\na:\n  b: 1\n"))
    assert (file.package, file.place("a.b"), file.place("a.c")) == ("_global_", f"{file.path}:3", "")


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    assert read(write(tmp_path, "# only words\n")).content == {}


def test_plain_references_stay(tmp_path: Path) -> None:
    assert read(write(tmp_path, "a: ${home}/demo/${model.path}\n")).content == {"a": "${home}/demo/${model.path}"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: &x 1\n", "x.yaml: line 1: YAML anchors (&) and aliases (*) are not allowed; write the value out."),
        ("a: !!python/name:os.system x\n", "x.yaml: line 1: YAML tags (!) are not allowed; config is plain values."),
        ("a: !mine x\n", "x.yaml: line 1: YAML tags (!) are not allowed; config is plain values."),
        ("a:\n  _target_: os.system\n", "x.yaml: line 2: a._target_ is not allowed; config never names code to run."),
        ("hydra:\n  run: x\n", "x.yaml: line 1: hydra is not allowed; Hydra's own settings are fixed."),
        (
            "defaults:\n  - override hydra/launcher: joblib\n",
            "x.yaml: line 2: defaults.override hydra/launcher is not allowed; Hydra's own settings are fixed.",
        ),
        (
            "a: [1, '${oc.env:HOME}']\n",
            "x.yaml: line 1: ${oc.env:HOME} is not allowed; only plain references such as ${optim.lr} are.",
        ),
        (
            "a: ${b.${c}}\n",
            "x.yaml: line 1: ${b.${c}} is not allowed; only plain references such as ${optim.lr} are.",
        ),
        ("a: 1\na: 2\n", "x.yaml: line 2: a is given twice."),
        ("a: [1\n", "x.yaml:2: not valid YAML: expected ',' or ']', but got '<stream end>'."),
        ("- 1\n", "x.yaml: line 1: the file must be `key: value` pairs, not list."),
        (b"a: \xff\xfe\n", "x.yaml: not UTF-8 text (byte 3)."),
        ("a: " + "[" * 30 + "]" * 30, "x.yaml: line 1: nested deeper than 20 levels."),
        (b"#" * (MAX_BYTES + 1), "x.yaml: the file has 1,000,001 bytes; a config has at most 1,000,000."),
        ("a: \x07\n", "x.yaml: not valid YAML: unacceptable character #x0007: special characters are not allowed."),
    ],
)
def test_what_could_act_or_mislead_is_refused_with_its_line(tmp_path: Path, text: str | bytes, why: str) -> None:
    assert refused(tmp_path, text) == why


def test_aliases_that_would_grow_without_end_are_refused_at_once(tmp_path: Path) -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    start = time.process_time()
    assert "aliases (*) are not allowed" in refused(tmp_path, "\n".join(levels))
    assert time.process_time() - start < 1.0


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file or directory"):
        read(tmp_path / "none.yaml")
