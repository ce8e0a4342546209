"""Fixtures for all folders."""

from __future__ import annotations

import pytest
import torch
from networks.fixtures import foreign  # noqa: F401 (a fixture for all folders)

from posewarp.benchmarks.random_generator import make_random_generator

# On maps this small threads only wait for each other: with busy cores one test took 2.4 s instead of 0.04 s.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def random_generator():
    """``random_generator(config, seed=0) -> Generator``: see ``make_random_generator``."""
    return make_random_generator
