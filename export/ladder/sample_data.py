"""Inputs to calibrate, compare and time a model with: one vocabulary for every command's ``--data``.

synthetic      held-out synthetic people; the default where the contract is ours
random         smooth seeded noise, only when asked for
inputs.npz     arrays by input name, samples along the first axis
inputs.json    Polygraphy's inputs (``polygraphy run --save-inputs``)
a folder       pictures with keypoint files of the same name, where the contract is ours
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from posewarp.export.ladder import polygraphy_files
from posewarp.runtime.contract import METADATA_KEY, Contract, TensorSpec
from posewarp.runtime.errors import ContractError, DataError
from posewarp.runtime.image import read_image
from posewarp.runtime.keypoint_files import read_keypoints
from posewarp.runtime.keypoints import check_keypoints
from posewarp.runtime.pipeline import Fitted, fit_sample, to_feeds
from posewarp.runtime.split_session import SETTING

SYNTHETIC, RANDOM = "synthetic", "random"
_OURS = ("image", "tensors")
_PICTURES = (".png", ".jpg", ".jpeg")
_KEYPOINTS = (".json", ".txt", ".csv", ".npy")
# From one random value to the next, in elements; between them it is linear.
_RANDOM_PERIOD = 8

Feeds = dict[str, np.ndarray]


def load_inputs(
    data: str | Path | None,
    contract: Contract,
    *,
    batch: int | None = None,
    size: Mapping[str, int] | None = None,
    count: int = 1,
) -> list[Feeds]:
    """Inputs of a model, no sample twice.

    Args:
        data: see above; None for ``synthetic``.
        contract: what the model takes; ``read_contract`` derives it for a file that is not ours.
        batch: samples a run; by default the model's own where that is fixed, else 1.
        size: of further dynamic axes, by name, such as ``{"height": 256, "width": 176}``; by default the
            contract's own height and width. Recorded inputs have the sizes they were recorded at.
        count: how many runs at most; recorded data may be enough for fewer, but never for none.

    Returns: for each run its arrays by input name, of the contract's types and shapes.
    Raises: DataError if there is no such data, too little for one run, or it does not fit the contract.
    """
    fixed = fixed_batch(contract)
    batch = batch or fixed or 1
    if fixed not in (None, batch):
        raise DataError(
            f"the model's batch is fixed at {fixed}, got {batch}; ask for {fixed}, or export it dynamic"
        )
    name, path, of_arrays = str(data or SYNTHETIC), Path(data or SYNTHETIC), ""
    if name == RANDOM:
        feeds = [_random(contract, batch, size or {}, seed) for seed in range(count)]
    elif name == SYNTHETIC or path.is_dir():
        if contract.io not in _OURS:
            names = ", ".join(spec.name for spec in contract.inputs)
            recorded = ""
            if SETTING in contract.settings:
                recorded = "; `posewarp split --save-features` records them for both parts"
            raise DataError(
                f"{describe(data)} fit posewarp's generator only; for a network of your own give --data "
                f"inputs.npz (arrays {names}), Polygraphy's inputs.json, or --data random" + recorded
            )
        height, width = (dict(contract.settings, **(size or {}))[axis] for axis in ("height", "width"))
        people = _synthetic(height, width) if name == SYNTHETIC else _folder(path, height, width)
        feeds = [to_feeds(contract, each) for each in _batches(people, batch, count, name)]
    elif path.suffix in (".npz", ".json"):
        recorded = _read_npz(path) if path.suffix == ".npz" else polygraphy_files.read_inputs(path)
        shapes = ", ".join(f"{each} {array.shape}" for each, array in recorded[0].items())
        of_arrays = f" (the file's arrays: {shapes})"
        samples = _samples(recorded, contract, name)
        feeds = [
            _stack(each, contract, name)
            for each in _batches(samples, batch if fixed is None else 1, count, name)
        ]
    else:
        raise DataError(
            f"--data {name}: expected synthetic, random, an .npz file, Polygraphy's inputs as .json, "
            "or a folder of pictures and keypoint files"
        )
    try:
        return [contract.prepare(each) for each in feeds]
    except ContractError as exc:
        raise DataError(f"--data {name} does not fit the model: {exc}{of_arrays}") from exc


def describe(data: str | Path | None) -> str:
    """What a report says of the inputs that its figures come from."""
    name = str(data or SYNTHETIC)
    if name == SYNTHETIC:
        return "synthetic people (held-out)"
    if name == RANDOM:
        return f"smooth random values (-1 to 1, uint8 0 to 255, a new one every {_RANDOM_PERIOD} elements)"
    return f"pictures of {name}" if Path(name).is_dir() else name


def read_contract(model: onnx.ModelProto) -> Contract:
    """The contract in a model's metadata; without one, what the file declares, with ``io="custom"``.

    Raises: ContractError if the metadata holds something else; DataError if an input or output is no tensor.
    """
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            return Contract.from_json(entry.value)
    weights = {initializer.name for initializer in model.graph.initializer}
    inputs = (_spec(value) for value in model.graph.input if value.name not in weights)
    return Contract("custom", tuple(inputs), tuple(_spec(value) for value in model.graph.output))


def fixed_batch(contract: Contract) -> int | None:
    """Samples that a run takes where that is fixed; None where an input's first axis is dynamic.

    Inputs that disagree on their first axis have no batch: a run is one sample.
    """
    sizes = {spec.shape[0] for spec in contract.inputs if spec.shape}
    if any(isinstance(size, str) for size in sizes):
        return None
    return sizes.pop() if len(sizes) == 1 else 1


def _batched(contract: Contract) -> set[str]:
    """The inputs whose first axis is the batch; the others are the same in every run."""
    first = {spec.name: spec.shape[0] for spec in contract.inputs if spec.shape}
    if fixed_batch(contract) is None:
        return {name for name, size in first.items() if isinstance(size, str)}
    return set(first) if len(set(first.values())) == 1 else set()


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    if not tensor.elem_type:
        raise DataError(f"{value.name} is no tensor; only models of tensors can be fed")
    shape = (
        axis.dim_value if axis.HasField("dim_value") else axis.dim_param or f"{value.name}_{index}"
        for index, axis in enumerate(tensor.shape.dim)
    )
    return TensorSpec(value.name, helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, tuple(shape))


def _batches(samples: Iterable, batch: int, count: int, name: str) -> list[list]:
    """The first ``count`` full batches."""
    taken = list(islice(samples, batch * count))
    if len(taken) < batch:
        raise DataError(
            f"--data {name} holds {len(taken)} sample{'s' * (len(taken) != 1)}, too few for one batch of {batch}"
        )
    return [taken[start : start + batch] for start in range(0, len(taken) - batch + 1, batch)]


# People


def _synthetic(height: int, width: int) -> Iterator[Fitted]:
    try:
        from posewarp.models.data.synthetic import SyntheticPeople
    except ImportError as exc:
        raise DataError(f"the synthetic people need {exc.name}; pip install posewarp[train]") from exc
    people = SyntheticPeople(height, width, split="test")
    for pair in (people[index] for index in range(len(people))):
        yield fit_sample(pair.source_image, pair.source_keypoints, pair.target_keypoints, height, width)


def _folder(folder: Path, height: int, width: int) -> Iterator[Fitted]:
    """Each picture in the pose of its ``_target`` file where it has one, else of the next picture."""
    pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in _PICTURES)
    for picture, following in zip(pictures, pictures[1:] + pictures[:1], strict=True):
        image = read_image(picture)
        source, target = _read_points(picture, image), _read_points(picture, image, "_target")
        frame = None
        if target is None:
            other = read_image(following)
            frame, target = other.shape[:2], _read_points(following, other)
        if source is None or target is None:
            lacking = picture if source is None else following
            raise DataError(
                f"{lacking} has no keypoint file beside it; expected {lacking.stem}.json (or .txt, .csv, .npy), "
                f"{lacking.stem}_keypoints.json, or its row in the folder's one .csv"
            )
        yield fit_sample(image, source, target, height, width, target_frame=frame)


def _read_points(picture: Path, image: np.ndarray, role: str = "") -> np.ndarray | None:
    """Keypoints of a picture, in its pixels; None if it has none. OpenPose writes NAME_keypoints.json."""
    stem, folder = picture.stem + role, picture.parent
    names = [f"{stem}_keypoints.json", *(f"{stem}{suffix}" for suffix in _KEYPOINTS)]
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    tables = list(folder.glob("*.csv"))
    if file is not None:
        points = read_keypoints(file)
    elif len(tables) == 1 and not role:
        file, points = tables[0], read_keypoints(tables[0], name=picture.name)
    else:
        return None
    return check_keypoints(points, *image.shape[:2], what=str(file))


# Random values


def _random(contract: Contract, batch: int, size: Mapping[str, int], seed: int) -> Feeds:
    rng, sizes = np.random.default_rng(seed), {**contract.settings, **size}
    feeds = {}
    for spec in contract.inputs:
        shape = []
        for index, axis in enumerate(spec.shape):
            given = axis if isinstance(axis, int) else sizes.get(axis, None if index else batch)
            if given is None:
                raise DataError(
                    f"input {spec} has a dynamic axis; say its size, --size {axis}=256, or give inputs.npz"
                )
            shape.append(given)
        feeds[spec.name] = _noise(rng, spec, shape)
    return feeds


def _noise(rng: np.random.Generator, spec: TensorSpec, shape: list[int]) -> np.ndarray:
    """As smooth as pictures are: on white noise a warp would multiply each rounding of a position by 2."""
    if spec.dtype != "uint8" and np.dtype(spec.dtype).kind != "f":
        raise DataError(f"input {spec} has no range that random values could take; give inputs.npz")
    # Short axes are channels or coordinates, the first one is the batch.
    long = [axis for axis, size in enumerate(shape) if axis and size >= 2 * _RANDOM_PERIOD]
    coarse = [size // _RANDOM_PERIOD + 1 if axis in long else size for axis, size in enumerate(shape)]
    values = rng.uniform(-1, 1, coarse)
    for axis in long:
        position = np.linspace(0, coarse[axis] - 1, shape[axis])
        low = np.minimum(position.astype(int), coarse[axis] - 2)
        share = np.expand_dims(position - low, tuple(range(1, len(shape) - axis)))
        values = values.take(low, axis) * (1 - share) + values.take(low + 1, axis) * share
    return (
        ((values + 1) * 127.5).round().astype(np.uint8)
        if spec.dtype == "uint8"
        else values.astype(spec.dtype)
    )


# Recorded inputs


def _read_npz(path: Path) -> list[Feeds]:
    try:
        # Opened here, since np.load leaves what is no archive open.
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise DataError(
                    f"{path} is not an .npz file; np.savez({str(path)!r}, input_name=array, ...) writes one"
                )
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return [dict(arrays)]
    except OSError as exc:
        raise DataError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    except (ValueError, EOFError, TypeError, zipfile.BadZipFile) as exc:
        raise DataError(f"{path} is not an .npz file of plain arrays: {exc}") from exc


def _samples(recorded: list[Feeds], contract: Contract, name: str) -> Iterator[Feeds]:
    """One sample after another; where the model's batch is fixed, one run after another."""
    batched, step = _batched(contract), fixed_batch(contract) or 1
    before = 0  # samples of the runs before
    for feeds in recorded:
        split = {each for each in batched if each in feeds and feeds[each].ndim}
        lengths = {len(feeds[each]) for each in split}
        if len(lengths) > 1:
            raise DataError(f"--data {name}: its arrays hold different numbers of samples, {sorted(lengths)}")
        length = lengths.pop() if lengths else step
        for start in range(0, length - step + 1, step):
            part = slice(start, start + step)
            sample = {each: array[part] if each in split else array for each, array in feeds.items()}
            _check_values(sample, contract, split, before + start, name)
            yield sample
        before += length


