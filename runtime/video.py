"""Video: one picture in the poses of a sequence, frame by frame, and the file or folder they are written to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from posewarp.runtime.errors import BackendError, ContractError, DataError
from posewarp.runtime.files import atomic_folder, atomic_write
from posewarp.runtime.image import check_image
from posewarp.runtime.keypoints import check_keypoints
from posewarp.runtime.pipeline import SIZES, PoseTransfer
from posewarp.runtime.threads import available_cpus

Write = Callable[[np.ndarray], None]


def animate(
    transfer: PoseTransfer,
    image: np.ndarray,
    source_keypoints: np.ndarray,
    poses: Iterable[tuple[str, np.ndarray]],
    *,
    target_frame: tuple[int, int] | None = None,
    size: str = "network",
    batch_size: int = 1,
) -> Iterator[np.ndarray]:
    """Re-pose one picture into each of many poses; a frame is what a call of ``transfer`` gives for its pose.

    Poses are taken as frames are asked for, and no more than two batches are held, however many there are.

    Args:
        transfer: of an open session.
        image, source_keypoints, target_frame, size: as for a call of ``transfer``.
        poses: a name for messages, and (18, 2) keypoints in pixels of the target frame, for each frame; such as
            ``Poses``.
        batch_size: frames that the model is given at once. From 2 on, a backend may round otherwise in the last
            place than it does for a frame alone.

    Yields: uint8 (H, W, 3), RGB, as many as poses.
    Raises: as a call of ``transfer``, where a fault of a pose is told with its name.
    """
    if size not in SIZES or batch_size < 1:
        raise ContractError(
            f"size is {size!r} and batch_size {batch_size}, expected {' or '.join(SIZES)}, and at least 1"
        )
    frame = target_frame or image.shape[:2]
    # A model exported for a fixed batch takes whole ones only.
    batch_axis = transfer.session.contract.inputs[0].shape[0]
    multiple = batch_axis if isinstance(batch_axis, int) else 1
    fitted = None
    poses = iter(poses)
    while some := list(islice(poses, batch_size)):
        batch = []
        for name, keypoints in some:
            target = check_keypoints(keypoints, *frame, name)
            # The picture is scaled once: what has the network's size already passes bit by bit.
            picture = (fitted.image, fitted.source_keypoints) if fitted else (image, source_keypoints)
            batch.append(transfer.fit(*picture, target, frame))
            fitted = fitted or batch[0]
        padding = batch[-1:] * (-len(batch) % multiple)
        for generated in transfer.run(batch + padding)["generated"][: len(batch)]:
            yield generated if size == "network" else fitted.fit.inverse_image(generated)


def open_output(path: str | os.PathLike[str], *, fps: float = 25) -> AbstractContextManager[Write]:
    """Write frames to a video or a folder, whole or not at all.

    Use: ``with open_output("out.mp4") as write: write(frame)``. A video is H.264 (yuv420p, BT.709, CRF 18) at a
    constant rate; a frame of odd height or width is padded by a copy of its last row or column. A folder gets
    ``000001.png``, ``000002.png`` ... . Both have a temporary name until they are complete; after an exception
    nothing is left of them.

    Args:
        path: a video, ``.mp4``; or a folder, not yet there or empty.
        fps: frames per second of a video. 29.97 and 30000/1001 both are what they say.

    Returns: a context manager that gives a function: it takes a frame, uint8 (H, W, 3), RGB, all of one size.
    Raises: DataError if ``path`` is neither a video's name nor a folder's, or is a folder with files in it; if
        writing fails, as on a full disk; or if no frame was written. BackendError if the library that writes videos
        is not there. ContractError if ``fps`` is not from 0.001 to 1000, or a frame is another kind of array or of
        another size than the first.
    """
    if not 0.001 <= fps <= 1000:
        raise ContractError(f"fps is {fps}, expected 0.001 to 1000", got=fps)
    target = Path(os.path.realpath(path))
    if target.is_dir() or not target.suffix:
        return _folder(path)
    if target.suffix.lower() == ".mp4":
        return _video(path, fps)
    raise DataError(
        f"{path}: cannot write a video as {target.suffix}; use .mp4, or a folder's name, which has no suffix"
    )


@contextmanager
def _folder(path: str | os.PathLike[str]) -> Iterator[Write]:
    count = _Count(path)
    with atomic_folder(path) as temporary:

        def write(frame: np.ndarray) -> None:
            count.add(frame)
            Image.fromarray(frame).save(temporary / f"{count.frames:06}.png")

        yield write
        count.check()


@contextmanager
def _video(path: str | os.PathLike[str], fps: float) -> Iterator[Write]:
    av = _import_av()
    count = _Count(path)
    try:
        with atomic_write(path) as temporary:
            # faststart: the index comes first, so that a browser plays while it loads.
            container = av.open(str(temporary), "w", options={"movflags": "+faststart"})
            try:
                # The rate of television is 30000 / 1001; as a float it would be 2^-46 off.
                rate = Fraction(fps).limit_denominator(1001)
                stream = container.add_stream("libx264", rate=rate, options={"crf": "18"})

                def write(frame: np.ndarray) -> None:
                    count.add(frame)
                    height, width = (length + length % 2 for length in frame.shape[:2])
                    if count.frames == 1:
                        _describe(stream.codec_context, height, width)
                    container.mux(stream.encode(_to_yuv(av, frame, height, width, count.frames - 1)))

                yield write
                count.check()
                container.mux(stream.encode(None))
            except BaseException:
                with suppress(av.FFmpegError):  # closing writes the index, on a full disk too
                    container.close()
                raise
            container.close()
    except av.FFmpegError as exc:
        raise DataError(f"{path} cannot be written: {exc.strerror}") from exc


class _Count:
    """Frames written so far, all of the first one's size."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = path
        self.frames = 0
        self._shape: tuple[int, ...] | None = None

    def add(self, frame: np.ndarray) -> None:
        check_image(frame)
        self._shape = self._shape or frame.shape
        if frame.shape != self._shape:
            raise ContractError(
                f"{self.path}: frame {self.frames + 1} is {frame.shape}, expected {self._shape} as the first",
                got=frame.shape,
                expected=self._shape,
            )
        self.frames += 1

    def check(self) -> None:
        if not self.frames:
            raise DataError(f"{self.path} is not written: there is no frame")


