"""Checkpoints: ours (safetensors) and what users have (.pt, .pth), loaded safely into the generator."""

from __future__ import annotations

import json
import os
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from posewarp.models.config import GeneratorConfig
from posewarp.models.generator import Generator
from posewarp.models.state_dict import FoundState, choose_state, listed
from posewarp.models.state_fit import fill, infer_config
from posewarp.runtime.errors import CheckpointError, ContractError
from posewarp.runtime.files import atomic_write, sha256

# A dict under "config" with these fields is a GeneratorConfig; any other is the user's own.
_OUR_FIELDS = {"base_width", "blocks"}


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        generator: in eval mode, fp32, on the CPU.
        config: its configuration.
        weights: which were taken, "ema" or "raw".
        sha256: of the file.
        metadata: the file's own, flat strings; empty for other files than safetensors.
        notes: what a user should know of how it was loaded, one sentence each.
    """

    generator: Generator
    config: GeneratorConfig
    weights: str
    sha256: str
    metadata: Mapping[str, str]
    notes: tuple[str, ...]


def load(
    path: str | os.PathLike[str],
    *,
    weights: str = "auto",
    trust: bool = False,
    config: GeneratorConfig | None = None,
    key: str | None = None,
) -> Checkpoint:
    """Load a generator from a file of ours, or from a .pt/.pth that holds its state anywhere inside.

    Nested dicts, prefixes, and old, new and folded spectral norm are understood; any other name or shape that
    does not match is an error.

    Args:
        path: a safetensors file, or one written by ``torch.save``, on whatever device.
        weights: "ema", "raw", or "auto": EMA where the file has them, else raw.
        trust: unpickle objects of any class, which runs code that the file brings along.
        config: the configuration; None takes the file's own, or reads it off the shapes of the weights.
        key: where in the file to look, such as "model.generator", if it holds more than one.

    Raises: CheckpointError if the file cannot be read or does not fit; ContractError for another ``weights``.
    """
    if weights not in ("auto", "ema", "raw"):
        raise ContractError(f"weights is {weights!r}, expected 'auto', 'ema' or 'raw'")
    path = Path(path)
    tree, metadata = read_file(path, trust)
    found = choose_state(tree, path, weights, key)
    notes = [
        f"weights: {found.weights}"
        + (f", from {found.name}" if found.name not in ("", found.weights) else "")
    ]
    if found.others:
        counts = Counter(name.partition(".")[0] for name in found.others)
        left = listed(f"{name} ({count} tensors)" for name, count in counts.items())
        notes.append(f"not used, of other networks than the generator: {left}")
    config, config_notes = _choose_config(path, config, tree, metadata, found)
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are overwritten
        generator = Generator(config)
    notes += config_notes + fill(generator, found.tensors, path)
    return Checkpoint(generator.eval(), config, found.weights, sha256(path), metadata, tuple(notes))


def save(
    path: str | os.PathLike[str],
    generator_state: Mapping[str, Tensor],
    config: GeneratorConfig,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a checkpoint of ours: safetensors with the generator's state, and ``config`` in its metadata.

    Args:
        path: of the file; replaced once the new one is complete.
        generator_state: ``Generator.state_dict()``, on any device.
        config: the generator's.
        metadata: flat strings kept beside it; ``weights`` says "ema" or "raw" and is "raw" if absent.

    Raises: CheckpointError if the file cannot be written; ContractError if ``weights`` is no such word.
    """
    strings = {"format": "pt", "weights": "raw", **(metadata or {}), "config": json.dumps(asdict(config))}
    if strings["weights"] not in ("ema", "raw"):
        raise ContractError(f"metadata entry weights is {strings['weights']!r}, expected 'ema' or 'raw'")
    tensors = {
        name: value.detach().to("cpu", copy=True).contiguous() for name, value in generator_state.items()
    }
    with atomic_write(path, CheckpointError) as temporary:
        # Not by save_file: it makes a file that only its owner can read, whatever the umask says.
        temporary.write_bytes(save_tensors(tensors, strings))


