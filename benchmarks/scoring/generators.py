"""Whatever generates pictures, opened to be scored: checkpoints, ONNX files, engines, .mnn files, finished pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from posewarp.benchmarks.scoring.folders import Name, Pictures, Resize, generated_path, generated_picture
from posewarp.models import checkpoint
from posewarp.models.config import GeneratorConfig
from posewarp.models.data.pair import Pair
from posewarp.models.generator import Generator
from posewarp.models.heatmaps import to_heatmaps
from posewarp.runtime.errors import BackendError, DataError
from posewarp.runtime.files import sha256
from posewarp.runtime.fit import Fit
from posewarp.runtime.image import from_tensor, to_tensor
from posewarp.runtime.pipeline import Fitted, PoseTransfer
from posewarp.runtime.session import Session

CHECKPOINTS = (".safetensors", ".pt", ".pth")
ENGINES = (".engine", ".plan")

Generate = Callable[[Sequence[Pair]], list[np.ndarray]]


@dataclass(frozen=True)
class Opened:
    """Something that generates.

    Attributes:
        kind: what runs it, in words.
        size: height and width in pixels that it is made for.
        sha256: of its file.
        generate: pictures, uint8 (H, W, 3), of pairs.
    """

    kind: str
    size: tuple[int, int]
    sha256: str
    generate: Generate


@contextmanager
def open_generator(path: Path, *, device: str = "cpu", trust: bool = False) -> Iterator[Opened]:
    """Open a file by its suffix; what it holds is given back at the end.

    An ONNX file with FP16 or BF16 in it runs emulated, as ``posewarp parity`` does, and is said to.

    Raises: DataError for another file; PosewarpErrors of what opens it.
    """
    if path.suffix in CHECKPOINTS:
        loaded = checkpoint.load(path, trust=trust)
        generate = of_network(loaded.generator, loaded.config, device)
        size = (loaded.config.height, loaded.config.width)
        yield Opened(f"PyTorch {torch.__version__} FP32 on {device}", size, loaded.sha256, generate)
    elif path.suffix == ".onnx":
        with _onnx(path, device) as opened:
            yield opened
    elif path.suffix in (*ENGINES, ".mnn"):
        with Session.open(path) as session:
            yield _session(session, path, f"{session.backend.name} on {session.device}")
    else:
        known = ", ".join((*CHECKPOINTS, ".onnx", *ENGINES, ".mnn"))
        fault = "is nothing that generates pictures" if path.exists() else "does not exist"
        raise DataError(f"{path} {fault}; expected {known}, or a folder of generated pictures")


def of_network(generator: Generator, config: GeneratorConfig, device: str = "cpu") -> Generate:
    """Of a generator in eval mode, in FP32; its pictures are rounded to 8 bits, as a user would store them."""
    try:
        generator = generator.to(device)
    except (RuntimeError, AssertionError) as exc:
        raise BackendError(f"PyTorch cannot use {device}: {exc}") from exc

    @torch.no_grad()
    def generate(pairs: Sequence[Pair]) -> list[np.ndarray]:
        image = torch.from_numpy(to_tensor(np.stack([pair.source_image for pair in pairs])))
        height, width = image.shape[-2:]
        maps = [
            to_heatmaps(
                torch.tensor(np.stack(each)), height, width, config.heatmap_sigma_px, config.heatmap_kind
            )
            for each in zip(*((pair.source_keypoints, pair.target_keypoints) for pair in pairs), strict=True)
        ]
        output = generator(*(each.to(device) for each in (image, *maps)))
        return list(from_tensor(output.float().cpu().numpy()))

    return generate


def copy_source(pairs: Sequence[Pair]) -> list[np.ndarray]:
    """What a network that learned nothing would give."""
    return [pair.source_image for pair in pairs]


def of_folder(pictures: Pictures, names: Sequence[Name], resize: Resize | None) -> Generate:
    """Finished pictures of a folder, in the order of ``names``; each call gives the next ones.

    Raises: DataError, now, if one is missing.
    """
    paths = iter([generated_path(pictures, name) for name in names])

    def generate(pairs: Sequence[Pair]) -> list[np.ndarray]:
        return [generated_picture(next(paths), pair.target_image, resize) for pair in pairs]

    return generate


@contextmanager
def _onnx(path: Path, device: str) -> Iterator[Opened]:
    from posewarp.export.graphs.execution import open_model
    from posewarp.export.graphs.graph import load_model
    from posewarp.export.ladder.sample_data import read_contract
    from posewarp.export.precision.emulation import check_rounding, emulate, half_type

    model = load_model(path)
    dtype = half_type(model).upper()
    if dtype == "FP32":
        with Session.open(path, device=device) as session:
            yield _session(session, path, f"ONNX FP32, {session.backend.name} on {session.device}")
        return
    if device != "cpu":
        raise BackendError(f"{path} has {dtype} in it, which is emulated on the CPU; leave --device out")
    check_rounding()
    with open_model(emulate(model), called=str(path), contract=read_contract(model)) as session:
        yield _session(session, path, f"ONNX {dtype} emulated in FP32, {session.backend.name} on cpu")


def _session(session: Session, path: Path, kind: str) -> Opened:
    transfer = PoseTransfer(session)
    fixed = session.contract.inputs[0].shape[0]

    whole = Fit.to_size(transfer.height, transfer.width, transfer.height, transfer.width)

    def generate(pairs: Sequence[Pair]) -> list[np.ndarray]:
        # A fixed batch takes whole parts only: the last pair fills up.
        spare = -len(pairs) % fixed if isinstance(fixed, int) else 0
        fitted = [
            Fitted(pair.source_image, pair.source_keypoints, pair.target_keypoints, whole)
            for pair in (*pairs, *[pairs[-1]] * spare)
        ]
        return list(transfer.run(fitted)["generated"][: len(pairs)])

    return Opened(kind, (transfer.height, transfer.width), sha256(path), generate)
