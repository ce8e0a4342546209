"""Whole networks in FP16, emulated: pixels, positions and what is left in FP32."""

import dataclasses
from pathlib import Path

import pytest

from posewarp.export.generator_spec import generator_spec
from posewarp.export.graphs.graph import load_model
from posewarp.export.ladder.drift import coordinate_drift
from posewarp.export.ladder.sample_data import load_inputs, read_contract
from posewarp.export.to_fp16 import convert, to_fp16
from posewarp.export.to_onnx import to_onnx
from posewarp.models.config import GeneratorConfig

DEMO = Path(__file__).parents[2] / "models" / "demo" / "small.safetensors"
DEEPFASHION = GeneratorConfig.preset("deepfashion")
# psnr_db: the trained network gives pictures, random weights give noise with all frequencies.
CASES = {
    "demo": (DEMO, 50),
    "deepfashion": (DEEPFASHION, 50),
    "deepfashion 512x352": (dataclasses.replace(DEEPFASHION, height=512, width=352), 50),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_fp16_keeps_pixels_and_positions(case, random_generator, tmp_path):
    source, psnr_db = CASES[case]
    path = tmp_path / "model.onnx"
    to_onnx(source if source is DEMO else generator_spec(random_generator(source)), path)
    report = to_fp16(path)
    heads = {"flow"} & {kept.node for kept in report.kept}
    assert report.parity[0].psnr_db >= psnr_db
    assert report.share_by_count >= 0.9
    assert report.share_by_flops >= 0.95
    assert len(report.drifts) == 3
    for drift in report.drifts:
        assert drift.same_flow_max_px < 1e-3
        assert drift.own_flow_p999_px < 0.05 or heads
    if case == "deepfashion 512x352":  # what keeping nothing does
        model = load_model(path)
        (feeds,) = load_inputs(None, read_contract(model))
        naive = coordinate_drift(model, convert(model, {}), feeds)
        assert max(drift.same_flow_max_px for drift in naive) >= 0.04
