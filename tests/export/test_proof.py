"""Files that are wrong in one way each: the proof must see every one of them."""

import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from torch import nn

from posewarp.export.capture.check_graph import check_file
from posewarp.export.capture.prepare import TensorModule
from posewarp.export.capture.proof import prove_parity
from posewarp.export.spec import ExportSpec
from posewarp.runtime.errors import ExportError

AXES = {0: "batch", 2: "height", 3: "width"}


class Warp(nn.Module):
    def __init__(self, change=lambda image, grid: (image, grid), **options):
        super().__init__()
        self.change = change
        self.options = {"align_corners": True, **options}

    def forward(self, image, grid):
        image, grid = self.change(image, grid)
        return F.grid_sample(image, grid, **self.options)


def spec_of(module, **changes):
    random = torch.Generator().manual_seed(0)
    values = {
        "example_inputs": (
            torch.rand(2, 3, 9, 6, generator=random),
            2.4 * torch.rand(2, 9, 6, 2, generator=random) - 1.2,
        ),
        "input_names": ("image", "grid"),
        "output_names": ("warped",),
        "dynamic_axes": {"image": AXES, "grid": {0: "batch", 1: "height", 2: "width"}, "warped": AXES},
    }
    return ExportSpec(module, **{**values, **changes})


def warp_file(
    path, *, opset=18, mode="bilinear", out=("batch", 3, "height", "width"), extra=(), initializers=()
):
    def value(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    node = helper.make_node("GridSample", ["image", "grid"], ["warped"], "warp", mode=mode, align_corners=1)
    graph = helper.make_graph(
        [node, *extra],
        "warp",
        [value("image", ["batch", 3, "height", "width"]), value("grid", ["batch", "height", "width", 2])],
        [value("warped", out)],
        list(initializers),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.save(model, path)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


def prove(path, module, **changes):
    spec = spec_of(module, **changes)
    check_file(path, spec)
    return prove_parity(path, spec, TensorModule(module.eval(), 1))


def test_a_right_file_is_proven_at_batches_1_and_3_and_at_a_second_size(path):
    proven = prove(warp_file(path), Warp())
    assert [parity.sizes for parity in proven] == [
        {"batch": 1, "height": 9, "width": 6},
        {"batch": 3, "height": 9, "width": 6},
        {"batch": 3, "height": 12, "width": 10},
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        Warp(lambda image, grid: (image, grid.flip(-1))),
        Warp(lambda image, grid: (image.roll(1, 0), grid)),
        Warp(lambda image, grid: (image, grid.half().float())),
        Warp(mode="nearest"),
        Warp(padding_mode="border"),
        Warp(align_corners=False),
    ],
    ids=["x and y swapped", "batch rolled", "half positions", "nearest", "border", "edges"],
)
def test_every_wrong_warp_is_seen(wrong, path):
    with pytest.raises(
        ExportError, match=r"differs from the torch module: warped, batch [13].* from torch fp"
    ):
        prove(warp_file(path), wrong)


def test_the_first_stage_that_differs_is_named(path):
    """What comes after a wrong stage is wrong too; the line names the stage."""
    warp_file(path, extra=[helper.make_node("Abs", ["warped"], ["result"])])
    model = onnx.load(path)
    model.graph.output[0].name = "result"
    onnx.save(model, path)

    class Wrong(Warp):
        def forward(self, image, grid):
            warped = super().forward(image, grid.flip(-1))
            return warped.abs(), warped

    spec = spec_of(Wrong(), output_names=("result",), intermediates=("warped",), dynamic_axes={})
    with pytest.raises(ExportError, match=r"differs from the torch module: warped: p99\.9"):
        prove_parity(path, spec, TensorModule(Wrong().eval(), 2))


def test_a_network_that_amplifies_rounding_is_judged_by_float64(path):
    """A thousandfold after a thousandth: torch's fp32 is as far from float64 as the file is."""

    class Amplified(Warp):
        def forward(self, image, grid):
            return super().forward(image + 3e4, grid) - 3e4 * super().forward(torch.ones_like(image), grid)

    proven = prove(warp_file(path), Amplified())
    assert {parity.reference for parity in proven} == {"fp64"}


@pytest.mark.parametrize(("opset", "word"), [(18, "linear"), (20, "bilinear")])
def test_a_mode_word_of_another_opset_is_seen(opset, word, path):
    """The checker lets both pass."""
    warp_file(path, opset=opset, mode=word)
    with pytest.raises(
        ExportError, match=f"GridSample 'warp' has mode '{word}', which opset {opset} does not know"
    ):
        check_file(path, spec_of(Warp()))


def test_a_frozen_output_axis_is_seen(path):
    """Declared dynamic, but the nodes make it 4 rows always."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [4], [0, 3, 4, 6])
    reshape = helper.make_node("Reshape", ["warped", "shape"], ["fixed"])
    warp_file(path, extra=[reshape], initializers=[shape])
    model = onnx.load(path)
    model.graph.output[0].name = "fixed"
    onnx.save(model, path)
    axes = {"image": AXES, "grid": {0: "batch", 1: "height", 2: "width"}, "fixed": AXES}
    with pytest.raises(ExportError, match=r"dynamic axis height of output fixed \(axis 2\) is frozen at 4"):
        check_file(path, spec_of(Warp(), output_names=("fixed",), dynamic_axes=axes))


def test_an_output_declared_with_another_size_is_seen(path):
    with pytest.raises(ExportError, match="output warped is declared with 9 on axis 2, but has 12 there"):
        prove(warp_file(path, out=("batch", 3, 9, "width")), Warp(), dynamic_axes={
            "image": AXES, "grid": {0: "batch", 1: "height", 2: "width"}
        })  # fmt: skip


def test_a_float64_constant_is_named(path):
    wide = helper.make_tensor("base_grid", TensorProto.DOUBLE, [1], [1.0])
    node = helper.make_node("Cast", ["base_grid"], ["narrow"], to=TensorProto.FLOAT)
    warp_file(path, extra=[node], initializers=[wide])
    with pytest.raises(ExportError, match="tensor 'base_grid' is float64, which TensorRT refuses"):
        check_file(path, spec_of(Warp()))


def test_an_invalid_graph_is_refused(path):
    warp_file(path, extra=[helper.make_node("Relu", ["nowhere"], ["other"])])
    with pytest.raises(ExportError, match=r"not valid ONNX.*nowhere"):
        check_file(path, spec_of(Warp()))


def test_a_file_that_does_not_run_names_the_runtime(path):
    warp_file(path, extra=[helper.make_node("Warp", ["image"], ["other"], domain="elsewhere")])
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("elsewhere", 1))
    onnx.save(model, path)
    with pytest.raises(ExportError, match=r"does not run: it cannot be opened by ONNX Runtime \d"):
        prove_parity(path, spec_of(Warp()), TensorModule(Warp().eval(), 1))
