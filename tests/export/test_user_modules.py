"""Modules as people write them: exported and right at another size, or refused with a line that says why."""

import math

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from posewarp.export.spec import ExportSpec
from posewarp.export.to_onnx import to_onnx
from posewarp.runtime.errors import ExportError
from posewarp.runtime.session import Session

AXES = {0: "batch", 2: "height", 3: "width"}


def spec_of(module, axes=AXES, **changes):
    """Inputs image (2, 3, 16, 12) and flow (2, 2, 16, 12), normalised, unequal in height and width."""
    random = torch.Generator().manual_seed(0)
    values = {
        "example_inputs": (
            torch.rand(2, 3, 16, 12, generator=random),
            0.4 * torch.rand(2, 2, 16, 12, generator=random) - 0.2,
        ),
        "input_names": ("image", "flow"),
        "output_names": ("warped",),
        "dynamic_axes": {"image": axes, "flow": axes, "warped": axes},
    }
    return ExportSpec(module=module, **{**values, **changes})


def assert_equal_at(path, module, batch, height, width):
    random = torch.Generator().manual_seed(1)
    image = torch.rand(batch, 3, height, width, generator=random)
    flow = 0.4 * torch.rand(batch, 2, height, width, generator=random) - 0.2
    with Session.open(path) as session:
        found = session.run({"image": image.numpy(), "flow": flow.numpy()})["warped"]
    np.testing.assert_allclose(found, module(image, flow).numpy(), rtol=0, atol=1e-5)


class Warper(nn.Module):
    """Its base grid is made by ``axis(size)``."""

    def __init__(self, axis):
        super().__init__()
        self.axis = axis

    def forward(self, image, flow):
        batch, _, height, width = image.shape
        y, x = torch.meshgrid(self.axis(height), self.axis(width), indexing="ij")
        base = torch.stack((x, y), dim=-1).expand(batch, -1, -1, -1)
        return F.grid_sample(image, base + flow.permute(0, 2, 3, 1), align_corners=True)


class Affine(nn.Module):
    def __init__(self, align_corners):
        super().__init__()
        self.align_corners = align_corners

    def forward(self, image, flow):
        theta = torch.eye(2, 3) + 0.3 * flow[:, :, 0, :1]
        grid = F.affine_grid(theta, image.shape, align_corners=self.align_corners)
        return F.grid_sample(image, grid, align_corners=self.align_corners)


class Cached(nn.Module):
    """RIFE's idiom: a base grid kept under the shape it was made for."""

    def __init__(self):
        super().__init__()
        self.grids = {}

    def forward(self, image, flow):
        key = str(flow.shape)
        if key not in self.grids:
            batch, _, height, width = flow.shape
            x = torch.linspace(-1.0, 1.0, width).view(1, 1, 1, width).expand(batch, -1, height, -1)
            y = torch.linspace(-1.0, 1.0, height).view(1, 1, height, 1).expand(batch, -1, -1, width)
            self.grids[key] = torch.cat((x, y), dim=1)
        grid = (self.grids[key] + flow).permute(0, 2, 3, 1)
        return F.grid_sample(image, grid, padding_mode="border", align_corners=True)


@pytest.mark.parametrize(
    "module",
    [
        Warper(lambda size: torch.linspace(-1, 1, size)),
        Warper(lambda size: 2.0 * torch.arange(size) / (size - 1) - 1.0),
        Affine(align_corners=True),
        Affine(align_corners=False),
        Cached(),
    ],
    ids=["linspace", "arange", "affine_grid", "affine_grid_edges", "cached"],
)
def test_a_base_grid_of_a_dynamic_size_stays_dynamic(module, tmp_path):
    path = tmp_path / "warper.onnx"
    report = to_onnx(spec_of(module), path)
    assert [tensor.shape for tensor in report.contract.outputs] == [("batch", 3, "height", "width")]
    for sizes in [(1, 16, 12), (2, 5, 33), (3, 40, 7)]:
        assert_equal_at(path, module, *sizes)


