"""What papers printed: Table 1 of the pose-transfer paper, in the columns and frames that it belongs to.

DeepFashion's SSIM is that of PATN's script: 176-wide pictures on 256 x 256 white. Market-1501's is of 128 x 64 as they
are. The networks behind FID, LPIPS and IS are the usual ones; resizing and file format are not known, so a difference
of a few hundredths of SSIM or of one in FID from these rows means nothing.
"""

from __future__ import annotations

SOURCE = "Table 1 of the paper; published, not measured here"
_COLUMNS = ("inception_score", "ssim", "fid", "lpips")
_TABLE_1 = {
    "PATN": ((3.2019, 0.7713, 21.73, 0.25), (3.1604, 0.2814, 38.36, 0.31)),
    "Deform-GAN": ((3.439, 0.756, None, None), (3.185, 0.290, None, None)),
    "SelectionGAN": ((3.2818, 0.7640, 32.31, 0.27), (3.4473, 0.3305, 104.08, 0.34)),
    "BiGraphGAN": ((3.4292, 0.7776, 24.19, 0.24), (3.3288, 0.3253, 36.67, 0.30)),
    "GFLA": ((3.4371, 0.7673, 15.67, 0.22), (3.1715, 0.2803, 28.49, 0.28)),
    "ADGAN": ((3.3788, 0.7716, 13.88, 0.22), (None, None, None, None)),
    "PISE": ((3.4124, 0.7669, 9.94, 0.20), (None, None, None, None)),
    "RAN (SPGNet)": ((None, 0.782, 12.24, 0.21), (None, 0.315, 23.33, 0.27)),
    "the paper": ((3.4621, 0.7767, 10.80, 0.19), (3.1919, 0.3191, 27.69, 0.26)),
}
DATA_SETS = ("deepfashion", "market")
FRAMES = {"deepfashion": (256, 176), "market": (128, 64)}  # (height, width) that the figures are of
_SSIM = {"deepfashion": "ssim_patn_padded", "market": "ssim_patn"}


def published(data_set: str) -> dict[str, dict[str, float]]:
    """Rows of Table 1 for ``deepfashion`` or ``market``: the figures given, by the names of our columns."""
    columns = [_SSIM[data_set] if name == "ssim" else name for name in _COLUMNS]
    rows = {}
    for method, figures in _TABLE_1.items():
        given = zip(columns, figures[DATA_SETS.index(data_set)], strict=True)
        row = {name: figure for name, figure in given if figure is not None}
        if row:
            rows[method] = row
    return rows
