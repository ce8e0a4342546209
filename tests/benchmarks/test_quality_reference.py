"""Every figure of quality.py against the library, or the formula, that it must equal."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torchvision_schema import make_importable

from posewarp.benchmarks.scoring.inception import Statistics, load_inception, pooled_of
from posewarp.benchmarks.scoring.measures import Target, measure_pair
from posewarp.benchmarks.scoring.perceptual import load_lpips
from posewarp.models.metrics import frechet_distance, inception_score, ssim
from posewarp.runtime.image import to_tensor, write_image


@pytest.fixture
def pictures():
    """``pictures(count, height, width)``: smooth ones with structure, and noisy copies of them; uint8 (N, H, W, 3)."""

    def make(count, height, width, seed=0):
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[:height, :width]
        waves = rng.uniform(0.02, 0.4, (count, 1, 1, 3, 2))
        phase = waves[..., 0] * x[None, ..., None] + waves[..., 1] * y[None, ..., None]
        truth = 127 + 90 * np.sin(phase + rng.uniform(0, 6, (count, 1, 1, 3)))
        noisy = truth + rng.normal(0, 25, truth.shape)
        return noisy.clip(0, 255).astype(np.uint8), truth.clip(0, 255).astype(np.uint8)

    return make


def ssim_by_formula(a, b, data_range):
    """Wang et al. 2004, written out: an 11 x 11 Gaussian window, means of what it covers wholly."""
    offsets = np.arange(-5, 6)
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2

    def smooth(channel):
        patches = np.lib.stride_tricks.sliding_window_view(channel, (11, 11))
        return (patches * window).sum(axis=(-2, -1))

    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for x, y in zip(np.moveaxis(a.astype(float), -1, 0), np.moveaxis(b.astype(float), -1, 0), strict=True):
        mx, my = smooth(x), smooth(y)
        vx, vy, cov = smooth(x * x) - mx**2, smooth(y * y) - my**2, smooth(x * y) - mx * my
        values.append(((2 * mx * my + c1) * (2 * cov + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return np.mean(values)


def test_ssim_equals_the_formula(pictures):
    for a, b in zip(*pictures(3, 40, 24), strict=True):
        assert ssim(a, b, 255.0) == pytest.approx(ssim_by_formula(a, b, 255.0), abs=1e-9)


def test_ssim_equals_torchmetrics_inside_the_border(pictures):
    # torchmetrics averages over mirrored borders too, scikit-image and the formula over what the window covers wholly:
    # with borders torchmetrics 1.9 is 0.03 lower on these pictures.
    make_importable()
    from torchmetrics.functional.image import structural_similarity_index_measure

    generated, truth = pictures(3, 64, 32)
    tensors = (torch.from_numpy(x).permute(0, 3, 1, 2).double() for x in (generated, truth))
    options = {"sigma": 1.5, "data_range": 255.0, "reduction": "none", "return_full_image": True}
    _, everywhere = structural_similarity_index_measure(*tensors, **options)
    expected = everywhere[..., 5:-5, 5:-5].mean(dim=(1, 2, 3))
    got = [measure_pair(a, Target(b))["ssim"] for a, b in zip(generated, truth, strict=True)]
    assert got == pytest.approx(expected.tolist(), abs=1e-4)


def test_the_two_frames_of_256x176_are_those_of_patns_script(pictures):
    (generated,), (truth,) = pictures(1, 256, 176)
    generated, truth = generated // 2 + 20, truth // 2 + 20  # so that the ranges of the two frames differ
    figures = measure_pair(generated, Target(truth))
    white = [np.full((256, 256, 3), 255, np.uint8) for _ in range(2)]
    for frame, picture in zip(white, (generated, truth), strict=True):
        frame[:, 40:216] = picture
    spread = float(generated.max()) - float(generated.min())
    assert figures["ssim_176"] == pytest.approx(ssim_by_formula(generated, truth, spread), abs=1e-9)
    padded = ssim_by_formula(*white, 255.0 - float(generated.min()))
    assert figures["ssim_patn_padded"] == pytest.approx(padded, abs=1e-9)
    assert figures["ssim_patn_padded"] > figures["ssim_176"] + 0.02
    assert "ssim" not in figures


def test_lpips_equals_the_package(pictures):
    make_importable()
    import lpips

    ours = load_lpips(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's, of lpips calling it as in 2021
        theirs = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    for name, value in theirs.net.state_dict().items():
        value.copy_(ours.features.state_dict()[name.partition(".")[2]])
    tensors = [torch.from_numpy(to_tensor(x)) for x in pictures(4, 128, 64)]
    with torch.no_grad():
        expected, got = theirs(*tensors).flatten(), ours(*tensors)
    assert expected.min() > 0.01
    assert got.tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert ours(tensors[0], tensors[0]).tolist() == [0] * 4


def test_inception_score_equals_torch_fidelity():
    make_importable()
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = 3 * torch.from_numpy(np.random.default_rng(0).normal(size=(57, 20)).astype(np.float32))
    expected = isc_features_to_metric(logits, splits=10)
    mean, spread = inception_score(logits, 10)
    assert mean == pytest.approx(expected["inception_score_mean"], rel=1e-9)
    assert spread == pytest.approx(expected["inception_score_std"], rel=1e-9)


@pytest.mark.parametrize("count", [200, 12], ids=["full_rank", "fewer_pictures_than_features"])
def test_fid_equals_torch_fidelity(count):
    make_importable()
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(48, 48))
    a, b = rng.normal(size=(count, 48)) @ mixing, rng.normal(0.3, 1.2, size=(count + 5, 48)) @ mixing
    theirs = [fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)]
    expected = fid_statistics_to_metric(*theirs, verbose=False)["frechet_inception_distance"]
    ours = [Statistics.of(torch.from_numpy(x)) for x in (a, b)]
    assert ours[0].distance(ours[1]) == pytest.approx(expected, rel=1e-3)


def test_frechet_distance_of_independent_gaussians_is_the_sum_over_axes():
    mean = np.array([1.0, -2.0, 0.0])
    deviations = np.array([1.0, 2.0, 0.0]), np.array([4.0, 2.0, 3.0])
    distance = frechet_distance(np.zeros(3), np.diag(deviations[0] ** 2), mean, np.diag(deviations[1] ** 2))
    assert distance == pytest.approx((mean**2).sum() + ((deviations[0] - deviations[1]) ** 2).sum())


@pytest.mark.slow  # InceptionV3 on 44 pictures, and torch-fidelity's eigenvalues of 2048 x 2048
def test_fid_and_is_of_folders_equal_torch_fidelity(pictures, tmp_path):
    make_importable()
    import torch_fidelity

    inception = load_inception(5)
    torch.save(inception.network.state_dict(), tmp_path / "weights.pth")
    generated, truth = pictures(12, 64, 32)
    for name, images in (("generated", generated), ("truth", truth)):
        (tmp_path / name).mkdir()
        for number, image in enumerate(images):
            write_image(tmp_path / name / f"{number:02d}.png", image)
    expected = torch_fidelity.calculate_metrics(
        input1=str(tmp_path / "generated"),
        input2=str(tmp_path / "truth"),
        fid=True,
        isc=True,
        isc_splits=3,
        feature_extractor_weights_path=str(tmp_path / "weights.pth"),
        batch_size=6,
        cuda=False,
        save_cpu_ram=True,  # no worker processes
        cache=False,
        verbose=False,
    )
    pooled, logits = (
        torch.cat(each) for each in zip(*(inception(generated[i : i + 6]) for i in (0, 6)), strict=True)
    )
    distance = Statistics.of(pooled).distance(Statistics.of(pooled_of(inception, [truth])))
    assert distance == pytest.approx(expected["frechet_inception_distance"], rel=1e-3)
    assert inception_score(logits, 3)[0] == pytest.approx(expected["inception_score_mean"], abs=1e-3)
