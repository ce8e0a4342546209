"""VGG19's layout, its maps against a chain of plain convolutions, and where its weights may come from.

ImageNet's weights cannot be had here: all are random, or chosen by hand.
"""

from __future__ import annotations

import sys
import types

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from posewarp.models.vgg import Vgg19Features, load_vgg19
from posewarp.runtime.errors import CheckpointError, ContractError

# torchvision's configuration "E" up to conv5_2, and the indices that its convolutions have there.
WIDTHS = (64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M", 512, 512, 512, 512, "M", 512, 512)
INDICES = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30)


@pytest.fixture(scope="module")
def vgg():
    return load_vgg19("random")


@pytest.fixture
def torchvision(monkeypatch):
    """A stand-in for its ``models`` module, with whatever loader a test gives it."""

    def install(loader):
        module = types.ModuleType("torchvision.models")
        module.vgg19 = loader
        monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
        monkeypatch.setitem(sys.modules, "torchvision.models", module)

    return install


def test_layout_is_that_of_torchvision(vgg):
    channels = [width for width in WIDTHS if width != "M"]
    expected = {}
    for index, before, after in zip(INDICES, [3, *channels], channels, strict=False):
        expected[f"features.{index}.weight"] = (after, before, 3, 3)
        expected[f"features.{index}.bias"] = (after,)
    assert {name: tuple(value.shape) for name, value in vgg.state_dict().items()} == expected


def test_maps_equal_a_chain_of_plain_convolutions_on_normalised_pictures(vgg):
    image = 2 * torch.rand(1, 3, 64, 32, generator=torch.Generator().manual_seed(0)) - 1
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x, state = ((image * 0.5 + 0.5) - mean) / std, vgg.state_dict()
    expected, indices = [], iter(INDICES)
    for width in WIDTHS:
        if width == "M":
            x = F.max_pool2d(x, 2)
            continue
        index = next(indices)
        x = F.conv2d(x, state[f"features.{index}.weight"], state[f"features.{index}.bias"], padding=1).relu()
        expected.append(x)
    maps = vgg(image)
    assert list(maps) == [f"relu{b}_{i}" for b, n in enumerate((2, 2, 4, 4, 2), 1) for i in range(1, n + 1)]
    for got, want in zip(maps.values(), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert maps["relu5_2"].shape == (1, 512, 4, 2)
    assert 0.1 < maps["relu5_2"].std() < 10  # random weights that let signals through


def test_a_grey_of_the_mean_of_imagenet_gives_maps_of_zero(vgg):
    grey = 2 * torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1).expand(1, 3, 16, 16) - 1
    assert all(value.abs().max() < 1e-5 for value in vgg(grey).values())


def test_it_is_frozen_in_eval_mode_and_computes_in_fp32_under_autocast(vgg):
    assert not vgg.training
    assert not any(p.requires_grad for p in vgg.parameters())
    image = torch.zeros(1, 3, 16, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        maps = vgg(image.to(torch.bfloat16))
    assert {value.dtype for value in maps.values()} == {torch.float32}
    maps["relu5_2"].sum().backward()
    assert image.grad.abs().max() > 0


def test_picture_smaller_than_16_is_refused(vgg):
    with pytest.raises(ContractError, match=r"got 16 x 8, expected 16 x 16 or more"):
        vgg(torch.zeros(1, 3, 16, 8))


def test_random_weights_are_seeded_say_so_and_leave_torchs_own_seed_alone(vgg):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    again = load_vgg19("random")
    assert torch.equal(torch.get_rng_state(), before)
    assert again.sha256 == vgg.sha256
    assert "random" in again.source


def test_every_source_gives_the_same_weights_and_hash(vgg, tmp_path, torchvision):
    state = {name: value.clone() for name, value in vgg.state_dict().items()}
    whole = {**state, "features.34.bias": torch.zeros(512), "classifier.6.bias": torch.zeros(1000)}
    torch.save(whole, tmp_path / "vgg19-dcbb9e9d.pth")
    save_file(whole, tmp_path / "vgg19.safetensors")
    asked = []

    def vgg19(weights):
        asked.append(weights)
        return types.SimpleNamespace(state_dict=lambda: whole)

    torchvision(vgg19)
    loaded = {
        where: load_vgg19(where)
        for where in (tmp_path / "vgg19-dcbb9e9d.pth", str(tmp_path / "vgg19.safetensors"), "torchvision")
    }
    assert {one.sha256 for one in loaded.values()} == {vgg.sha256}
    assert [one.source for one in loaded.values()] == [
        "vgg19-dcbb9e9d.pth",
        "vgg19.safetensors",
        "torchvision IMAGENET1K_V1",
    ]
    assert asked == ["IMAGENET1K_V1"]
    state["features.30.bias"][0] += 1
    torch.save(state, tmp_path / "other.pth")
    assert load_vgg19(tmp_path / "other.pth").sha256 != vgg.sha256


def test_absent_file_is_one_line_that_names_where_to_get_it(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"not at .*absent\.pth; give --vgg the path of vgg19-dcbb9e9d\.pth"
    ):
        load_vgg19(tmp_path / "absent.pth")


def test_torchvision_that_cannot_give_weights_is_one_line_too(torchvision, monkeypatch):
    def vgg19(weights):
        raise RuntimeError("operator torchvision::nms does not exist")

    torchvision(vgg19)
    with pytest.raises(
        CheckpointError, match=r"RuntimeError: operator .*; give --vgg the path of vgg19-dcbb9e9d"
    ):
        load_vgg19("torchvision")
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(CheckpointError, match=r"ModuleNotFoundError.*; give --vgg the path"):
        load_vgg19("torchvision")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"features.0.weight": torch.zeros(64, 3, 3, 3)},
            r"features\.0\.bias is not there, expected \(64,\)",
        ),
        ({"features.0.weight": torch.zeros(64, 3, 7, 7)}, r"features\.0\.weight is \(64, 3, 7, 7\)"),
        ([1, 2], r"not VGG19 in torchvision's layout"),
        (Vgg19Features("mine"), r"holds a whole module, expected its state_dict\(\) alone"),
    ],
)
def test_another_networks_file_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=message):
        load_vgg19(tmp_path / "file.pth")
