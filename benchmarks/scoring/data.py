"""What is scored against: synthetic people, a data tree, or a folder of ground truth; and FID's reference pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from posewarp.benchmarks.scoring.folders import (
    Name,
    Pictures,
    Resize,
    TruthFolder,
    hash_of,
    names_of,
    read_list,
    read_rgb,
    reference_files,
    sort_names,
)
from posewarp.benchmarks.scoring.inception import Inception, Statistics, pooled_of
from posewarp.benchmarks.scoring.measures import Target
from posewarp.benchmarks.scoring.published import FRAMES
from posewarp.models.data.framing import frame_image
from posewarp.models.data.layouts import find_files
from posewarp.models.data.pairs import PairDataset, open_dataset
from posewarp.models.data.synthetic import SyntheticPeople
from posewarp.runtime.errors import DataError

Size = tuple[int, int]  # (height, width), in pixels


@dataclass(frozen=True)
class Material:
    """Pairs to be scored, in an order that does not depend on their list's.

    Attributes:
        targets: the pairs; ``Pair`` where there are sources, ``Target`` where there are none.
        names: of the pairs, by which a folder's pictures are found; None for synthetic ones.
        size: of the pictures; None where they are as they are.
        settings: what they are, plain JSON.
        resize: how a folder's pictures are brought to ``size``; None for not at all.
        data_set: ``deepfashion`` or ``market``, whose published figures are of these frames; None for neither.
    """

    targets: Sequence[Target]
    names: Sequence[Name] | None
    size: Size | None
    settings: dict[str, object]
    resize: Resize | None = None
    data_set: str | None = None


class _Ordered(Sequence[Target]):
    """Some pairs of a data set, in an order; without garment masks where the data set has none."""

    def __init__(self, pairs: PairDataset, order: Sequence[int]):
        self.pairs, self.order = pairs, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Target:
        pair = self.pairs[self.order[index]]
        return pair if self.pairs.masks is not None else replace(pair, garment_mask=None)


def synthetic(size: Size, seed: int, pairs: int) -> Material:
    """Held-out synthetic people: the first of the test split."""
    people = SyntheticPeople(*size, seed=seed, split="test", length=pairs)
    return Material(people, None, size, {"kind": "synthetic people", "seed": seed, "split": "test"})


def data_tree(
    root: Path, layout: str | None, size: Size | None, masks: Path | None, parsing: str, pairs: int | None
) -> Material:
    """The test split of a data set on disk, all of it or the first ``pairs`` by name.

    Raises: DataError, naming it, if something is missing.
    """
    data = open_dataset(root, "test", layout=layout, size=size, masks=masks, parsing=parsing)
    order = sorted(range(len(data)), key=lambda index: data.names[index][::-1])[:pairs]
    names = [data.names[index] for index in order]
    settings = {
        "kind": "data tree",
        "name": root.resolve().name,
        "layout": data.files.layout,
        "split": "test",
        "pairs_in_list": len(data),
        "pairs_sha256": _sha256(names),
        "picture_size": list(data.picture_size),
        "resize": None if data.size == data.picture_size else "posewarp.models.data.framing, Pillow bicubic",
        "garment_masks": None if masks is None else parsing,
    }
    stems = [(_stem(source), _stem(target)) for source, target in names]
    native = data.size == FRAMES[data.files.layout]
    return Material(
        _Ordered(data, order), stems, data.size, settings, None, data.files.layout if native else None
    )


def truth_folder(
    folder: Path,
    generated: Sequence[Pictures],
    names_list: Path | None,
    masks: Path | None,
    resize: Resize | None,
    pairs: int | None,
) -> Material:
    """Ground truth in a folder, for finished pictures in others.

    Args:
        names_list: the pairs that are scored; None for all that are there.
        masks: folder of garment masks by the ground truth's names, black outside.
        pairs: how many, the first by name; None for all.

    Raises: DataError, naming it, if a picture is missing.
    """
    truths = Pictures(folder)
    names = read_list(names_list) if names_list else names_of(generated, truths)
    targets = TruthFolder(
        truths, sort_names(names)[:pairs], resize, None if masks is None else Pictures(masks)
    )
    settings = {
        "kind": "folder",
        "name": folder.resolve().name,
        "formats": truths.formats,
        "sha256": targets.sha256,
        "list": None if names_list is None else names_list.name,
        "pairs_sha256": _sha256(targets.names),
        "resize": None if resize is None else f"Pillow {resize.filter}, antialias",
        "garment_masks": None if masks is None else masks.resolve().name,
    }
    size = None if resize is None else (resize.height, resize.width)
    return Material(targets, targets.names, size, settings, resize)


def reference_statistics(
    inception: Inception,
    reference: Path | None,
    cache: Path | None,
    material: Material,
    tree: tuple[Path, str | None] | None,
    batch_size: int,
    progress: Callable[[Sequence[int]], Sequence[int]],
) -> Statistics:
    """What FID compares with.

    Args:
        reference: a folder of pictures, or a list of them; ``train`` for the training pictures of ``tree``; None to
            take ``cache`` as it is.
        cache: an ``.npz`` that is read if it is there, and written if it is not.
        material: what is scored: reference pictures come to its size by the same way.
        tree: root and layout of the data tree.

    Raises: DataError if a picture is missing or of another size, or the cache is of other pictures or weights.
    """
    if reference is None:
        stored = Statistics.load(cache)
        _check_weights(cache, stored, inception)
        return stored
    if str(reference) == "train" and tree is not None:
        files = find_files(tree[0], "train", tree[1])
        paths = {name: files.pictures / name for name in files.names}
    else:
        paths = reference_files(reference)
    fit = _fit(material, tree)
    how = "as they are" if fit is None else ("framing" if tree else f"Pillow {material.resize.filter}")
    about = {
        "reference": reference.name,
        "reference_sha256": hash_of(paths),
        "weights_sha256": inception.sha256,
        "resize": f"{how} {material.size or ''}".strip(),
        "count": len(paths),
    }
    if cache is not None and cache.exists():
        stored = Statistics.load(cache)
        for name in ("reference_sha256", "weights_sha256", "resize"):
            if stored.about.get(name) != about[name]:
                raise DataError(
                    f"{cache} was made with another {name} ({stored.about.get(name)}, here {about[name]}); "
                    "remove it or name another file",
                    got=stored.about.get(name),
                    expected=about[name],
                )
        return stored
    files = [paths[name] for name in sorted(paths)]
    first = read_rgb(files[0])
    about["size"] = "x".join(map(str, (first if fit is None else fit(first)).shape[:2]))
    statistics = Statistics.of(pooled_of(inception, _batches(files, fit, batch_size, progress)), about)
    if cache is not None:
        statistics.save(cache)
    return statistics


def _fit(material: Material, tree: object) -> Callable[[np.ndarray], np.ndarray] | None:
    if tree is not None:
        return lambda image: frame_image(image, material.size)
    return material.resize


def _batches(
    files: Sequence[Path],
    fit: Callable[[np.ndarray], np.ndarray] | None,
    batch_size: int,
    progress: Callable[[Sequence[int]], Sequence[int]],
) -> Iterator[np.ndarray]:
    shape = None
    for start in progress(range(0, len(files), batch_size)):
        images = []
        for path in files[start : start + batch_size]:
            image = read_rgb(path)
            image = image if fit is None else fit(image)
            shape = shape or image.shape
            if image.shape != shape:
                raise DataError(f"{path} is {image.shape[:2]}, the reference pictures before are {shape[:2]}")
            images.append(image)
        yield np.stack(images)


def _check_weights(cache: Path, stored: Statistics, inception: Inception) -> None:
    told = stored.about.get("weights_sha256", inception.sha256)
    if told != inception.sha256:
        raise DataError(f"{cache} was made with other weights ({told}), here are {inception.sha256}")


def _sha256(names: Sequence[Name]) -> str:
    return hashlib.sha256(json.dumps(sorted(names, key=str)).encode()).hexdigest()


def _stem(name: str) -> str:
    """As results of PATN and GFLA name a picture: its path parts joined, no suffix."""
    return "".join(Path(name).with_suffix("").parts)
