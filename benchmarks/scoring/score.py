"""Scoring one row of a report: every measure of every pair, in one pass over the pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from posewarp.benchmarks.scoring.generators import Generate
from posewarp.benchmarks.scoring.inception import Inception, Statistics
from posewarp.benchmarks.scoring.measures import Target, measure_pair
from posewarp.benchmarks.scoring.perceptual import Lpips
from posewarp.models.metrics import inception_score
from posewarp.runtime.errors import DataError
from posewarp.runtime.image import to_tensor


@dataclass(frozen=True)
class Networks:
    """What measures by a network; None is left out.

    Attributes:
        reference: what FID compares with; None leaves FID out.
        splits: of the Inception Score.
    """

    lpips: Lpips | None = None
    inception: Inception | None = None
    reference: Statistics | None = None
    splits: int = 10

    def to(self, device: str) -> Networks:
        """The same, its networks moved to a device."""
        for network in (self.lpips, self.inception and self.inception.network):
            if network is not None:
                network.to(device)
        return self


@dataclass
class _Collected:
    figures: list[dict[str, float]] = field(default_factory=list)
    lpips: list[float] = field(default_factory=list)
    pooled: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)


@torch.no_grad()
def score(
    generate: Generate,
    targets: Sequence[Target],
    networks: Networks | None = None,
    *,
    batch_size: int = 16,
    market: bool = False,
    progress: Callable[[Sequence[int]], Sequence[int]] = lambda batches: batches,
) -> dict[str, float | int | None]:
    """Score what generates over a data set.

    Args:
        generate: of the pairs, in their order.
        targets: pairs, or targets alone where pictures are finished.
        networks: what measures besides SSIM and PSNR.
        batch_size: pictures at once.
        market: as for ``measure_pair``.
        progress: wraps the starts of batches.

    Returns: means over the pairs by name, those that are NaN (an empty mask) left out; ``pairs``; and for a mask that
        was empty somewhere, how many pairs count, as ``garment_psnr_db_pairs``. None for what no pair has. ``fid``,
        ``inception_score`` and its ``_std`` are of the generated pictures as a set.
    """
    networks = networks or Networks()
    collected, shape = _Collected(), None
    for start in progress(range(0, len(targets), batch_size)):
        batch = [targets[i] for i in range(start, min(start + batch_size, len(targets)))]
        shape = shape or batch[0].target_image.shape
        for target in batch:
            if target.target_image.shape != shape:
                raise DataError(
                    f"pictures differ in size ({shape[:2]} and {target.target_image.shape[:2]}, height and width); "
                    "scale them alike, by --size"
                )
        images = generate(batch)
        for image, target in zip(images, batch, strict=True):
            collected.figures.append(measure_pair(image, target, market=market))
        if networks.lpips is not None:
            device = networks.lpips.shift.device
            pair = (images, [target.target_image for target in batch])
            tensors = (torch.from_numpy(to_tensor(np.stack(each))).to(device) for each in pair)
            collected.lpips += networks.lpips(*tensors).tolist()
        if networks.inception is not None:
            pooled, logits = networks.inception(np.stack(images))
            collected.pooled.append(pooled)
            collected.logits.append(logits)

    report: dict[str, float | int | None] = dict(_means(collected.figures))
    if networks.lpips is not None:
        report["lpips"] = float(np.mean(collected.lpips))
    if networks.inception is not None:
        mean, spread = inception_score(torch.cat(collected.logits), networks.splits)
        report["inception_score"], report["inception_score_std"] = mean, spread
        if networks.reference is not None:
            report["fid"] = Statistics.of(torch.cat(collected.pooled)).distance(networks.reference)
    return {**report, "pairs": len(targets)}


def _means(figures: Sequence[dict[str, float]]) -> Iterator[tuple[str, float | int | None]]:
    for name in dict.fromkeys(name for row in figures for name in row):
        values = np.array([row.get(name, np.nan) for row in figures])
        counted = values[~np.isnan(values)]
        yield name, float(counted.mean()) if len(counted) else None
        if len(counted) < len(values):
            yield f"{name}_pairs", len(counted)
