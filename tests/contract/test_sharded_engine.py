"""The laws of every engine, kept by one that is divided over two processes (the tests are ``test_engine``'s own)."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from sharded_group import Group, Making, RemoteEngine, running

pytestmark = pytest.mark.whole  # the whole suite once more, in several processes


def _laws() -> ModuleType:
    path = Path(__file__).with_name("test_engine.py")
    specification = importlib.util.spec_from_file_location("laws_of_engines", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


# It is about the engines that can be made in one process.
_OF_OTHERS = {"test_a_trial_moves_to_any_engine_and_back"}
# DeepSpeed's optimizers compute in fp32; tests/unit/engine/sharded compares full fine-tunes there.
_IN_FP64 = "test_a_full_fine_tune_equals_plain_transformers_with_torch_adamw"
globals().update(
    {name: test for name, test in vars(_laws()).items() if name.startswith("test_") and name not in _OF_OTHERS}
)


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    yield from running(2)


@pytest.fixture(params=["stage0", "stage3", "packs"])
def make(request: pytest.FixtureRequest, group: Group, tiny_qwen2: Path) -> Iterator[Callable[..., RemoteEngine]]:
    stage = 0 if request.param == "stage0" else 3
    if stage and request.function.__name__ == _IN_FP64:
        pytest.skip("fp64 needs stage 0")
    if request.param == "packs" and request.node.callspec.params.get("adapter", "lora") is None:
        pytest.skip("packs share a frozen base")

    def build(dtype: torch.dtype = torch.float64, folder: Path = tiny_qwen2) -> RemoteEngine:
        return group.engine(Making(folder, dtype, {"stage": stage}, packs=request.param == "packs"))

    yield build
    group.forget()
