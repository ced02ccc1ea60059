"""Gathered tensors into files: all ranks gather, rank 0 writes.

A disk that is full shows on rank 0 alone, in the middle of a row of collectives. It goes on gathering then, without
writing, and tells what happened at the end; else the others would wait for it for ever.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ftcluster.engine.sharded.tensorfile import TensorFile

_FILE_BYTES = 5 << 30  # of one file of weights, as transformers cuts them
Shapes = Mapping[str, tuple[int, ...]]


class Writer:
    """Files of one save; on ranks that do not write it only takes the tensors."""

    def __init__(self, *, writes: bool, file_bytes: int = _FILE_BYTES) -> None:
        self._writes, self._file_bytes = writes, file_bytes
        self._problem: OSError | None = None

    def model(self, model: Any, folder: Path, shapes: Shapes, tensors: Iterable[Tensor], dtype: torch.dtype) -> None:
        """A Hugging Face folder of a model that is nowhere whole."""
        files = _cut(shapes, dtype, self._file_bytes)
        coming = iter(tensors)
        for file, names in files.items():
            self.tensors(folder / file, {name: shapes[name] for name in names}, coming, dtype)
        self._try(lambda: _write_rest(model, folder, files, shapes, dtype))

    def tensors(self, path: Path, shapes: Shapes, tensors: Iterable[Tensor], dtype: torch.dtype) -> None:
        """One file; takes as many of ``tensors`` as there are names."""
        coming, stack = iter(tensors), ExitStack()
        opened: list[TensorFile] = []
        self._try(lambda: opened.append(stack.enter_context(TensorFile(path, shapes, dtype))))
        for _ in shapes:
            self._write(opened, next(coming))
        try:
            stack.close()  # writes what is still buffered
        except OSError as error:
            self._problem = self._problem or error

    def _write(self, opened: list[TensorFile], tensor: Tensor) -> None:
        self._try(lambda: opened[0].write(tensor))

    def finish(self) -> None:
        """The end of a save.

        Raises:
            OSError: something could not be written.
        """
        if self._problem is not None:
            raise self._problem

    def _try(self, write: Callable[[], None]) -> None:
        if self._writes and self._problem is None:
            try:
                write()
            except OSError as error:
                self._problem = error


def _write_rest(model: Any, folder: Path, files: Mapping[str, list[str]], shapes: Shapes, dtype: torch.dtype) -> None:
    """What a model's folder has besides its tensors."""
    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    if len(files) > 1:
        total = sum(torch.Size(shape).numel() for shape in shapes.values()) * dtype.itemsize
        names_of = {name: file for file, names in files.items() for name in names}
        index = {"metadata": {"total_size": total}, "weight_map": names_of}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _cut(shapes: Shapes, dtype: torch.dtype, most: int) -> dict[str, list[str]]:
    """File name -> its tensors; a file holds at least one."""
    parts: list[list[str]] = [[]]
    size = 0
    for name, shape in shapes.items():
        own = torch.Size(shape).numel() * dtype.itemsize
        if parts[-1] and size + own > most:
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += own
    if len(parts) == 1:
        return {"model.safetensors": parts[0]}
    return {f"model-{i:05}-of-{len(parts):05}.safetensors": names for i, names in enumerate(parts, 1)}
