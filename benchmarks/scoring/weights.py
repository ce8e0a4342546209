"""Weights of the measuring networks: from a file, from the library that publishes them, or random for tests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from posewarp.models import checkpoint
from posewarp.runtime.errors import CheckpointError


def load_weights(
    network: nn.Module, weights: str | int, loader: str, fetch: Callable[[], Mapping[str, Tensor]], where: str
) -> str:
    """Fill a network, freeze it, and say where its weights came from.

    Args:
        network: what is filled; all its parameters and buffers must be there, more may be.
        weights: a path; the word ``loader``, which calls ``fetch``; or a seed for random ones.
        loader: name of the library with a loader of its own, which may download.
        fetch: that loader.
        where: what to do where there are none, for errors.

    Raises: CheckpointError if they are not there or another network's.
    """
    network.eval().requires_grad_(False)
    if isinstance(weights, int):
        _randomise(network, weights)
        return f"random, seed {weights}"
    if weights == loader:
        try:
            state, source = fetch(), loader
        except (
            Exception
        ) as exc:  # not installed, built for another torch, no internet: each raises what it likes
            raise CheckpointError(f"{loader} cannot give the weights here ({_line(exc)}); {where}") from exc
    else:
        if not Path(weights).exists():
            raise CheckpointError(f"there are no weights at {weights}; {where}")
        state, source = checkpoint.read_file(Path(weights), trust=False)[0], Path(weights).name
    for name, value in network.state_dict().items():
        found = state.get(name) if isinstance(state, Mapping) else None
        if name.endswith("num_batches_tracked"):
            continue
        if not isinstance(found, Tensor) or found.shape != value.shape:
            got = tuple(found.shape) if isinstance(found, Tensor) else "not there"
            raise CheckpointError(
                f"{source} holds another network's weights: {name} is {got}, expected {tuple(value.shape)}; {where}"
            )
        value.copy_(found)
    return source


def sha256_of(network: nn.Module) -> str:
    """Of the weights that are used, in their order: the same from every source."""
    digest = hashlib.sha256()
    for value in network.state_dict().values():
        digest.update(value.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


def _randomise(network: nn.Module, seed: int) -> None:
    """Seeded, and of a scale that neither fades nor grows with depth."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.Linear):
                layer.reset_parameters()


def _line(exc: Exception) -> str:
    return f"{type(exc).__name__}: {' '.join(str(exc).split())}"
