"""Our files in Polygraphy, the ecosystem's own tool: as a user calls it."""

import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper, parser

from posewarp.export.graphs.coordinates import coordinate_slices
from posewarp.export.graphs.warps import rewrite_warps
from posewarp.export.precision.half import convert
from posewarp.runtime.contract import METADATA_KEY

pytest.importorskip("polygraphy")
from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx

SPELLINGS = ("portable", "gridsample", "fp16")


def spelled(model, spelling):
    if spelling != "fp16":
        return rewrite_warps(model, spelling)
    return convert(model, {name: "coordinates" for part in coordinate_slices(model) for name in part.nodes})


@pytest.fixture
def files(exported, tmp_path):
    """One network, once in each spelling: paths by spelling."""
    paths = {}
    for spelling in SPELLINGS:
        paths[spelling] = tmp_path / f"{spelling}.onnx"
        onnx.save(spelled(exported("image").model, spelling), paths[spelling])
    return paths


def polygraphy(*arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-c", "from polygraphy.tools import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout + done.stderr


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_its_runner_computes_what_onnx_runtime_does(spelling):
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 18]>
        g (float[n, 4, 8, 6] features, float[n, 8, 6, 2] grid) => (float[n, 4, 8, 6] out)
        { small = Conv <pads = [1, 1, 1, 1]> (features, w)  out = GridSample (small, grid) }""")
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((4, 4, 3, 3)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    written = spelled(model, spelling).SerializeToString()
    feeds = {
        "features": rng.standard_normal((2, 4, 8, 6)).astype(np.float32),
        "grid": rng.uniform(-1, 1, (2, 8, 6, 2)).astype(np.float32),
    }
    with OnnxrtRunner(SessionFromOnnx(written)) as runner:
        found = runner.infer(feeds)["out"]
    np.testing.assert_array_equal(found, onnxruntime.InferenceSession(written).run(None, feeds)[0])


@pytest.mark.slow
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_its_commands_take_our_files(files, spelling):
    path = files[spelling]
    text = polygraphy("inspect", "model", path)
    assert "source_image" in text
    assert "uint8" in text
    polygraphy("check", "lint", path)
    assert "PASSED" in polygraphy("run", path, "--onnxrt")


@pytest.mark.slow
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_sanitised_file_is_the_same_network(files, spelling, tmp_path):
    pytest.importorskip("onnx_graphsurgeon")
    clean = tmp_path / "clean.onnx"
    polygraphy("surgeon", "sanitize", files[spelling], "-o", clean)
    before, after = onnx.load(files[spelling]), onnx.load(clean)
    assert {function.name for function in after.functions} == {function.name for function in before.functions}
    assert METADATA_KEY in {entry.key for entry in after.metadata_props}
    rng = np.random.default_rng(0)
    feeds = {
        value.name: rng.integers(0, 256, (2, 32, 24, 3)).astype(np.uint8)
        if value.name == "source_image"
        else rng.uniform(2, 22, (2, 18, 2)).astype(np.float32)
        for value in before.graph.input
    }
    pictures = [onnxruntime.InferenceSession(p).run(None, feeds)[0] for p in (files[spelling], clean)]
    np.testing.assert_array_equal(*pictures)


@pytest.mark.slow
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_it_builds_our_files_with_tensorrt_rtx(files, spelling, tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="Polygraphy wants the package tensorrt-rtx-cu13 itself")
    engine = tmp_path / "model.engine"
    arguments = ("convert", files[spelling], "-o", engine, "--compute-capabilities", "8.6", "12.0")
    polygraphy(*arguments, POLYGRAPHY_USE_TENSORRT_RTX="1")
    assert engine.stat().st_size > 1000