def test_a_size_made_a_number_is_refused_with_its_axis(tmp_path):
    module = Warper(
        lambda size: torch.linspace(-1, 1, int(size)) if size == 16 else torch.linspace(-1, 1, size)
    )
    with pytest.raises(
        ExportError, match=r"dynamic axis height \(axis 2 of image, axis 2 of flow\) is frozen at 16"
    ):
        to_onnx(spec_of(module), tmp_path / "frozen.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("opset", [16, 20, 22])
def test_another_opset_is_written_and_proven(opset, tmp_path):
    """Downwards too, where onnx's own version converter knows no way for GridSample."""
    report = to_onnx(
        spec_of(Affine(align_corners=False)), tmp_path / "warper.onnx", opset=opset, warp="gridsample"
    )
    model = onnx.load(tmp_path / "warper.onnx")
    assert [entry.version for entry in model.opset_import] == [opset] == [report.opset]
    (node,) = [node for node in model.graph.node if node.op_type == "GridSample"]
    assert next(a.s for a in node.attribute if a.name == "mode") == (
        b"linear" if opset >= 20 else b"bilinear"
    )


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, image, flow):
        return self.function(image, flow)


def _pool_and_back(image, flow):
    return F.interpolate(F.avg_pool2d(image, 4), scale_factor=4.0) + image


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda image, flow: image[:, :, :8] + flow[:, :1, :8],
            r"height of warped \(axis 2\) is frozen at 8",
        ),
        (
            lambda image, flow: image if image.shape[2] <= 20 else flow,
            "not work at every size: .* height <= 20",
        ),
        (
            lambda image, flow: image + image.transpose(2, 3),
            "height .* is tied to width: .* height",
        ),
        (_pool_and_back, r"works in multiples of 4 only; say so with multiple_of=\{'height': 4\}"),
        (
            lambda image, flow: image if image.sum() > 0 else flow,
            r"data-dependent .* \(test_user_modules.py:\d+",
        ),
        (lambda image, flow: torch.linalg.svdvals(image), "No ONNX function found for .*_linalg_svd"),
        (lambda image, flow: image.numpy(), "returned 1 values, a ndarray among them; expected 1 tensors"),
        (lambda image, flow: (image, flow), "returned 2 values; expected 1 tensors"),
        (lambda image, flow: image @ flow, "fails on its example inputs: RuntimeError"),
        (lambda image, flow: (image.double() * 1.5).float(), "is float64, which TensorRT refuses"),
        (lambda image, flow: image / 0.0, "gives NaN or infinity in warped on its example inputs"),
    ],
    ids=[
        "crop",
        "branch",
        "square",
        "multiple",
        "data",
        "unsupported",
        "array",
        "two",
        "fails",
        "float64",
        "nan",
    ],
)
def test_what_cannot_be_exported_is_refused_and_leaves_no_file(function, message, tmp_path):
    inputs = spec_of(Function(function)).example_inputs
    if "tied" in message:
        inputs = tuple(value[..., :12, :] for value in inputs)  # square
    with pytest.raises(ExportError, match=message):
        to_onnx(spec_of(Function(function), example_inputs=inputs), tmp_path / "refused.onnx")
    assert not list(tmp_path.iterdir())


def test_an_opset_in_which_an_operator_has_no_form_is_refused(tmp_path):
    """ReduceMean takes its axes as an input from opset 18 on, and no converter goes back."""
    module = Function(lambda image, flow: image + flow.mean((2, 3), keepdim=True)[:, :1])
    with pytest.raises(ExportError, match=r"wrote opset 18 instead of 16.*use --opset 18"):
        to_onnx(spec_of(module), tmp_path / "mean.onnx", opset=16)
    assert not list(tmp_path.iterdir())


def test_a_float64_buffer_is_named(tmp_path):
    module = Function(lambda image, flow: image + module.base.float())
    module.register_buffer("base", torch.from_numpy(np.linspace(-1, 1, 12)))
    with pytest.raises(
        ExportError, match=r"base is torch\.float64, expected torch\.float32: make the module fp32"
    ):
        to_onnx(spec_of(module), tmp_path / "buffer.onnx")


def test_sizes_in_multiples_are_exported_when_asked_so(tmp_path):
    module = Function(_pool_and_back)
    spec = spec_of(module, multiple_of={"height": 4, "width": 4})
    assert to_onnx(spec, tmp_path / "pool.onnx").contract.settings["minimum"] == {"height": 8, "width": 8}
    assert_equal_at(tmp_path / "pool.onnx", module, 3, 24, 8)


