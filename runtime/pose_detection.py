"""Keypoints from a picture, by rtmlib and the ONNX models of RTMPose or RTMO; rtmlib is imported when one opens."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from posewarp.runtime.errors import BackendError
from posewarp.runtime.image import check_image
from posewarp.runtime.keypoint_files import presence, to_joints
from posewarp.runtime.keypoints import visible

# COCO's 17 joints come first in each: COCO, Halpe with feet, and whole body.
_BODIES = (17, 26, 133)
_EXPECTED = "a body model of RTMPose (simcc_x, simcc_y) or RTMO (dets, keypoints), with 17, 26 or 133 joints"

Axis = int | str  # a length, or the name of a dynamic axis


class PoseDetector:
    """Finds the people of a picture, and their keypoints. Open one with ``open`` or ``download``."""

    def __init__(self, pose: Any, detector: Any | None):
        """Args:
        pose: rtmlib's RTMPose or RTMO, opened.
        detector: rtmlib's YOLOX, opened; None: all of the picture is one person's box.
        """
        self._pose, self._detector = pose, detector

    @classmethod
    def open(
        cls,
        model: str | os.PathLike[str],
        detector: str | os.PathLike[str] | None = None,
        *,
        device: str = "cpu",
    ) -> PoseDetector:
        """Open models that are on this machine.

        Args:
            model: RTMPose's or RTMO's .onnx file; RTMO finds the people itself.
            detector: YOLOX's .onnx file, which finds people for RTMPose; None: the picture shows one, whole.
            device: ``cpu`` or ``cuda``.

        Raises: BackendError if rtmlib or a file is missing, a file is no such model, or the device is not there.
        """
        rtmlib = _import_rtmlib()
        pose = _open(rtmlib.RTMPose, model, device)
        size, outputs = _shapes(pose)
        if size is not None and _is_rtmo(outputs):
            if detector is not None:
                raise BackendError(
                    f"{model} is an RTMO model, which finds the people itself; leave {detector} out"
                )
            pose = _open(rtmlib.RTMO, model, device)
            pose.model_input_size = _fixed(size, model)
            return cls(pose, None)
        if size is None or not _is_rtmpose(size, outputs):
            raise BackendError(f"{model} is not a pose model: outputs {outputs}, expected {_EXPECTED}")
        height, width = _fixed(size, model)
        pose.model_input_size = (width, height)
        return cls(pose, None if detector is None else _open_detector(rtmlib, detector, device))

    @classmethod
    def download(cls, *, device: str = "cpu") -> PoseDetector:
        """Open rtmlib's own models (YOLOX-m and RTMPose-m, ``balanced``), fetched into its cache at first use.

        Raises: BackendError if rtmlib is missing, or a model cannot be fetched.
        """
        rtmlib = _import_rtmlib()
        from rtmlib.tools.file import download_checkpoint

        addresses = rtmlib.Body.MODE["balanced"]
        try:
            model, detector = (download_checkpoint(addresses[part]) for part in ("pose", "det"))
        except Exception as exc:  # the network's errors, and those of damaged archives
            raise BackendError(
                f"rtmlib cannot fetch {addresses['pose']}: {exc}; fetch it elsewhere and give --model and --detector"
            ) from exc
        return cls.open(model, detector, device=device)

    def __call__(self, image: np.ndarray, *, min_score: float = 0.3) -> list[np.ndarray]:
        """Find the people of a picture.

        Args:
            image: uint8 (H, W, 3), RGB, upright.
            min_score: joints with less are missing.

        Returns: of each person, the largest and surest first: (18, 3), float64, x, y in pixels of the picture and
            score, in OpenPose's order with the neck in the middle of the shoulders; NaN in a joint that is missing
            or outside the picture. Empty if nobody is seen.
        Raises: ContractError if it is no picture; BackendError if a model fails.
        """
        check_image(image)
        try:
            keypoints, scores = self._run(image)
        except Exception as exc:  # ONNX Runtime's and OpenCV's, of a model that is not what it seemed
            raise BackendError(f"{self._pose.onnx_model} failed: {exc}") from exc
        people = []
        for points, sureness in zip(keypoints, scores, strict=True):
            rows = np.column_stack((points, np.where(sureness < min_score, 0, sureness)))[:17]
            joints = to_joints(rows.tolist(), "detected", "coco-17", zero_is_missing=False)
            joints[~visible(joints[:, :2], *image.shape[:2])] = np.nan
            if not np.isnan(joints).all():
                people.append(joints)
        return sorted(people, key=presence, reverse=True)

    def _run(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(people, J, 2) and (people, J)."""
        # RTMPose and RTMO learnt from RGB, YOLOX from BGR; rtmlib converts neither (its issue 48).
        if self._detector is None:
            return self._pose(image)
        boxes = self._detector(np.ascontiguousarray(image[..., ::-1]))
        if isinstance(boxes, tuple):  # of 80 classes, of which people are the first
            boxes = boxes[0][boxes[1] == 0]
        if not len(boxes):  # of no box, RTMPose would make the whole picture
            return np.empty((0, 17, 2)), np.empty((0, 17))
        return self._pose(image, bboxes=boxes)


