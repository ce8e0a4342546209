"""The one building block: convolution, spectral norm, batch norm, ReLU."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm


def conv(
    in_channels: int,
    out_channels: int,
    kernel: int = 3,
    *,
    stride: int = 1,
    spectral: bool,
    bias: bool = False,
) -> nn.Conv2d:
    """A size-keeping (or striding) convolution with zero padding, spectrally normalised where asked.

    Convention: odd kernel, padding of half of it, so output pixel p is centred on input pixel ``stride * p``.
    """
    layer = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=bias)
    return spectral_norm(layer) if spectral else layer


def conv_block(
    in_channels: int, out_channels: int, kernel: int = 3, *, stride: int = 1, spectral: bool
) -> nn.Sequential:
    """Convolution, batch norm, ReLU. No bias: batch norm brings its own."""
    return nn.Sequential(
        conv(in_channels, out_channels, kernel, stride=stride, spectral=spectral),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
