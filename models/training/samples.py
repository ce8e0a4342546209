"""How well a network does on pairs that it was not trained on: two figures and a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from posewarp.models.generator import Generator
from posewarp.models.metrics import psnr
from posewarp.models.training.batches import Batch
from posewarp.models.warp import resize_flow, warp

GRID_ROWS = 8


@torch.no_grad()
def validate(generator: Generator, batches: Sequence[Batch]) -> tuple[dict[str, float], np.ndarray]:
    """PSNR on held-out pairs, and a grid of the first of them.

    Args:
        generator: in eval mode.
        batches: of the held-out pairs, in pieces that fit the memory.

    Returns: means in dB, over the picture and over the garment; and a picture, uint8, of eight rows at most: source,
        target, generated, source picture warped by the flow.
    """
    rows, whole, garment = [], [], []
    for batch in batches:
        stages = generator.stages(batch.source, batch.source_heatmaps, batch.target_heatmaps)
        generated, target, source = (_to_levels(x) for x in (stages.generated, batch.target, batch.source))
        whole.append(psnr(generated, target))
        garment.append(psnr(generated, target, batch.mask))
        columns = [source, target, generated]
        if stages.flow is not None:
            columns.append(_to_levels(warp(batch.source, resize_flow(stages.flow, 4), border="border")))
        if len(rows) < GRID_ROWS:
            rows += torch.cat(columns, dim=3)[: GRID_ROWS - len(rows)]  # (3, H, columns * W) each
    figures = {
        "held_out_psnr_db": round(float(torch.cat(whole).mean()), 3),
        "held_out_garment_psnr_db": round(float(torch.cat(garment).nanmean()), 3),
    }
    return figures, torch.cat(rows, dim=1).permute(1, 2, 0).cpu().numpy()


def _to_levels(image: Tensor) -> Tensor:
    return ((image + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
