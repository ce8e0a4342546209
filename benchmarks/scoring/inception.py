"""FID and Inception Score over torch-fidelity's InceptionV3, the TensorFlow network of 2015 that papers use."""

from __future__ import annotations

import io
import sys
import zlib
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn

from posewarp.benchmarks.scoring.weights import load_weights, sha256_of
from posewarp.models.metrics import frechet_distance
from posewarp.runtime.errors import BackendError, DataError
from posewarp.runtime.files import atomic_write, sha256

WHERE = (
    "give --inception-weights the path of weights-inception-2015-12-05-6726825d.pth of torch-fidelity's release 0.2.0, "
    "or the word torch-fidelity, which downloads it"
)
FEATURES = ("2048", "logits_unbiased")


@dataclass(frozen=True)
class Inception:
    """The network, and where its weights came from."""

    network: nn.Module
    source: str
    sha256: str

    @torch.no_grad()
    def __call__(self, images: np.ndarray) -> tuple[Tensor, Tensor]:
        """uint8 (B, H, W, 3), scaled to 299 x 299 as TensorFlow 1 does, to (B, 2048) and unbiased logits (B, 1008)."""
        device = next(self.network.parameters()).device
        batch = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(device)
        pooled, logits = self.network(batch)
        return pooled.cpu(), logits.cpu()


def load_inception(weights: str | int) -> Inception:
    """Load InceptionV3.

    Args:
        weights: path of torch-fidelity's file; "torch-fidelity" for its address, which downloads; a seed.

    Raises: CheckpointError if they are not there; BackendError if torch-fidelity is not installed.
    """
    with _without_torchvision():
        try:
            from torch_fidelity import feature_extractor_inceptionv3 as library
        except ImportError as exc:
            raise BackendError(
                f"FID and IS need torch-fidelity ({exc}); install it: pip install 'posewarp[quality]'"
            ) from exc

    class Untrained(library.FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: object, **__: object) -> None:
            """The constructor insists on unpickling a file; weights come afterwards, by our own reader."""

    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    network = Untrained("inception-v3-compat", list(FEATURES), feature_extractor_weights_path=empty)
    address = library.URL_INCEPTION_V3
    source = load_weights(
        network,
        weights,
        "torch-fidelity",
        lambda: torch.hub.load_state_dict_from_url(address, map_location="cpu", weights_only=True),
        WHERE,
    )
    return Inception(network, source, sha256_of(network))


@contextmanager
def _without_torchvision():
    """Import a module of torch-fidelity without the package's own ``__init__``.

    That one imports data sets, CLIP and DINOv2, and with them torchvision, which the CPU build of torch has no match of
    on some indexes; InceptionV3 uses none of it. What is imported here is forgotten again, so that whoever imports
    torch-fidelity later gets all of it.
    """
    name = "torch_fidelity"
    if name in sys.modules:  # whole already
        yield
        return
    package = find_spec(name)
    if package is None or not package.submodule_search_locations:
        raise BackendError("FID and IS need torch-fidelity; install it: pip install 'posewarp[quality]'")
    bare = ModuleType(name)
    bare.__path__ = list(package.submodule_search_locations)
    sys.modules[name] = bare
    try:
        yield
    finally:
        for loaded in [each for each in sys.modules if each == name or each.startswith(f"{name}.")]:
            del sys.modules[loaded]


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance of InceptionV3's pool over a set of pictures.

    Attributes:
        mean: (2048); covariance: (2048, 2048); fp64.
        about: what they are of, flat: ``count``, ``reference`` (name), ``reference_sha256``, ``weights_sha256``,
            ``resize``, ``size`` (HEIGHTxWIDTH); without what a file of others does not say.
    """

    mean: np.ndarray
    covariance: np.ndarray
    about: Mapping[str, object]

    @classmethod
    def of(cls, pooled: Tensor, about: Mapping[str, object] | None = None) -> Statistics:
        """Of features (N, 2048).

        Raises: DataError for fewer than 2 pictures.
        """
        if len(pooled) < 2:
            raise DataError(f"FID needs at least 2 pictures on each side, got {len(pooled)}")
        values = pooled.double().numpy()
        return cls(values.mean(axis=0), np.cov(values, rowvar=False), {"count": len(values), **(about or {})})

    def distance(self, other: Statistics) -> float:
        """FID."""
        return frechet_distance(self.mean, self.covariance, other.mean, other.covariance)

    def save(self, path: Path) -> None:
        """Write ``.npz``: ``mu``, ``sigma``, as other tools name them, and what they are of.

        Raises: DataError if it cannot be written.
        """
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file, mu=self.mean, sigma=self.covariance, **{k: np.array(v) for k, v in self.about.items()}
            )

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """Read what ``save`` or another tool wrote (``mu`` and ``sigma``, as in GFLA's statistics.npz).

        Raises: DataError if it cannot be read.
        """
        try:
            # Opened here, since numpy leaves a damaged file open; of an .npy comes an array: TypeError.
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            mean, covariance = (np.asarray(arrays.pop(name), np.float64) for name in ("mu", "sigma"))
        except (OSError, ValueError, TypeError, KeyError, EOFError, BadZipFile, zlib.error) as exc:
            raise DataError(
                f"{path} holds no statistics ({exc}); expected mu and sigma in an .npz: remove it to have it made anew"
            ) from exc
        size = len(mean.reshape(-1))
        if mean.ndim != 1 or covariance.shape != (size, size) or size != int(FEATURES[0]):
            raise DataError(
                f"{path} has mu {mean.shape} and sigma {covariance.shape}, expected (2048,) and (2048, 2048)"
            )
        about = {name: value.item() for name, value in arrays.items() if value.ndim == 0}
        return cls(mean, covariance, {"statistics_sha256": sha256(path), **about})


def pooled_of(inception: Inception, batches: Iterable[np.ndarray]) -> Tensor:
    """Pool features of batches of pictures, one after the other: (N, 2048)."""
    return torch.cat([inception(batch)[0] for batch in batches])