def test_an_output_whose_size_is_not_declared_is_named_by_what_it_follows(tmp_path):
    spec = spec_of(
        Function(lambda image, flow: F.interpolate(image, scale_factor=2.0)), dynamic_axes={"image": AXES}
    )
    (output,) = to_onnx(spec, tmp_path / "double.onnx").contract.outputs
    assert output.shape == ("batch", 3, "2*height", "2*width")


def test_an_integer_square_root_and_a_loop_are_exported(tmp_path):
    """RAFT's correlation: a dynamic batch beside math on plain sizes."""

    def correlate(image, flow):
        for _ in range(3):
            scale = torch.sqrt(torch.tensor(image.shape[1]).float())
            image = image + (image * flow[:, :1]) / scale / math.sqrt(flow.shape[1])
        return image

    module = Function(correlate)
    to_onnx(spec_of(module), tmp_path / "raft.onnx")
    assert_equal_at(tmp_path / "raft.onnx", module, 3, 7, 9)


def test_outputs_of_a_dict_are_bound_in_its_order(tmp_path):
    module = Function(lambda image, flow: {"sum": image + flow[:, :1], "product": image * flow[:, :1]})
    spec = spec_of(module, output_names=("sum", "product"), dynamic_axes={})
    to_onnx(spec, tmp_path / "dict.onnx")
    image, flow = (value.numpy() for value in spec.example_inputs)
    with Session.open(tmp_path / "dict.onnx") as session:
        found = session.run({"image": image, "flow": flow})
    np.testing.assert_allclose(found["product"], image * flow[:, :1], rtol=1e-6)


class Normed(nn.Module):
    """Every norm that re-parametrises a weight, in both layouts of torch, and batch norm with and without
    statistics."""

    def __init__(self):
        super().__init__()
        with pytest.warns(FutureWarning, match="weight_norm"):
            old_weight = nn.utils.weight_norm(nn.Conv2d(3, 3, 3, padding=1))
        self.body = nn.Sequential(
            nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 3, 3, padding=1)),
            nn.BatchNorm2d(3),
            nn.utils.spectral_norm(nn.Conv2d(3, 3, 3, padding=1)),
            nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 3, padding=1)),
            old_weight,
            nn.BatchNorm2d(3, track_running_stats=False),
            nn.InstanceNorm2d(3),
        )

    def forward(self, image, flow):
        return self.body(image)


@pytest.fixture(scope="module")
def normed():
    torch.manual_seed(0)
    module = Normed().train()
    module(torch.rand(4, 3, 16, 12), None)  # leaves a weight that is no leaf, which deepcopy refuses
    module.body[1].running_var.uniform_(0.5, 2.0)
    return module


def test_a_module_in_train_mode_is_exported_in_eval_mode_and_left_as_it_was(normed, tmp_path):
    spec = spec_of(normed)
    before = {name: value.clone() for name, value in normed.state_dict().items()}
    report = to_onnx(spec, tmp_path / "normed.onnx")
    assert all(part.training for part in normed.modules())
    assert {k: torch.equal(v, before[k]) for k, v in normed.state_dict().items()} == dict.fromkeys(
        before, True
    )
    normed(*spec.example_inputs)  # still runs, its parametrizations are in place
    assert nn.utils.parametrize.is_parametrized(normed.body[0], "weight")
    assert all(parity.passed for parity in report.parity)


def test_norms_are_folded_and_none_is_left_to_train(normed, tmp_path):
    to_onnx(spec_of(normed), tmp_path / "normed.onnx")
    model = onnx.load(tmp_path / "normed.onnx")
    names = [tensor.name for tensor in model.graph.initializer]
    assert not [
        name for name in names if "parametrizations" in name or name.endswith(("_u", "_v", "_orig", "_g"))
    ]
    left = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    assert len(left) == 1  # the one without statistics, which are computed in the graph
    assert not any(a.name == "training_mode" and a.i for a in left[0].attribute)
    assert not {*left[0].input[3:]} & set(names)
