"""The ablation, with two steps of tiny networks: what it trains, scores, writes, and takes up again."""

from __future__ import annotations

import copy
import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from typer.testing import CliRunner

from posewarp.benchmarks import ablation
from posewarp.benchmarks.ablating import figures, pool, scores, variants
from posewarp.models.data.synthetic import SyntheticPeople
from posewarp.models.training.config import TrainingConfig
from posewarp.runtime.errors import DataError

TINY = variants.Budget(64, 32, steps=2, batch_size=2, base_width=4, blocks=2)
TWO = {name: variants.VARIANTS[name] for name in (variants.GENERATION, variants.BOTH)}


@pytest.fixture(scope="module")
def people():
    return SyntheticPeople(64, 32, split="test", length=18)


@pytest.fixture(scope="module")
def generators(random_generator):
    return {name: random_generator(variants.network(name, TINY)) for name in variants.VARIANTS}


def test_plain_twins_are_the_same_people_without_patterns(people):
    twins = scores.PlainTwins(people)
    assert len(twins) == len(people)
    levels = []
    for index in range(len(people)):
        pair, twin = people[index], twins[index]
        for name in ("source_keypoints", "target_keypoints", "garment_mask"):
            np.testing.assert_array_equal(getattr(twin, name), getattr(pair, name))
        changed = np.abs(twin.target_image.astype(int) - pair.target_image).max(axis=-1)
        # A smooth edge that covers a pixel by half or less is not in the mask; further away are but wisps of it.
        near = cv2.dilate(pair.garment_mask.astype(np.uint8), np.ones((5, 5))).astype(bool)
        assert changed[~near].max() < 16 < changed[pair.garment_mask].max()
        assert not np.array_equal(twin.source_image, pair.source_image)
        levels.append(
            [image[pair.garment_mask].std(axis=0).mean() for image in (twin.target_image, pair.target_image)]
        )
    plain, textured = np.mean(levels, axis=0)
    assert plain < 0.8 * textured


def test_scores_of_copying_equal_the_formula(people):
    config = variants.network(variants.BOTH, TINY)
    twins = scores.PlainTwins(people)
    found = scores.score(None, scores.batches(people, config), scores.batches(twins, config))
    assert found.warped is None
    assert found.ssim.shape == found.psnr.shape == (len(people),)

    def by_hand(pair, mask):
        error = np.square(pair.source_image.astype(float) - pair.target_image)[mask]
        return 10 * np.log10(255**2 / error.mean())

    everywhere = np.ones((64, 32), bool)
    for index in (0, 17):
        pair, twin = people[index], twins[index]
        assert found.psnr[index] == pytest.approx(by_hand(pair, everywhere))
        assert found.textured[index] == pytest.approx(by_hand(pair, pair.garment_mask))
        assert found.plain[index] == pytest.approx(by_hand(twin, twin.garment_mask))


def test_difference_is_paired_and_skips_pairs_without_a_garment():
    a, b = np.array([3.0, 5.0, np.nan, 9.0]), np.array([2.0, 3.0, 1.0, 6.0])
    mean, half_width = scores.difference(a, b)
    assert mean == pytest.approx(2.0)
    assert half_width == pytest.approx(1.96 * 1.0 / np.sqrt(3))


def test_rows_hold_the_gain_over_patch_generation_and_a_flow_where_there_is_one(generators, people):
    rows = {row["name"]: row for row in ablation.measure(generators, people)}
    assert list(rows) == [variants.COPY, *variants.VARIANTS]
    assert rows[variants.GENERATION]["textured_gain_db"] == (0.0, 0.0)
    assert rows[variants.GENERATION]["warped_source_psnr_db"] is None
    assert rows[variants.TRANSFER]["warped_source_psnr_db"] > 0
    both = rows[variants.BOTH]
    gain = both["textured_psnr_db"] - rows[variants.GENERATION]["textured_psnr_db"]
    assert both["textured_gain_db"][0] == pytest.approx(gain)
    assert both["parameters"] > rows[variants.TRANSFER]["parameters"] > rows[variants.COPY]["parameters"] == 0
    # More passes and warped skips cost no weights.
    assert len({rows[name]["parameters"] for name in variants.VARIANTS if name.startswith("both")}) == 1


def test_claims_are_met_or_not_by_their_figures():
    def row(name, psnr, gain):
        return {"name": name, "psnr_db": psnr, "textured_gain_db": (gain, 0.1)}

    rows = [row("copy", 14.0, -3.0), row("patch generation", 20.5, 0.0), row("both", 19.9, 1.2)]
    found = ablation.claims(rows)
    assert [claim["met"] for claim in found.values()] == [True, True, False]
    assert found["both over copy, picture"]["found_db"] == pytest.approx(5.9)


def test_alpha_of_the_figure_is_the_networks_own(generators, people):
    generator = generators[variants.BOTH]
    batch = scores.batches(people, generator.config)[0]
    with torch.no_grad():
        stages, alphas, betas = figures._open(generator, batch)
        block = generator.patch_generation.blocks[0]
        source = generator.image_encoder(batch.source)[-1]
        s_1 = alphas[0] * (source + block.f(source)) + betas[0]  # eq. 2
        s_2 = alphas[1] * (s_1 + generator.patch_generation.blocks[1].f(s_1)) + betas[1]
    torch.testing.assert_close(s_2, stages.drawn, rtol=1e-4, atol=1e-4)
    assert not block.alpha._forward_hooks


