"""Pose transfer, whole: a picture of any size and keypoints in its pixels, to the picture in the new pose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from posewarp.runtime.contract import Contract
from posewarp.runtime.errors import ContractError
from posewarp.runtime.fit import Fit
from posewarp.runtime.image import check_image, from_tensor, to_tensor
from posewarp.runtime.keypoints import KEYPOINT_ORDER, check_keypoints, to_heatmaps, visible
from posewarp.runtime.session import Session
from posewarp.runtime.split_session import SplitSession

SIZES = ("network", "source")


@dataclass(frozen=True)
class Fitted:
    """One picture and its keypoints in the network's frame.

    Attributes:
        image: uint8 (H, W, 3).
        source_keypoints, target_keypoints: float32 (18, 2), in pixels of ``image``; missing (-1, -1).
        fit: how the picture came there.
    """

    image: np.ndarray
    source_keypoints: np.ndarray
    target_keypoints: np.ndarray
    fit: Fit


class PoseTransfer:
    """A session of a pose-transfer model, from picture to picture; callable from several threads.

    Attributes:
        height, width: of the network's frame, in pixels.
    """

    def __init__(
        self, session: Session | SplitSession, *, height: int | None = None, width: int | None = None
    ):
        """Take an open session; its owner closes it.

        Args:
            session: of a model with the contract ``image`` or ``tensors``; a ``SplitSession`` encodes a picture
                once for all its poses.
            height, width: another size than the network's own, where its size is dynamic.

        Raises: ContractError if the contract is another, or says no size.
        """
        contract = session.contract
        if contract.io not in ("image", "tensors"):
            raise ContractError(
                f"{session.path} has a contract of kind {contract.io!r}; pose transfer needs "
                "'image' or 'tensors', which posewarp export writes",
                got=contract.io,
            )
        needed = ("height", "width") + (
            ("heatmap_sigma_px", "heatmap_kind") if contract.io == "tensors" else ()
        )
        lacking = [name for name in needed if name not in contract.settings]
        if lacking:
            raise ContractError(
                f"the contract of {session.path} lacks {', '.join(lacking)}; export the model again"
            )
        order = contract.settings.get("keypoint_order", KEYPOINT_ORDER)
        if order != KEYPOINT_ORDER:
            raise ContractError(
                f"{session.path} takes keypoints in the order {order}; pose transfer gives {KEYPOINT_ORDER}",
                got=order,
                expected=KEYPOINT_ORDER,
            )
        self.session = session
        self.height = height or contract.settings["height"]
        self.width = width or contract.settings["width"]

    def __call__(
        self,
        image: np.ndarray,
        source_keypoints: np.ndarray,
        target_keypoints: np.ndarray,
        *,
        target_frame: tuple[int, int] | None = None,
        size: str = "network",
    ) -> np.ndarray:
        """Re-pose the person of a picture.

        Args:
            image: uint8 (h, w, 3), RGB, of any size.
            source_keypoints: (18, 2), (x, y) in pixels of ``image``; missing (-1, -1).
            target_keypoints: (18, 2), (x, y) in pixels of the target frame.
            target_frame: its height and width, if it is not the picture's.
            size: ``network``; or ``source``, which undoes the fit, so that the result has the picture's size.

        Returns: uint8 (H, W, 3), RGB.
        Raises: ContractError if an argument has another shape or type; DataError if keypoints do not belong
            to their frame (see ``check_keypoints``); BackendError if the run fails.
        """
        frames = None if target_frame is None else [target_frame]
        return self.batch([image], [source_keypoints], [target_keypoints], target_frames=frames, size=size)[0]

    def batch(
        self,
        images: Sequence[np.ndarray],
        source_keypoints: Sequence[np.ndarray],
        target_keypoints: Sequence[np.ndarray],
        *,
        target_frames: Sequence[tuple[int, int] | None] | None = None,
        size: str = "network",
    ) -> list[np.ndarray]:
        """As a call for each, in one run of the model; the pictures may differ in size."""
        if size not in SIZES:
            raise ContractError(f"size is {size!r}, expected {' or '.join(SIZES)}", got=size, expected=SIZES)
        target_frames = [None] * len(images) if target_frames is None else target_frames
        counts = {len(each) for each in (images, source_keypoints, target_keypoints, target_frames)}
        if len(counts) != 1 or not len(images):
            raise ContractError(
                f"got {len(images)} images, {len(source_keypoints)} source keypoints, "
                f"{len(target_keypoints)} target keypoints and {len(target_frames)} target frames; "
                "expected as many of each, at least one"
            )
        fitted = [
            self.fit(*each)
            for each in zip(images, source_keypoints, target_keypoints, target_frames, strict=True)
        ]
        generated = self.run(fitted)["generated"]
        if size == "source":
            return [one.fit.inverse_image(image) for one, image in zip(fitted, generated, strict=True)]
        return list(generated)

    def fit(
        self,
        image: np.ndarray,
        source_keypoints: np.ndarray,
        target_keypoints: np.ndarray,
        target_frame: tuple[int, int] | None = None,
    ) -> Fitted:
        """Bring picture and keypoints into the network's frame; arguments and errors as for a call."""
        return fit_sample(
            image, source_keypoints, target_keypoints, self.height, self.width, target_frame=target_frame
        )

    def run(self, fitted: Sequence[Fitted]) -> dict[str, np.ndarray]:
        """Run the model once.

        Returns: ``generated``, uint8 (N, H, W, 3), and the session's extra outputs, by name.
        """
        outputs = self.session.run(to_feeds(self.session.contract, fitted))
        if self.session.contract.io == "image":
            return outputs
        return {**outputs, "generated": from_tensor(outputs["generated"])}


