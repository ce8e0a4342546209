"""Fit a state dict to the generator: read the configuration off its shapes, refuse what differs, load it."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import parametrize

from posewarp.models.config import PRESETS, GeneratorConfig
from posewarp.models.generator import Generator
from posewarp.models.state_dict import listed
from posewarp.runtime.errors import CheckpointError, ContractError

_ORIGINAL = "parametrizations.weight.original"
# Counts batches in training only: absent in files of old torch, a float where an EMA went over all buffers.
_COUNTER = ".num_batches_tracked"
# A singular vector is off unit length by 1e-7, an averaged one by far more.
_NORM_TOLERANCE = 1e-3


def infer_config(tensors: Mapping[str, Tensor], file: object) -> tuple[GeneratorConfig, str]:
    """The configuration of a state that comes without one, and a note that says how it was found.

    Raises: CheckpointError if names and shapes fit more than one preset, or no generator.
    """
    structure = _structure(tensors)
    presets = _presets(structure)
    if len(presets) > 1:
        raise CheckpointError(
            f"{file} has no configuration, and its shapes fit the presets {' and '.join(presets)}, which "
            "differ in picture size; choose one with --preset"
        )
    if presets:
        return PRESETS[presets[0]], f"configuration: preset {presets[0]}, by the shapes of the weights"
    try:
        config = GeneratorConfig.from_dict(structure)
    except ContractError as exc:
        raise CheckpointError(
            f"{file} has no configuration, and its shapes give none ({exc}); choose one with --preset"
        ) from exc
    return config, (
        "configuration: by the shapes of the weights; what they do not tell is the default, such as "
        f"pictures of {config.height} x {config.width} and {config.heatmap_kind} heat maps"
    )


def fill(generator: Generator, tensors: Mapping[str, Tensor], file: object) -> list[str]:
    """Load a state into a freshly built generator, whose spectral norm stays only where the state has it.

    Args:
        generator: changed in place.
        tensors: as ``choose_state`` gives them, of any floating type.
        file: for messages.

    Returns: notes on what was done to the weights.
    Raises: CheckpointError if a name or shape does not match, or a value is not finite.
    """
    notes = _drop_folded_spectral_norm(generator, tensors)
    expected = generator.state_dict()
    _check_fit(generator.config, expected, tensors, file)
    dtypes = {tensors[name].dtype for name, value in expected.items() if value.is_floating_point()}
    if dtypes != {torch.float32}:
        stored = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        notes.append(f"weights: stored as {stored}, converted to fp32")
    state = {name: tensors[name].detach().to(expected[name].dtype) for name in expected if name in tensors}
    broken = [name for name, value in state.items() if not value.isfinite().all()]
    if broken:
        raise CheckpointError(
            f"{file} holds values that are not finite, in {listed(broken)}; take an earlier checkpoint"
        )
    notes += _recompute_averaged_vectors(state, max(torch.finfo(dtype).eps for dtype in dtypes))
    generator.load_state_dict(state, strict=False)  # names and shapes are checked above
    return notes


def _structure(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """The fields of GeneratorConfig that names and shapes tell.

    Height, width, heat maps, border, alpha_sigmoid, flow_passes and warp_skips leave no trace there.
    """

    def count(prefix: str) -> int:
        pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
        return len({match[1] for name in tensors if (match := pattern.match(name))})

    def has(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in tensors)

    structure: dict[str, object] = {
        "merge_convs": count("merging.convs"),
        "patch_generation": has("patch_generation."),
        "patch_transfer": has("patch_transfer."),
    }
    first = [tensors[name] for name in _names_of_weight("image_encoder.to_full.0") if name in tensors]
    if first:
        structure["base_width"] = first[0].shape[0]
    if structure["patch_generation"]:
        f = "patch_generation.blocks.0.f"
        structure["blocks"] = count("patch_generation.blocks")
        structure["block_convs"] = count(f) - 1  # the last entry is a batch norm
        structure["block_spectral_norm"] = any(
            name.startswith(f) and name.endswith(_ORIGINAL) for name in tensors
        )
    if structure["patch_transfer"]:
        structure["flow_convs"] = count("patch_transfer.trunk")
    return structure


def _names_of_weight(module: str) -> tuple[str, str]:
    return f"{module}.{_ORIGINAL}", f"{module}.weight"


def _presets(structure: Mapping[str, object]) -> list[str]:
    return [
        name
        for name, preset in PRESETS.items()
        if all(getattr(preset, field) == value for field, value in structure.items())
    ]


def _drop_folded_spectral_norm(generator: Generator, tensors: Mapping[str, Tensor]) -> list[str]:
    layers = [
        name for name, module in generator.named_modules() if parametrize.is_parametrized(module, "weight")
    ]
    folded = [name for name in layers if f"{name}.weight" in tensors]
    for name in folded:
        parametrize.remove_parametrizations(generator.get_submodule(name), "weight", leave_parametrized=False)
    return [f"spectral norm: already folded into the weights of {len(folded)} layers"] if folded else []


def _check_fit(
    config: GeneratorConfig, expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], file: object
) -> None:
    problems = {
        "missing": [n for n in expected if n not in tensors and not n.endswith(_COUNTER)],
        "unexpected": [n for n in tensors if n not in expected],
        "of another shape": [
            f"{name} (got {_kind(tensors[name])}, expected {_kind(value)})"
            for name, value in expected.items()
            if name in tensors and _kind(tensors[name]) != _kind(value) and not name.endswith(_COUNTER)
        ],
    }
    if not any(problems.values()):
        return
    structure = _structure(tensors)
    differing = [
        f"{field}={value} (not {getattr(config, field)})"
        for field, value in structure.items()
        if value != getattr(config, field)
    ]
    hint = (
        f"its names and shapes say {', '.join(differing)}"
        if differing
        else "the file is damaged or of other code"
    )
    if differing and _presets(structure):
        hint += f"; try --preset {' or '.join(_presets(structure))}"
    raise CheckpointError(
        f"{file} does not fit the network: "
        + "; ".join(f"{what}: {listed(names)}" for what, names in problems.items() if names)
        + f"; {hint}",
        got=sorted(tensors),
        expected=sorted(expected),
    )


def _kind(tensor: Tensor) -> str:
    """Shape, and the type where it is not a floating one (those are converted)."""
    return f"{tuple(tensor.shape)}" + ("" if tensor.is_floating_point() else f" {tensor.dtype}")


def _recompute_averaged_vectors(state: dict[str, Tensor], rounding: float) -> list[str]:
    """Replace singular vectors that are not of unit length, as an EMA over all buffers leaves them.

    Their sigma = u . W v is too small by the product of the lengths, so every layer inflates its weights.
    ``rounding`` is the relative one of the type that they were stored in.
    """
    shortest, layers = 1.0, 0
    for name in [name for name in state if name.endswith(_ORIGINAL)]:
        u_name, v_name = (name.replace("original", f"0._{vector}") for vector in "uv")
        norms = torch.stack((state[u_name].norm(), state[v_name].norm()))
        if ((norms - 1).abs() <= max(_NORM_TOLERANCE, rounding)).all():
            continue
        layers, shortest = layers + 1, min(shortest, float(norms.min()))
        matrix = state[name].double().flatten(1)  # (out, in * k * k)
        u = torch.linalg.eigh(matrix @ matrix.T).eigenvectors[:, -1]  # of the largest eigenvalue
        state[u_name], state[v_name] = u.float(), F.normalize(matrix.T @ u, dim=0).float()
    if not layers:
        return []
    return [
        f"spectral norm: singular vectors of {layers} layers are not of unit length ({shortest:.3g}), as "
        "averaging leaves them; recomputed from the weights"
    ]