def test_share_of_the_warped_features_is_one_where_merging_sees_nothing_else(generators, people):
    generator = copy.deepcopy(generators[variants.BOTH])
    batch = scores.batches([people[0]], generator.config)[0]
    width = generator.config.feature_width
    with torch.no_grad():
        first = generator.merging.convs[0][0]
        first.weight[:, width:] = 0.0  # what patch generation drew comes second
        stages = generator.stages(batch.source, batch.source_heatmaps, batch.target_heatmaps)
        share = figures._share_of_warped(generator, stages)
    assert share.shape == (16, 8)
    np.testing.assert_allclose(share[share > 0], 1.0)
    assert (share > 0).mean() > 0.9


def test_figures_have_a_column_a_network_and_a_row_a_person(generators, people):
    figure = figures.people_figure(generators, [people[0], people[1]])
    titles = [cell.get_title() for cell in figure.axes if cell.get_title()]
    assert len(figure.axes) == 2 * (3 + len(generators))
    assert titles[:4] == ["source", "target pose", "ground truth", "patch generation"]
    figure = figures.inside_figure(generators[variants.BOTH], people[0])
    titles = " ".join(cell.get_title() for cell in figure.axes)
    for part in ("alpha 2", "|beta 2|", "flow", "merging"):
        assert part in titles


@pytest.mark.parametrize("fewest", [True, False])
def test_fewest_trains_two_networks_and_the_name_is_that_of_all_files(
    generators, tmp_path, monkeypatch, fewest
):
    asked = []

    def train(budget, training, output, names, **_):
        asked.append((output, tuple(names)))
        return {name: generators[name] for name in names}

    row = {"psnr_db": 1.0, "textured_psnr_db": 1.0, "plain_psnr_db": 1.0, "warped_source_psnr_db": None}
    gains = {"ssim": 0.5, "parameters": 1, "textured_gain_db": (0.0, 0.1), "plain_gain_db": (0.0, 0.1)}
    monkeypatch.setattr(ablation, "train_variants", train)
    monkeypatch.setattr(
        ablation,
        "measure",
        lambda made, people: [{"name": name, **row, **gains} for name in (variants.COPY, *made)],
    )
    monkeypatch.setattr(ablation, "BUDGETS", {"cpu": TINY})
    for name in ("people_figure", "inside_figure"):
        monkeypatch.setattr(figures, name, lambda *_: Figure())
    results, docs = tmp_path / "results", tmp_path / "docs"
    options = ["--fewest"] * fewest + ["--name", "short", "--results", str(results), "--docs", str(docs)]
    done = CliRunner().invoke(ablation.app, options)
    assert done.exit_code == 0, done.output
    chosen = tuple(TWO) if fewest else tuple(variants.VARIANTS)
    assert asked == [(Path("runs/ablation-short"), chosen)]
    assert {path.name for path in results.iterdir()} == {"ablation-short.json", "ablation-short.csv"}
    assert {path.name for path in docs.iterdir()} == {"short.md", "short-people.png", "short-inside.png"}


@pytest.mark.slow
def test_run_that_fails_is_named_with_what_it_said(tmp_path):
    config = variants.network(variants.BOTH, TINY)
    run = pool.Run(tmp_path / "both", config, TrainingConfig(steps=2, batch_size=2), "cpu", 1, 0)
    run.folder.mkdir()
    (run.folder / "last.pt").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"training of .*both failed: CheckpointError: .*last\.pt"):
        pool.train_side_by_side([run], jobs=1)


@pytest.mark.slow
def test_command_writes_its_results_and_trains_nothing_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "VARIANTS", TWO)
    monkeypatch.setattr(ablation, "BUDGETS", {"cpu": TINY})
    folders = {name: tmp_path / name for name in ("output", "results", "docs")}
    ablation.ablation(pairs=6, steps=None, **folders)
    report = json.loads((tmp_path / "results" / "ablation-cpu.json").read_text())
    assert [row["name"] for row in report["rows"]] == ["copy", "patch generation", "both"]
    assert report["training"]["steps"] == report["budget"]["steps"] == 2
    table = list(csv.DictReader((tmp_path / "results" / "ablation-cpu.csv").read_text().splitlines()))
    assert float(table[2]["psnr_db"]) == pytest.approx(report["rows"][2]["psnr_db"])
    page = (tmp_path / "docs" / "cpu.md").read_text()
    assert "| both |" in page
    assert "python benchmarks/ablation.py" in page
    for name in ("cpu-people.png", "cpu-inside.png"):
        assert f"({name})" in page
        assert imread(tmp_path / "docs" / name).std() > 0.1
    log = tmp_path / "output" / "both" / "log.jsonl"
    before = log.read_text()
    ablation.ablation(pairs=6, steps=None, **folders)
    assert log.read_text() == before


def test_a_negative_seed_is_misuse():
    assert CliRunner().invoke(ablation.app, ["--seed", "-1"]).exit_code == 2
