"""Scores on held-out people, in what they wear and in the same garments without their patterns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from posewarp.models.config import GeneratorConfig
from posewarp.models.data.figure import render
from posewarp.models.data.garments import Garment, solid
from posewarp.models.data.pair import Pair
from posewarp.models.data.synthetic import SyntheticPeople
from posewarp.models.generator import Generator
from posewarp.models.metrics import psnr, ssim, to_levels
from posewarp.models.training.batches import Batch
from posewarp.models.warp import resize_flow, warp

BATCH_SIZE = 16


class PlainTwins:
    """The same people in the same poses, each garment in the mean colour of its pattern.

    So textured against plain compares equal masks and equal displacements. Of the people themselves, only legs are
    ever plain, and only those have been trained on.
    """

    def __init__(self, people: SyntheticPeople):
        self.people = people

    def __len__(self) -> int:
        return len(self.people)

    def __getitem__(self, index: int) -> Pair:
        pair, scene = self.people[index], self.people.scene(index)
        look = replace(
            scene.appearance, top=_plain(scene.appearance.top), bottom=_plain(scene.appearance.bottom)
        )
        size = pair.target_image.shape[:2]
        return replace(
            pair,
            source_image=render(look, scene.source_pose, *size)[0],
            target_image=render(look, scene.target_pose, *size)[0],
        )


def _plain(garment: Garment) -> Garment:
    mean = garment.texture.reshape(-1, 3).mean(axis=0)
    return replace(garment, pattern="plain", texture=solid(mean, *garment.texture.shape[:2]))


@dataclass(frozen=True)
class Scores:
    """Of one network, fp64 (pairs,) each; dB but for ``ssim``.

    Attributes:
        psnr, ssim: of the whole picture; SSIM with a Gaussian window of sigma 1.5, levels 0..255.
        textured, plain: PSNR of the garment's pixels, of the people and of their plain twins; NaN without a garment.
        warped: PSNR of the textured garment in the source *picture* warped by the flow alone; None without a flow.
    """

    psnr: np.ndarray
    ssim: np.ndarray
    textured: np.ndarray
    plain: np.ndarray
    warped: np.ndarray | None


def batches(pairs: Sequence[Pair], config: GeneratorConfig) -> list[Batch]:
    """All of a data set."""
    return [
        Batch.from_pairs([pairs[i] for i in range(start, min(start + BATCH_SIZE, len(pairs)))], config)
        for start in range(0, len(pairs), BATCH_SIZE)
    ]


@torch.no_grad()
def score(generator: Generator | None, people: Sequence[Batch], twins: Sequence[Batch]) -> Scores:
    """Score a generator in eval mode, or copying the source where it is None.

    Pictures are rounded to 8 bits first, as a user would store them.

    Args:
        people, twins: batches of the same pairs, as they are and plain.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in ("psnr", "ssim", "textured", "plain", "warped")}
    for batch, twin in zip(people, twins, strict=True):
        generated, flow = _generate(generator, batch)
        found["psnr"].append(psnr(generated, to_levels(batch.target)))
        found["textured"].append(psnr(generated, to_levels(batch.target), batch.mask))
        levels = (generated, to_levels(batch.target))
        pictures = (x.permute(0, 2, 3, 1).cpu().numpy().astype(np.uint8) for x in levels)
        found["ssim"].append(
            torch.tensor([ssim(a, b, 255.0) for a, b in zip(*pictures, strict=True)]).double()
        )
        found["plain"].append(psnr(_generate(generator, twin)[0], to_levels(twin.target), twin.mask))
        if flow is not None:
            carried = to_levels(warp(batch.source, resize_flow(flow, 4), border="border"))
            found["warped"].append(psnr(carried, to_levels(batch.target), batch.mask))
    return Scores(**{name: torch.cat(values).numpy() if values else None for name, values in found.items()})


def difference(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Mean of a - b over the pairs that have both, and half the width of its 95 % interval over the pairs."""
    each = (a - b)[np.isfinite(a - b)]
    return float(each.mean()), float(1.96 * each.std(ddof=1) / len(each) ** 0.5)


def _generate(generator: Generator | None, batch: Batch) -> tuple[Tensor, Tensor | None]:
    if generator is None:
        return to_levels(batch.source), None
    stages = generator.stages(batch.source, batch.source_heatmaps, batch.target_heatmaps)
    return to_levels(stages.generated), stages.flow
