"""The paper's generator as an ExportSpec, with either of its two contracts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posewarp.export.spec import BATCH, ExportSpec
from posewarp.models import checkpoint
from posewarp.models.config import KEYPOINTS, GeneratorConfig
from posewarp.models.generator import Generator
from posewarp.models.heatmaps import to_heatmaps
from posewarp.runtime.errors import ExportError

IO = ("image", "tensors")
SIZE_MULTIPLE = 4
FLOW = "flow"


class TensorsGenerator(nn.Module):
    """Contract ``tensors``: normalised images and heat maps, as the network. Returns generated and flow."""

    def __init__(self, generator: Generator):
        super().__init__()
        self.generator = generator

    def forward(
        self, source_image: Tensor, source_heatmaps: Tensor, target_heatmaps: Tensor
    ) -> tuple[Tensor, ...]:
        stages = self.generator.stages(source_image, source_heatmaps, target_heatmaps)
        return (stages.generated,) if stages.flow is None else (stages.generated, stages.flow)


class ImageGenerator(TensorsGenerator):
    """Contract ``image``: 8-bit pictures and keypoints in pixels; all arithmetic on them is in the graph.

    The uint8 input goes straight into a cast and the cast to uint8 comes last: TensorRT refuses any other
    operation on uint8. Its cast truncates, and is undefined outside 0..255, so we round and clip before.
    """

    def forward(
        self, source_image: Tensor, source_keypoints: Tensor, target_keypoints: Tensor
    ) -> tuple[Tensor, ...]:
        """Generate.

        Args:
            source_image: (B, H, W, 3), uint8.
            source_keypoints, target_keypoints: (B, 18, 2), fp32, (x, y) in pixels; -1 for missing.

        Returns: generated, (B, H, W, 3), uint8, and the flow (see ``Stages``).
        """
        config = self.generator.config
        image = source_image.to(source_keypoints.dtype).permute(0, 3, 1, 2) / 127.5 - 1.0  # (B, 3, H, W)
        heatmaps = (
            to_heatmaps(keypoints, *image.shape[-2:], config.heatmap_sigma_px, config.heatmap_kind)
            for keypoints in (source_keypoints, target_keypoints)
        )
        generated, *flow = super().forward(image, *heatmaps)
        levels = ((generated + 1.0) * 127.5).round().clamp(0, 255)
        return levels.permute(0, 2, 3, 1).to(torch.uint8), *flow


def generator_spec(
    generator: Generator,
    *,
    io: str = "image",
    dynamic_size: bool = False,
    metadata: Mapping[str, str] | None = None,
    notes: tuple[str, ...] = (),
) -> ExportSpec:
    """How a generator is exported.

    Args:
        generator: with the weights to export.
        io: contract, ``image`` or ``tensors``.
        dynamic_size: leave height and width dynamic, in multiples of 4; else they are the configuration's.
        metadata: flat strings for the file, beside ``posewarp.config``.
        notes: for the report.

    Raises: ExportError if there is no such contract.
    """
    if io not in IO:
        raise ExportError(f"no contract {io!r}; there are {', '.join(IO)}")
    config = generator.config
    image, source, target = _example(config)
    if io == "image":
        module, place = ImageGenerator(generator), "keypoints"
        inputs = (image, source, target)
        picture_axes = {0: BATCH, 1: "height", 2: "width"} if dynamic_size else {0: BATCH}
        point_axes = {0: BATCH}
    else:
        module, place = TensorsGenerator(generator), "heatmaps"
        maps = (
            to_heatmaps(points, config.height, config.width, config.heatmap_sigma_px, config.heatmap_kind)
            for points in (source, target)
        )
        inputs = (image.float().permute(0, 3, 1, 2).contiguous() / 127.5 - 1.0, *maps)
        picture_axes = {0: BATCH, 2: "height", 3: "width"} if dynamic_size else {0: BATCH}
        point_axes = picture_axes
    settings = {
        "height": config.height,
        "width": config.width,
        "heatmap_sigma_px": config.heatmap_sigma_px,
        "heatmap_kind": config.heatmap_kind,
        "keypoint_order": "openpose-18",
    }
    if dynamic_size:
        settings["size_multiple"] = SIZE_MULTIPLE
    if config.patch_transfer:
        settings["flow"] = FLOW
    names = ("source_image", f"source_{place}", f"target_{place}")
    return ExportSpec(
        module=module,
        example_inputs=inputs,
        input_names=names,
        output_names=("generated",),
        dynamic_axes={
            names[0]: picture_axes,
            names[1]: point_axes,
            names[2]: point_axes,
            "generated": picture_axes,
        },
        multiple_of=dict.fromkeys(("height", "width"), SIZE_MULTIPLE) if dynamic_size else {},
        intermediates=(FLOW,) if config.patch_transfer else (),
        io=io,
        settings=settings,
        metadata={"posewarp.config": json.dumps(asdict(config)), **(metadata or {})},
        notes=notes,
    )


def checkpoint_spec(
    path: str | os.PathLike[str],
    *,
    io: str = "image",
    dynamic_size: bool = False,
    weights: str = "auto",
    trust: bool = False,
    config: GeneratorConfig | None = None,
    key: str | None = None,
) -> ExportSpec:
    """``generator_spec`` of a checkpoint. For the last four arguments see ``checkpoint.load``.

    Raises: CheckpointError if it cannot be loaded; ExportError if there is no such contract.
    """
    loaded = checkpoint.load(path, weights=weights, trust=trust, config=config, key=key)
    metadata = {"posewarp.checkpoint_sha256": loaded.sha256, "posewarp.weights": loaded.weights}
    return generator_spec(
        loaded.generator, io=io, dynamic_size=dynamic_size, metadata=metadata, notes=loaded.notes
    )


def _example(config: GeneratorConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Smooth pictures, uint8 (2, H, W, 3), and source and target keypoints, some missing, fp32 (2, 18, 2)."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, config.height // 8, config.width // 8, generator=random)
    smooth = F.interpolate(coarse, size=(config.height, config.width), mode="bilinear", align_corners=True)
    image = (255 * smooth).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    points = torch.rand(2, 2, KEYPOINTS, 2, generator=random) * torch.tensor([config.width, config.height])
    points[:, :, ::7] = -1.0
    return image, points[0], points[1]
