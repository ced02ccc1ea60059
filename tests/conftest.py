"""Fixtures shared by all tests: tiny models made on the spot, the real data folder, one CPU thread."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started with & by a script; programs under test inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine draws examples slowly, which says nothing about the code.
settings.register_profile("ftcluster", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ftcluster")

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "请帮我订一张去上海的票。",
    '{"tool": "weather", "city": "Paris"}',
    "How many clips did Natalia sell altogether in April and May?",
] * 20


@pytest.fixture(autouse=True)
def _nothing_is_left_running() -> Iterator[None]:
    yield
    if programs := sys.modules.get("programs"):
        programs.end_all()


@pytest.fixture(scope="session")
def tiny_qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Qwen2 model folder with tokenizer and chat template; treat as read-only."""
    return _tiny(tmp_path_factory, "qwen2")


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``tiny_qwen2``, of the Llama architecture."""
    return _tiny(tmp_path_factory, "llama")


def _tiny(factory: pytest.TempPathFactory, architecture: str) -> Path:
    import torch

    from ftcluster.models.tiny import create_tiny_model

    torch.set_num_threads(1)
    folder = factory.mktemp("models") / architecture
    return create_tiny_model(
        folder, TEXTS, architecture=architecture, hidden_size=32, layers=2, heads=4, kv_heads=2, vocabulary=320
    )


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of public data files beside the checkout."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside this checkout")
    return folder
