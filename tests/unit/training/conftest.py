"""One world and one prepared data set for all tests of the room."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_samples import World, make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Model and rows; treat as read-only."""
    torch.set_num_threads(1)
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose prepared data the tests share; runs go elsewhere."""
    return tmp_path_factory.mktemp("home")