def _describe(codec: Any, height: int, width: int) -> None:
    """Size, threads and colours of the stream; players take untagged colours for BT.601 or BT.709 by its size."""
    codec.height, codec.width, codec.pix_fmt = height, width, "yuv420p"
    codec.thread_count = available_cpus()
    codec.colorspace = codec.color_primaries = codec.color_trc = 1  # BT.709 in each of H.264's tables
    codec.color_range = 1  # 16 to 235, as yuv420p is usually read


def _to_yuv(av: ModuleType, frame: np.ndarray, height: int, width: int, index: int) -> Any:
    """``frame``, padded to the even height and width that halved colour planes need."""
    padded = np.pad(frame, ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0)), "edge")
    picture = av.VideoFrame.from_ndarray(padded, "rgb24")
    picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
    picture.pts = index
    return picture


def _import_av() -> ModuleType:
    try:
        import av

        av.codec.Codec("libx264", "w")
    except ImportError as exc:
        raise BackendError(
            f"a video is written by PyAV, which cannot be imported ({exc}): pip install posewarp[video]; "
            "or name a folder for the frames"
        ) from exc
    except ValueError as exc:  # av.codec.codec.UnknownCodecError
        raise BackendError(
            "this PyAV has no libx264, which writes H.264: install its wheel (pip install posewarp[video]); "
            "or name a folder for the frames"
        ) from exc
    return av
