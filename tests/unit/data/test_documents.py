"""Documents come back from disk as they were written, as views, and a file that is not whole is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftcluster.data.prepared import document_writer as module
from ftcluster.data.prepared.document_writer import Columns, DocumentWriter, write_numbers
from ftcluster.data.prepared.documents import Document, Documents, read_numbers

rows = st.lists(st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans()), min_size=1, max_size=20), max_size=30)


def _columns(documents: list[Document], first: int, split: str) -> Columns:
    return Columns(
        tokens=np.concatenate([np.empty(0, np.int32), *(d.tokens for d in documents)]),
        trained=np.concatenate([np.empty(0, np.bool_), *(d.trained for d in documents)]),
        lengths=np.array([len(d.tokens) for d in documents], np.int64),
        lines=np.arange(first, first + len(documents)),
        file=first % 2,
        questions=() if split == "train" else tuple(json.dumps({"n": first + i}) for i in range(len(documents))),
    )


def _write(folder: Path, split: str, documents: list[Document], at_once: int) -> None:
    with DocumentWriter(folder, split, ["a.jsonl", "b.jsonl"]) as writer:
        for at in range(0, len(documents), at_once):
            writer.add(_columns(documents[at : at + at_once], at, split))


@settings(deadline=None)
@given(rows, st.integers(1, 9), st.integers(1, 40))
def test_documents_come_back_from_disk_and_from_memory_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, made: list[list[tuple[int, bool]]], at_once: int, batch_tokens: int
) -> None:
    documents = [
        Document(np.array([t for t, _ in row], np.int32), np.array([f for _, f in row], np.bool_)) for row in made
    ]
    folder = tmp_path_factory.mktemp("documents")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BATCH_TOKENS", batch_tokens)
        _write(folder, "test", documents, at_once)
    for found in (Documents.open(folder, "test"), Documents.of(documents)):
        assert len(found) == len(documents)
        assert found.lengths.tolist() == [len(d.tokens) for d in documents]
        assert found.tokens == sum(len(d.tokens) for d in documents)
        assert found.trained_tokens == sum(int(d.trained.sum()) for d in documents)
        for index, document in enumerate(documents):
            tokens, trained = found.get(index)
            assert (tokens.dtype, trained.dtype) == (np.int32, np.bool_)
            assert np.array_equal(tokens, document.tokens)
            assert np.array_equal(trained, document.trained)


def test_places_and_questions_belong_to_their_documents(tmp_path: Path) -> None:
    one = Document(np.array([1], np.int32), np.array([True]))
    _write(tmp_path, "test", [one] * 5, 3)
    found = Documents.open(tmp_path, "test")
    assert found.places() == ["a.jsonl:0", "a.jsonl:1", "a.jsonl:2", "b.jsonl:3", "b.jsonl:4"]
    assert list(found.questions())[3] == ({"n": 3}, "b.jsonl", 3)


def test_tokens_stay_on_disk_until_they_are_read(tmp_path: Path) -> None:
    _write(tmp_path, "train", [Document(np.arange(9, dtype=np.int32), np.ones(9, np.bool_))], 1)
    tokens, _ = Documents.open(tmp_path, "train").get(0)
    assert not tokens.flags.owndata
    assert not tokens.flags.writeable


def test_a_side_without_documents_is_empty(tmp_path: Path) -> None:
    _write(tmp_path, "train", [], 1)
    found = Documents.open(tmp_path, "train")
    assert (len(found), found.tokens, found.trained_tokens, found.places()) == (0, 0, 0, [])


def test_a_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, "train", [Document(np.arange(9, dtype=np.int32), np.ones(9, np.bool_))] * 50, 7)
    file = tmp_path / "train.arrow"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="Arrow file"):
        Documents.open(tmp_path, "train")


@given(st.lists(st.integers(0, 2**62)))
def test_numbers_come_back(numbers: list[int]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "n.arrow"
        write_numbers(path, np.array(numbers, np.int64))
        assert read_numbers(path).tolist() == numbers
