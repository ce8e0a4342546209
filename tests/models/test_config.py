"""The configuration: its presets, its dict form, and what it refuses."""

import json
from dataclasses import asdict

import pytest

from posewarp.models.config import PRESETS, GeneratorConfig
from posewarp.models.generator import Generator
from posewarp.runtime.errors import ContractError


@pytest.mark.parametrize(
    ("preset", "size", "blocks", "base_width"),
    [("deepfashion", (256, 176), 9, 64), ("market", (128, 64), 9, 64), ("small", (128, 64), 4, 24)],
)
def test_presets_have_the_sizes_of_their_data_sets(preset, size, blocks, base_width):
    config = GeneratorConfig.preset(preset)
    assert (config.height, config.width) == size
    assert (config.blocks, config.base_width) == (blocks, base_width)


def test_preset_small_has_at_most_three_million_parameters():
    assert sum(p.numel() for p in Generator(PRESETS["small"]).parameters()) <= 3_000_000


def test_a_preset_takes_changes():
    assert GeneratorConfig.preset("market", blocks=2) == GeneratorConfig(height=128, width=64, blocks=2)


def test_a_configuration_survives_json():
    config = GeneratorConfig.preset("small", alpha_sigmoid=True, heatmap_kind="delta", border="border")
    assert GeneratorConfig.from_dict(json.loads(json.dumps(asdict(config)))) == config


def test_an_unknown_preset_lists_those_there_are():
    with pytest.raises(ContractError, match="no preset 'fashion'; there are deepfashion, market, small"):
        GeneratorConfig.preset("fashion")


def test_an_unknown_field_lists_those_there_are():
    with pytest.raises(ContractError, match=r"unknown configuration field ngf; known are .*base_width"):
        GeneratorConfig.from_dict({"ngf": 64})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 250}, "height is 250, expected a multiple of 4, at least 8"),
        ({"width": 4}, "width is 4, expected a multiple of 4, at least 8"),
        ({"base_width": 0}, "base_width is 0, expected at least 1"),
        ({"blocks": 0}, "blocks is 0, expected at least 1"),
        ({"block_convs": 0}, "block_convs is 0, expected at least 1"),
        ({"flow_convs": -1}, "flow_convs is -1, expected at least 0"),
        ({"flow_passes": 0}, "flow_passes is 0, expected at least 1"),
        ({"merge_convs": 0}, "merge_convs is 0, expected at least 1"),
        ({"border": "reflect"}, "border is 'reflect', expected 'zeros' or 'border'"),
        ({"heatmap_kind": "disc"}, "heatmap_kind is 'disc', expected 'gaussian' or 'delta'"),
        ({"heatmap_sigma_px": 0}, "heatmap_sigma_px is 0, expected more than 0"),
        ({"heatmap_sigma_px": float("nan")}, "heatmap_sigma_px is nan, expected more than 0"),
        ({"patch_generation": False, "patch_transfer": False}, "both off; nothing would be generated"),
        ({"blocks": "9"}, "blocks is '9', expected int"),
        ({"blocks": 2.5}, "blocks is 2.5, expected int"),
        ({"alpha_sigmoid": "no"}, "alpha_sigmoid is 'no', expected bool"),
    ],
)
def test_values_that_make_no_network_are_refused(changes, message):
    with pytest.raises(ContractError, match=message):
        GeneratorConfig.from_dict(changes)
