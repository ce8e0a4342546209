"""How far generated pictures are from their ground truth, in the units that papers print."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from posewarp.runtime.errors import BackendError, ContractError

SSIM_WINDOW_PX = 11  # of the Gaussian of sigma 1.5, cut at 3.5 sigma


def to_levels(image: Tensor) -> Tensor:
    """[-1, 1] to 8-bit levels, still fp32."""
    return ((image + 1) * 127.5).round().clamp(0, 255)


def psnr(generated: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio of each picture, 10 log10(255^2 / MSE), over all pixels or those of a mask.

    Args:
        generated, target: (B, 3, H, W), 8-bit levels 0..255, any type.
        mask: (B, 1, H, W), true where pixels count; None for all.

    Returns: (B), fp64, in dB; NaN where the mask is empty, infinite where the pictures are equal.
    """
    squared = (generated.double() - target.double()).square()  # (B, 3, H, W)
    if mask is None:
        error = squared.mean(dim=(1, 2, 3))
    else:
        counted = mask.double()
        error = (squared * counted).sum(dim=(1, 2, 3)) / (3 * counted.sum(dim=(1, 2, 3)))
    return 10 * torch.log10(255.0**2 / error)


def ssim(generated: np.ndarray, target: np.ndarray, data_range: float) -> float:
    """Structural similarity (Wang et al. 2004) by scikit-image: Gaussian window, sigma 1.5, no sample covariance.

    Args:
        generated, target: (H, W, C), each side at least 11 px; the mean is over channels and what no border touches.
        data_range: full scale of the values, from which the two constants follow.

    Returns: at most 1; NaN where ``data_range`` is 0.
    Raises: ContractError if the sizes differ or a side is too short; BackendError without scikit-image.
    """
    try:
        from skimage.metrics import structural_similarity
    except ImportError as exc:
        raise BackendError(
            f"SSIM needs scikit-image ({exc}); install it: pip install 'posewarp[quality]'"
        ) from exc
    if generated.shape != target.shape or min(target.shape[:2]) < SSIM_WINDOW_PX:
        raise ContractError(
            f"SSIM of {generated.shape} and {target.shape}: expected one shape, each side at least "
            f"{SSIM_WINDOW_PX} px",
            got=generated.shape,
            expected=target.shape,
        )
    if not data_range:
        return float("nan")
    return float(
        structural_similarity(
            target,
            generated,
            data_range=data_range,
            channel_axis=2,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def frechet_distance(
    mean_a: np.ndarray, covariance_a: np.ndarray, mean_b: np.ndarray, covariance_b: np.ndarray
) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), the squared distance of two Gaussians (Heusel et al. 2017).

    Args:
        mean_a, mean_b: (D).
        covariance_a, covariance_b: (D, D), symmetric, positive semi-definite.
    """
    # tr (C_a C_b)^(1/2) = tr (R C_b R)^(1/2) with R = C_a^(1/2): symmetric, so nothing complex comes of rounding.
    values, vectors = np.linalg.eigh(covariance_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    crossed = np.linalg.eigvalsh(root @ covariance_b @ root)
    difference = mean_a - mean_b
    return float(
        difference @ difference
        + np.trace(covariance_a)
        + np.trace(covariance_b)
        - 2 * np.sqrt(crossed.clip(0)).sum()
    )


def inception_score(logits: Tensor, splits: int = 10) -> tuple[float, float]:
    """exp of the mean KL divergence of each picture's classes from the split's (Salimans et al. 2016).

    The pictures are shuffled first, by torch-fidelity's seed, so that splits are like its own.

    Args:
        logits: (N, classes), N at least ``splits``.

    Returns: mean and standard deviation over the splits.
    Raises: ContractError for fewer pictures than splits.
    """
    if len(logits) < splits:
        raise ContractError(
            f"the Inception Score in {splits} splits needs at least {splits} pictures, got {len(logits)}; "
            "give more, or fewer --splits",
            got=len(logits),
            expected=splits,
        )
    order = np.random.RandomState(2020).permutation(len(logits))
    log_p = logits[order].double().log_softmax(dim=1)
    scores = []
    for part in range(splits):
        chunk = log_p[part * len(log_p) // splits : (part + 1) * len(log_p) // splits]
        p = chunk.exp()
        divergence = (p * (chunk - p.mean(dim=0, keepdim=True).log())).sum(dim=1)
        scores.append(divergence.mean().exp().item())
    return float(np.mean(scores)), float(np.std(scores))
