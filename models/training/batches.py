"""From a data set of pairs to batches on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from posewarp.models.config import GeneratorConfig
from posewarp.models.data.pair import Pair
from posewarp.models.heatmaps import to_heatmaps


class ResumableSampler(Sampler[int]):
    """Indices from any position of an endless sequence of shuffled epochs; the same for the same seed."""

    def __init__(self, length: int, seed: int, start: int = 0):
        self.length, self.seed, self.start = length, seed, start

    def __iter__(self) -> Iterator[int]:
        epoch, offset = divmod(self.start, self.length)
        while True:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.length)
            yield from map(int, order[offset:])
            epoch, offset = epoch + 1, 0


class SharedBatches(Sampler[list[int]]):
    """One process's share of every batch of a sequence of indices: all shares together are the batch.

    Args:
        indices: of all processes, the same for each.
        batch_size: of all processes together, a multiple of ``count``.
        index, count: which process of how many.
    """

    def __init__(self, indices: Sampler[int], batch_size: int, index: int = 0, count: int = 1):
        self.indices, self.batch_size = indices, batch_size
        share = batch_size // count
        self.share = slice(index * share, (index + 1) * share)

    def __iter__(self) -> Iterator[list[int]]:
        indices = iter(self.indices)
        while batch := list(islice(indices, self.batch_size)):
            yield batch[self.share]


def load_batches(pairs: Sequence[Pair], batches: SharedBatches, workers: int) -> DataLoader:
    """Lists of pairs, made ready by worker processes beside this one; 0 makes them here."""
    return DataLoader(
        pairs,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=_one_thread,
        # A forked worker hangs in OpenCV's thread pool, of which it inherits the locks and not the threads.
        multiprocessing_context="spawn" if workers else None,
    )


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
    import cv2

    cv2.setNumThreads(1)


@dataclass
class Batch:
    """A batch on the device: pictures (B, 3, H, W) in [-1, 1], heat maps (B, 18, H, W), mask (B, 1, H, W)."""

    source: Tensor
    target: Tensor
    source_heatmaps: Tensor
    target_heatmaps: Tensor
    mask: Tensor

    @classmethod
    def from_pairs(
        cls, pairs: Sequence[Pair], config: GeneratorConfig, device: torch.device | str = "cpu"
    ) -> Batch:
        """Stack pairs of a data set and move them to the device."""

        def images(name: str) -> Tensor:
            stacked = torch.from_numpy(np.stack([getattr(pair, name) for pair in pairs])).to(device)
            return stacked.permute(0, 3, 1, 2).float() / 127.5 - 1.0  # channels-last in memory

        def heatmaps(name: str) -> Tensor:
            keypoints = torch.from_numpy(np.stack([getattr(pair, name) for pair in pairs])).to(device)
            height, width = pairs[0].source_image.shape[:2]
            maps = to_heatmaps(keypoints, height, width, config.heatmap_sigma_px, config.heatmap_kind)
            return maps.contiguous(memory_format=torch.channels_last)

        mask = torch.from_numpy(np.stack([pair.garment_mask for pair in pairs])).to(device)
        return cls(
            images("source_image"),
            images("target_image"),
            heatmaps("source_keypoints"),
            heatmaps("target_keypoints"),
            mask.unsqueeze(1).float(),
        )