def _import_rtmlib() -> ModuleType:
    try:
        import onnxruntime  # noqa: F401 - rtmlib asks for it late
        import rtmlib
    except ImportError as exc:
        raise BackendError(
            f"people are found by rtmlib, which cannot be imported ({exc}): pip install posewarp[pose,cpu], then "
            "pip install --no-deps rtmlib"
        ) from exc
    return rtmlib


def _open(tool: type, path: str | os.PathLike[str], device: str) -> Any:
    """One of rtmlib's, whose input size is set by the caller."""
    if not Path(path).is_file():  # rtmlib would take it for an address
        raise BackendError(
            f"{path} does not exist; give the .onnx file of the model, or fetch one by --download"
        )
    import onnxruntime

    _check_device(device, onnxruntime.get_available_providers())
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it says what it loads
            opened = tool(str(path), backend="onnxruntime", device=device)
    except Exception as exc:  # ONNX Runtime's classes have no common one
        raise BackendError(f"{path} is not an ONNX model that ONNX Runtime can open: {exc}") from exc
    # Where there is no GPU, ONNX Runtime takes the CPU without a word.
    _check_device(device, opened.session.get_providers())
    return opened


def _check_device(device: str, providers: list[str]) -> None:
    if device == "cuda" and "CUDAExecutionProvider" not in providers:
        raise BackendError(
            "--device cuda was asked for, but ONNX Runtime has no CUDA here; see posewarp[gpu]"
        )


def _open_detector(rtmlib: ModuleType, path: str | os.PathLike[str], device: str) -> Any:
    detector = _open(rtmlib.YOLOX, path, device)
    size, outputs = _shapes(detector)
    columns = outputs[0][-1] if outputs and len(outputs[0]) == 3 else None
    if size is None or columns is None or (isinstance(columns, int) and columns < 5):
        raise BackendError(
            f"{path} is not a detector: outputs {outputs}, expected YOLOX's boxes (batch, count, 5)"
        )
    detector.model_input_size = _fixed(size, path)
    if isinstance(columns, int) and columns > 6:
        detector.det_mode = "multiclass"
    return detector


def _shapes(tool: Any) -> tuple[tuple[Axis, Axis] | None, list[tuple[Axis, ...]]]:
    """Height and width of the one picture that goes in, None if that is not what goes in; and of all that comes out."""
    inputs = [tuple(each.shape) for each in tool.session.get_inputs()]
    fits = len(inputs) == 1 and len(inputs[0]) == 4 and inputs[0][1] == 3
    return (inputs[0][2:] if fits else None), [tuple(each.shape) for each in tool.session.get_outputs()]


def _fixed(size: tuple[Axis, Axis], path: str | os.PathLike[str]) -> tuple[int, int]:
    if not all(isinstance(each, int) for each in size):
        raise BackendError(
            f"{path} takes pictures of any size, {size}; export it with a fixed height and width"
        )
    return size


def _is_rtmpose(size: tuple[Axis, Axis], outputs: list[tuple[Axis, ...]]) -> bool:
    """Two rows of bins for each joint, two bins a pixel."""
    if [len(shape) for shape in outputs] != [3, 3]:
        return False
    (_, joints, along_x), (_, joints_y, along_y) = outputs
    bins = [each if isinstance(each, str) else 2 * each for each in size]
    return joints == joints_y and _is(joints, *_BODIES) and _is(along_y, bins[0]) and _is(along_x, bins[1])


def _is_rtmo(outputs: list[tuple[Axis, ...]]) -> bool:
    """Boxes with a score, and joints with a score."""
    if [len(shape) for shape in outputs] != [3, 4]:
        return False
    return _is(outputs[0][-1], 5) and _is(outputs[1][-1], 3) and _is(outputs[1][-2], *_BODIES)


def _is(axis: Axis, *lengths: Axis) -> bool:
    """Whether a dynamic axis, known by its name only, or a fixed one may be one of these."""
    return isinstance(axis, str) or axis in lengths or any(isinstance(each, str) for each in lengths)
