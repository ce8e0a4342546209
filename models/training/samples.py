"""How well a network does on pairs that it was not trained on: two figures and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from posewarp.models.config import GeneratorConfig
from posewarp.models.data.pair import Pair
from posewarp.models.generator import Generator
from posewarp.models.metrics import psnr, to_levels
from posewarp.models.training.batches import Batch
from posewarp.models.warp import resize_flow, warp
from posewarp.runtime.image import write_image

GRID_ROWS = 8
BATCH = 8  # held-out pairs at once: bounds the memory


class Samples:
    """Held-out pairs, and a folder of what a network makes of them.

    Args:
        folder: for the pictures; it must be there.
        held_out: pairs.
        config: the network's.
        device: where it is.
    """

    def __init__(self, folder: Path, held_out: Sequence[Pair], config: GeneratorConfig, device: torch.device):
        self.folder = folder
        indices = range(len(held_out))
        self.batches = [
            Batch.from_pairs([held_out[i] for i in indices[first : first + BATCH]], config, device)
            for first in indices[::BATCH]
        ]

    @torch.no_grad()
    def draw(self, generator: Generator, name: str) -> tuple[dict[str, float], np.ndarray]:
        """PSNR, and a grid of the first eight, which goes into the folder as a PNG.

        Args:
            generator: in eval mode.
            name: of the picture.

        Returns: means in dB, over the picture and over the garment; and the grid, uint8 (H, W, 3). Its columns are
            source, target, generated, source picture warped by the flow.
        Raises: DataError if the picture cannot be written.
        """
        rows, whole, garment = [], [], []
        for batch in self.batches:
            stages = generator.stages(batch.source, batch.source_heatmaps, batch.target_heatmaps)
            generated, target, source = (
                to_levels(x).to(torch.uint8) for x in (stages.generated, batch.target, batch.source)
            )
            whole.append(psnr(generated, target))
            garment.append(psnr(generated, target, batch.mask))
            columns = [source, target, generated]
            if stages.flow is not None:
                carried = warp(batch.source, resize_flow(stages.flow, 4), border="border")
                columns.append(to_levels(carried).to(torch.uint8))
            rows += torch.cat(columns, dim=3)[: GRID_ROWS - len(rows)]  # (3, H, columns * W) each
        figures = {
            "held_out_psnr_db": round(float(torch.cat(whole).mean()), 3),
            "held_out_garment_psnr_db": round(float(torch.cat(garment).nanmean()), 3),
        }
        grid = torch.cat(rows, dim=1).permute(1, 2, 0).cpu().numpy()
        write_image(self.folder / f"{name}.png", grid)
        return figures, grid
