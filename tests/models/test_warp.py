"""The warp against eq. 3 written out in numpy float64, pixel by pixel, with no grid and no normalisation."""

import numpy as np
import pytest
import torch

from posewarp.models.warp import resize_flow, warp
from posewarp.runtime.errors import ContractError

HEIGHT, WIDTH = 9, 14  # unequal, so that a swapped x and y shows
# A coordinate's rounding (2e-6 px at 14 px) times the slope of unit noise, and the sum's own.
ATOL_FP32 = 1e-5


def equation(features, flow, border):
    """Eq. 3: a sum over all pixels (i, j), each weighted by its triangle around the position that is read."""
    batch, _, height, width = features.shape
    out = np.zeros(features.shape)
    for b, y, x in np.ndindex(batch, height, width):
        px, py = x + flow[b, 0, y, x], y + flow[b, 1, y, x]
        if border == "border":
            px, py = np.clip(px, 0, width - 1), np.clip(py, 0, height - 1)
        weight_x = np.maximum(0, 1 - np.abs(px - np.arange(width)))
        weight_y = np.maximum(0, 1 - np.abs(py - np.arange(height)))
        out[b, :, y, x] = np.einsum("cji,j,i->c", features[b], weight_y, weight_x)
    return out


@pytest.fixture
def features():
    return torch.randn(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def flow():
    """Up to 8 px: a good part of the positions is outside."""
    return 16 * torch.rand(2, 2, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)) - 8


@pytest.mark.parametrize("border", ["zeros", "border"])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, ATOL_FP32), (torch.float64, 1e-12)])
def test_warp_equals_the_equation(features, flow, border, dtype, atol):
    expected = equation(features.double().numpy(), flow.double().numpy(), border)
    out = warp(features.to(dtype), flow.to(dtype), border)
    assert out.dtype == dtype
    np.testing.assert_allclose(out.numpy(), expected, rtol=0, atol=atol)


def test_zero_flow_is_identity(features):
    out = warp(features, torch.zeros(2, 2, HEIGHT, WIDTH))
    torch.testing.assert_close(out, features, rtol=0, atol=ATOL_FP32)


def test_a_flow_of_one_pixel_reads_the_neighbour_and_zero_outside(features):
    flow = torch.zeros(2, 2, HEIGHT, WIDTH, dtype=torch.float64)
    flow[:, 0] = 1
    expected = torch.nn.functional.pad(features.double()[..., 1:], (0, 1))
    torch.testing.assert_close(warp(features.double(), flow), expected, rtol=0, atol=1e-12)


def test_channel_0_of_the_flow_is_x_and_points_right():
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    picture = (100.0 * y + x)[None, None]
    flow = torch.zeros(1, 2, HEIGHT, WIDTH)
    flow[:, 0], flow[:, 1] = 2, 3
    assert warp(picture, flow)[0, 0, 4, 5].item() == pytest.approx(100 * (4 + 3) + (5 + 2))


def test_outside_is_zero_or_the_nearest_pixel(features):
    flow = torch.full((2, 2, HEIGHT, WIDTH), 100.0)
    assert warp(features, flow).abs().max() == 0
    corner = features[..., -1:, -1:].expand_as(features)
    torch.testing.assert_close(warp(features, flow, "border"), corner, rtol=0, atol=ATOL_FP32)


def test_half_features_are_sampled_in_the_precision_of_the_flow(features, flow):
    half = features.half()
    torch.testing.assert_close(warp(half, flow), warp(half.float(), flow).half(), rtol=0, atol=0)


def test_a_half_flow_is_refused(features, flow):
    with pytest.raises(ContractError, match=r"flow is torch\.float16, expected torch\.float32"):
        warp(features, flow.half())


def test_a_flow_of_another_size_is_refused(features, flow):
    with pytest.raises(ContractError, match="resize it first with resize_flow"):
        warp(features, flow[..., :-1])


def test_a_resized_flow_moves_every_pixel_as_far_as_before():
    flow = torch.stack((torch.full((5, 8), 1.5), torch.full((5, 8), -0.5)))[None].double()
    large = resize_flow(flow, 4)
    torch.testing.assert_close(large[:, 0], torch.full((1, 20, 32), 4 * 1.5).double())
    torch.testing.assert_close(large[:, 1], torch.full((1, 20, 32), 4 * -0.5).double())
    assert torch.equal(resize_flow(flow, 1), flow)


def test_a_resized_flow_agrees_with_strided_convolutions():
    """Warp, then stride, equals stride, then warp by the small flow: the factor is 4 at any width."""
    x = torch.arange(64.0).expand(1, 1, 8, 64)
    flow = torch.zeros(1, 2, 2, 16)
    flow[:, 0] = 3.0
    warped = warp(x, resize_flow(flow, 4))[..., ::4]
    torch.testing.assert_close(warped[:, :, :2, :12], warp(x[..., ::4, ::4], flow)[..., :12])
