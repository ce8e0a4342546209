"""The share of pre- and post-processing: which nodes it is of, and how the profile is read."""

from __future__ import annotations

import json
import re

import pytest
from onnx import parser
from typer.testing import CliRunner

from posewarp.benchmarks import contract_cost
from posewarp.benchmarks.contract_cost import ends_of, node_times_ms
from posewarp.export.generator_spec import generator_spec
from posewarp.export.to_onnx import to_onnx
from posewarp.models.config import GeneratorConfig
from posewarp.runtime.errors import ExportError


def named(body: str):
    model = parser.parse_model(f"""<ir_version: 10, opset_import: ["": 18]>
        g (float[1, 1, 8, 8] x, float[1, 1, 3, 3] w) => (float[1, 1, 8, 8] y) {{ {body} }}""")
    for index, node in enumerate(model.graph.node):
        node.name = f"n{index}"
    return model


def test_ends_are_what_no_layer_comes_before_and_what_none_comes_behind():
    before, after = ends_of(
        named("""a = Neg (x)
                 b = Conv (a, w)
                 beside = Abs (x)
                 c = Relu (b)
                 d = Add (c, beside)
                 e = Conv (d, w)
                 f = Add (e, beside)
                 y = Tanh (f)""")
    )
    assert before == {"n0": "Neg", "n2": "Abs"}
    assert after == {"n6": "Add", "n7": "Tanh"}
    with pytest.raises(ExportError, match="the model has no Conv"):
        ends_of(named("y = Neg (x)"))


def test_times_are_of_kernels_and_without_the_first_runs():
    events = [{"cat": "Session", "name": "model_run", "dur": 9000}]
    for run in range(3):
        events += [{"cat": "Node", "name": "n0_kernel_time", "dur": 1000 * run}]
        events += [{"cat": "Node", "name": "n1_kernel_time", "dur": 500}]
    times = node_times_ms(events, warm_up=1)
    assert {name: list(each) for name, each in times.items()} == {"n0": [1, 2], "n1": [0.5, 0.5]}


@pytest.mark.slow
def test_a_model_in_contract_image_is_measured_whole_and_a_limit_is_kept(random_generator, tmp_path):
    path, report = tmp_path / "model.onnx", tmp_path / "cost.json"
    to_onnx(
        generator_spec(random_generator(GeneratorConfig(height=64, width=32, base_width=4, blocks=1))), path
    )
    arguments = [str(path), "--runs", "2", "--json", str(report), "--limit-percent"]
    done = CliRunner().invoke(contract_cost.app, [*arguments, "100"])
    assert done.exit_code == 0, done.output
    assert re.search(r"of \d+\.\d ms: \d+\.\d\d %", done.output)
    result = json.loads(report.read_text())
    assert 0 < result["before_ms"] + result["after_ms"] < result["all_ms"]
    assert 0 < result["share_percent"] < 100
    # The picture in, heat maps of keypoints; the picture out.
    assert {"Cast", "Transpose", "Exp"} <= set(result["before"])
    assert {"Round", "Clip", "Cast"} <= set(result["after"])
    assert "Conv" not in result["before"] + result["after"]
    assert CliRunner().invoke(contract_cost.app, [*arguments, "0"]).exit_code == 1