def _check_values(sample: Feeds, contract: Contract, split: set[str], start: int, name: str) -> None:
    """Refuse values that the model would be blamed for.

    Args:
        sample: arrays by input name.
        contract: what the model takes.
        split: the arrays whose first axis is the samples.
        start: number of the first of these.
        name: of the data.
    """
    for spec in contract.inputs:
        array = np.asarray(sample.get(spec.name, 0))
        if array.dtype.kind != "f" or np.dtype(spec.dtype).kind != "f":
            continue
        good = np.isfinite(array)
        if array.dtype.itemsize > np.dtype(spec.dtype).itemsize:
            good &= np.abs(array) <= np.finfo(spec.dtype).max
        if contract.io == "image" and spec.name.endswith("_keypoints"):
            good |= np.isnan(array)  # a missing keypoint
        if not good.all():
            place = np.argwhere(~good)[0]
            at = f" in sample {start + place[0]} (counted from 0)" if spec.name in split else ""
            raise DataError(
                f"--data {name}: input {spec.name} holds {array[tuple(place)]:g}{at}; expected finite values that "
                f"{spec.dtype} can hold"
            )


def _stack(samples: list[Feeds], contract: Contract, name: str) -> Feeds:
    batched, first = _batched(contract), samples[0]
    try:
        return {
            each: np.concatenate([one[each] for one in samples]) if each in batched else first[each]
            for each in first
        }
    except (KeyError, ValueError) as exc:
        raise DataError(f"--data {name}: its samples do not fit in one batch: {exc}") from exc
