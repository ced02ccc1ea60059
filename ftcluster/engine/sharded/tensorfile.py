"""A safetensors file written one tensor at a time, so that a gathered model is never whole in memory.

8 bytes: length of the head | head, JSON: name -> dtype, shape, place | the tensors' bytes, one after the other
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType

import torch
from torch import Tensor

_NAMES: Mapping[torch.dtype, str] = MappingProxyType(
    {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
)


class TensorFile:
    """Open for writing; tensors come in the order of ``shapes``, and all of them come."""

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> None:
        self._dtype = dtype
        head: dict[str, object] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, shape in shapes.items():
            start, end = end, end + torch.Size(shape).numel() * dtype.itemsize
            head[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(head, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8
        self._file = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)

    def write(self, tensor: Tensor) -> None:
        """The next tensor."""
        flat = tensor.detach().to("cpu", self._dtype).contiguous().flatten()
        self._file.write(flat.view(torch.uint8).numpy().data)

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