def _choose_config(
    path: Path,
    given: GeneratorConfig | None,
    tree: object,
    metadata: Mapping[str, str],
    found: FoundState,
) -> tuple[GeneratorConfig, list[str]]:
    try:
        stored = json.loads(metadata["config"]) if "config" in metadata else None
        if isinstance(tree, Mapping) and stored is None:
            stored = tree.get("config")
        ours = isinstance(stored, Mapping) and set(stored) >= _OUR_FIELDS
        own = GeneratorConfig.from_dict(stored) if ours else None
    except ValueError as exc:  # JSON's, and ContractError
        raise CheckpointError(f"{path} has a config that cannot be used: {exc}") from exc
    if given is None and own is None:
        config, note = infer_config(found.tensors, path)
        return config, [note]
    if given is None or own is None or given == own:
        return given or own, []
    changed = [f.name for f in fields(given) if getattr(given, f.name) != getattr(own, f.name)]
    differences = ", ".join(f"{name} {getattr(given, name)} (file: {getattr(own, name)})" for name in changed)
    return given, [f"configuration: as given, against the file's own in {differences}"]


def read_file(path: Path, trust: bool) -> tuple[object, dict[str, str]]:
    """What the file holds, tensors on the CPU, and its metadata.

    Raises: CheckpointError, as ``load``.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as exc:
        raise CheckpointError(f"{path} cannot be read: {exc.strerror}") from exc
    if start[8:9] == b"{":
        return _read_safetensors(path)
    if start.startswith(b"PK\x03\x04"):
        _check_archive(path)
    elif not start.startswith(b"\x80"):  # a pickle of protocol 2 or later
        got = f"starts with {start[:24]!r}" if start else "is empty"
        raise CheckpointError(f"{path} is not a PyTorch checkpoint: it {got}; get it anew")
    return _read_torch(path, trust), {}


def _read_safetensors(path: Path) -> tuple[object, dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as exc:
        raise CheckpointError(f"{path} is not a safetensors file, or damaged: {exc}; get it anew") from exc
    return {metadata["weights"]: tensors} if "weights" in metadata else tensors, metadata


def _check_archive(path: Path) -> None:
    """torch reads a damaged archive without a word: it does not compare the checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            # All zero: written under torch.serialization.set_crc32_options(False).
            checksums = any(entry.CRC for entry in archive.infolist())
            broken = archive.testzip() if checksums else None
    except (
        Exception
    ) as exc:  # of a foreign archive: BadZipFile, EOFError, RuntimeError where it is encrypted, ...
        raise CheckpointError(
            f"{path} is not a PyTorch checkpoint, or cut short: {exc}; get it anew"
        ) from exc
    if broken:
        raise CheckpointError(f"{path} is damaged: the checksum of {broken} is wrong; get it anew")


def _read_torch(path: Path, trust: bool) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about its own pickle; what counts is raised below
            return torch.load(path, map_location="cpu", weights_only=not trust)
    except Exception as exc:  # an unpickler that reads a foreign or damaged file raises anything
        refused = re.search(r"GLOBAL (\S+\w) (?:was|whose)", str(exc))
        if refused and not trust:
            raise CheckpointError(
                f"{path} holds an object of the class {refused[1]}; unpickling it may run any code. "
                "If you trust its source, pass --trust",
                got=refused[1],
                fix="--trust",
            ) from exc
        # torch's first sentence; what follows advises weights_only=False.
        reason = re.split(r"(?<=[\w`])\. |\n", str(exc).rpartition("WeightsUnpickler error:")[2].strip())[0]
        if isinstance(exc, ImportError | AttributeError):
            raise CheckpointError(
                f"{path} holds an object of a class that is not to be found here ({reason}); install its "
                "code, or save the state_dict() alone"
            ) from exc
        raise CheckpointError(
            f"{path} is not a PyTorch checkpoint, or damaged ({type(exc).__name__}: {reason}); get it anew"
        ) from exc
