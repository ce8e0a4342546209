"""The measuring commands, on a small random network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from posewarp.benchmarks import quality
from posewarp.models import checkpoint
from posewarp.models.config import GeneratorConfig
from posewarp.models.data.synthetic import SyntheticPeople

CONFIG = GeneratorConfig(height=64, width=32, base_width=4, blocks=1)
PAIRS = 18  # more than one batch of 16, and not a multiple of it


class Oracle(nn.Module):
    """Gives the ground truth of the pairs in their order, some levels too bright."""

    def __init__(self, people, levels):
        super().__init__()
        self.targets = torch.from_numpy(np.stack([people[i].target_image for i in range(PAIRS)]))
        self.levels, self.done = levels, 0

    def forward(self, source_image, source_heatmaps, target_heatmaps):
        count = len(source_image)
        images = self.targets[self.done : self.done + count].permute(0, 3, 1, 2)
        self.done += count
        return (images.float() + self.levels) / 127.5 - 1


@pytest.fixture(scope="module")
def people():
    return SyntheticPeople(CONFIG.height, CONFIG.width, split="test", length=PAIRS)


def test_quality_of_the_truth_a_level_off_is_known(people):
    # 255 levels clip at 255, so a few pixels are nearer than one level.
    scores = quality.measure(Oracle(people, 1), people, PAIRS, CONFIG)
    assert scores["psnr_db"] == pytest.approx(20 * np.log10(255), abs=0.2)
    assert scores["garment_psnr_db"] == pytest.approx(20 * np.log10(255), abs=0.3)
    assert scores["ssim"] > 0.999
    assert scores["pairs"] == PAIRS


def test_quality_of_copying_equals_the_formula(people):
    scores = quality.measure(None, people, PAIRS, CONFIG)
    pairs = [people[i] for i in range(PAIRS)]
    squares = [np.square(p.source_image.astype(float) - p.target_image) for p in pairs]
    whole = [10 * np.log10(255**2 / square.mean()) for square in squares]
    garment = [
        10 * np.log10(255**2 / square[p.garment_mask].mean())
        for p, square in zip(pairs, squares, strict=True)
    ]
    assert scores["psnr_db"] == pytest.approx(np.mean(whole))
    assert scores["garment_psnr_db"] == pytest.approx(np.mean(garment))
    assert scores["ssim"] < 0.9


def test_quality_command_writes_its_settings_and_a_row_for_copying(random_generator, tmp_path):
    path = tmp_path / "random.safetensors"
    checkpoint.save(path, random_generator(CONFIG).state_dict(), CONFIG)
    script = Path(quality.__file__)
    command = [sys.executable, script, f"mine={path}", "--pairs", "3", "--json", tmp_path / "quality.json"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "quality.json").read_text())
    assert set(report["rows"]) == {"copy the source", "mine"}
    assert report["size"] == [CONFIG.height, CONFIG.width]
    assert report["sha256"]["mine"] == checkpoint.load(path).sha256
    assert "mine" in done.stdout
