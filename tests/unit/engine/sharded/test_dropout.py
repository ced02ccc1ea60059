"""Dropout by stream: the masks of one process, however the stream is divided."""

from __future__ import annotations

import pytest
import torch

from ftcluster.engine.sharded.dropout import Stream, StreamDropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parts_of_a_stream_are_dropped_as_the_whole_is_by_torch(dtype: torch.dtype) -> None:
    inputs = torch.randn(1, 37, 24, dtype=dtype)
    torch.manual_seed(3)
    expected = torch.nn.Dropout(0.3)(inputs)
    for places_T in (torch.arange(37), torch.tensor([0, 5, 6, 36]), torch.tensor([20])):
        stream = Stream()
        torch.manual_seed(3)
        with stream.of(37, places_T):
            found = StreamDropout(0.3, stream)(inputs[:, places_T])
        assert torch.equal(found, expected[:, places_T])


def test_nothing_is_dropped_while_evaluating() -> None:
    inputs = torch.randn(1, 3, 4)
    assert StreamDropout(0.9, Stream()).eval()(inputs) is inputs