def fit_sample(
    image: np.ndarray,
    source_keypoints: np.ndarray,
    target_keypoints: np.ndarray,
    height: int,
    width: int,
    *,
    target_frame: tuple[int, int] | None = None,
) -> Fitted:
    """Bring a picture and keypoints of any frame into one of ``height`` and ``width``.

    Other arguments and errors as for ``PoseTransfer``'s call.
    """
    check_image(image)
    fit = Fit.to_size(*image.shape[:2], height, width)
    target_fit = Fit.to_size(*(target_frame or image.shape[:2]), height, width)
    return Fitted(
        fit.image(image),
        _fit_keypoints(fit, source_keypoints, "source_keypoints"),
        _fit_keypoints(target_fit, target_keypoints, "target_keypoints"),
        fit,
    )


def to_feeds(contract: Contract, fitted: Sequence[Fitted]) -> dict[str, np.ndarray]:
    """Inputs of a pose-transfer model with the contract ``image`` or ``tensors``, by name; one batch."""
    images = np.stack([one.image for one in fitted])
    source = np.stack([one.source_keypoints for one in fitted])
    target = np.stack([one.target_keypoints for one in fitted])
    if contract.io == "image":
        return {"source_image": images, "source_keypoints": source, "target_keypoints": target}
    frame = (*images.shape[1:3], contract.settings["heatmap_sigma_px"], contract.settings["heatmap_kind"])
    return {
        "source_image": to_tensor(images),
        "source_heatmaps": to_heatmaps(source, *frame),
        "target_heatmaps": to_heatmaps(target, *frame),
    }


def _fit_keypoints(fit: Fit, keypoints: np.ndarray, what: str) -> np.ndarray:
    """Check keypoints in their own frame, and bring them into the network's.

    Border pixels reach half a pixel beyond their centres, and scaling moves the centres by up to that much
    across the frame's edge: such a keypoint is kept, on the edge.
    """
    checked = check_keypoints(keypoints, fit.source_height, fit.source_width, what)
    moved = fit.keypoints(checked)
    last = np.nextafter(np.array([fit.width, fit.height], np.float32), np.float32(0))
    seen = visible(checked, fit.source_height, fit.source_width)[:, None]
    return np.where(seen, moved.clip(0, last), moved)
