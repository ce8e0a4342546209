"""The two figures: people by variants, as in the paper's Figure 3, and what happens inside the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from posewarp.models.data.pair import Pair
from posewarp.models.generator import Generator, Stages
from posewarp.models.metrics import to_levels
from posewarp.models.training.batches import Batch
from posewarp.models.warp import resize_flow, warp
from posewarp.runtime.draw import draw_skeleton

CELL = 1.1  # width of a picture, in inches
FEATURES = {"cmap": "magma"}


@torch.no_grad()
def people_figure(generators: Mapping[str, Generator], pairs: Sequence[Pair]) -> Figure:
    """Rows: people. Columns: source, target pose, ground truth, and what each network makes of them."""
    columns: dict[str, Sequence[np.ndarray]] = {
        "source": [pair.source_image for pair in pairs],
        "target pose": [_pose(pair) for pair in pairs],
        "ground truth": [pair.target_image for pair in pairs],
    }
    for name, generator in generators.items():
        batch = Batch.from_pairs(pairs, generator.config)
        generated = generator(batch.source, batch.source_heatmaps, batch.target_heatmaps)
        columns[name] = [_picture(image) for image in generated]
    figure, axes = _cells(len(pairs), len(columns), pairs[0].target_image.shape)
    for column, (name, pictures) in enumerate(columns.items()):
        for row, picture in enumerate(pictures):
            _show(axes[row, column], picture, name.replace(", ", "\n") if row == 0 else "")
    return figure


@torch.no_grad()
def inside_figure(generator: Generator, pair: Pair) -> Figure:
    """Alpha and beta of every incarnation block, flow, and what merging listens to, for one person.

    Maps of features are means over the channels, of alpha itself and of the magnitude of all others.

    Args:
        generator: one with patch generation and patch transfer.
    """
    batch = Batch.from_pairs([pair], generator.config)
    stages, alphas, betas = _open(generator, batch)
    carried = warp(batch.source, resize_flow(stages.flow, 4), border="border")
    rows = [
        {
            "source": pair.source_image,
            "target pose": _pose(pair),
            "ground truth": pair.target_image,
            "generated": _picture(stages.generated[0]),
            "source picture,\nwarped by the flow": _picture(carried[0]),
        },
        {
            "flow: from where": pair.source_image,
            "drawn: |s_n|": _strength(stages.drawn),
            "warped: |s_0|": _strength(stages.warped),
            "merging: share of\nthe warped (0..1)": _share_of_warped(generator, stages),
            "merged": _strength(stages.merged),
        },
        {f"alpha {i} (0..1)": alpha[0].mean(0).numpy() for i, alpha in enumerate(alphas, 1)},
        {f"|beta {i}|": _strength(beta) for i, beta in enumerate(betas, 1)},
    ]
    figure, axes = _cells(len(rows), max(map(len, rows)), pair.target_image.shape)
    for row, cells in zip(axes, rows, strict=True):
        for cell in row[len(cells) :]:
            cell.set_axis_off()
        for cell, (title, picture) in zip(row, cells.items(), strict=False):
            _show(cell, picture, title, **({"vmin": 0, "vmax": 1} if "(0..1)" in title else {}))
    _draw_flow(axes[1, 0], stages.flow[0].numpy(), batch.mask[0, 0].numpy() > 0)
    return figure


def _open(generator: Generator, batch: Batch) -> tuple[Stages, list[Tensor], list[Tensor]]:
    """The stages, and alpha and beta (1, C, H/4, W/4) of each block."""
    kept: dict[str, list[Tensor]] = {"alpha": [], "beta": []}
    hooks = [
        getattr(block, name).register_forward_hook(lambda *call, maps=maps: maps.append(call[-1]))
        for block in generator.patch_generation.blocks
        for name, maps in kept.items()
    ]
    try:
        stages = generator.stages(batch.source, batch.source_heatmaps, batch.target_heatmaps)
    finally:
        for hook in hooks:
            hook.remove()
    if generator.config.alpha_sigmoid:
        kept["alpha"] = [alpha.sigmoid() for alpha in kept["alpha"]]
    return stages, kept["alpha"], kept["beta"]


def _share_of_warped(generator: Generator, stages: Stages) -> np.ndarray:
    """How much merging depends on the warped features at each position, (H/4, W/4) in [0, 1].

    One set at a time is replaced by its mean over the picture; the share is the change that this makes, of both.
    """

    def change(warped: Tensor, drawn: Tensor) -> Tensor:
        return (stages.merged - generator.merging(warped, drawn)).abs().sum(1)

    by_warped = change(_mean_everywhere(stages.warped), stages.drawn)
    by_drawn = change(stages.warped, _mean_everywhere(stages.drawn))
    return (by_warped / (by_warped + by_drawn).clamp(min=1e-12))[0].numpy()


def _mean_everywhere(features: Tensor) -> Tensor:
    return features.mean((2, 3), keepdim=True).expand_as(features)


def _draw_flow(cell: Axes, flow: np.ndarray, garment: np.ndarray) -> None:
    """An arrow from where a garment's patch is fetched, on the source picture, to where it lands."""
    rows, columns = np.nonzero(garment[2::4, 2::4])  # at the feature map's size
    x, y = 4 * columns + 1.5, 4 * rows + 1.5
    u, v = 4 * flow[:, rows, columns]
    cell.quiver(x + u, y + v, -u, -v, angles="xy", scale_units="xy", scale=1, width=0.012, color="cyan")


def _strength(features: Tensor) -> np.ndarray:
    return features[0].abs().mean(0).numpy()


def _picture(image: Tensor) -> np.ndarray:
    """(3, H, W) in [-1, 1] to uint8 (H, W, 3)."""
    return to_levels(image).permute(1, 2, 0).numpy().astype(np.uint8)


def _pose(pair: Pair) -> np.ndarray:
    return draw_skeleton(np.zeros_like(pair.target_image), pair.target_keypoints)


def _cells(rows: int, columns: int, shape: tuple[int, ...]) -> tuple[Figure, np.ndarray]:
    height = CELL * shape[0] / shape[1]
    figure = Figure(figsize=(CELL * columns, height * rows + 0.35), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _show(cell: Axes, picture: np.ndarray, title: str, **scale: float) -> None:
    """A picture, or a map of features over the whole cell."""
    cell.imshow(picture, interpolation="nearest", **(FEATURES if picture.ndim == 2 else {}), **scale)
    cell.set_title(title, fontsize=7)
    cell.set_axis_off()
