"""The exported generator: contracts, graph, metadata, and that a failure leaves no trace."""

import copy
import json
import re

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from posewarp.export.generator_spec import generator_spec
from posewarp.export.to_onnx import to_onnx
from posewarp.models.config import GeneratorConfig
from posewarp.models.generator import Generator
from posewarp.models.heatmaps import to_heatmaps
from posewarp.runtime.contract import Contract
from posewarp.runtime.errors import CheckpointError, ExportError
from posewarp.runtime.session import Session


@pytest.fixture
def image_inputs():
    """Three different pictures and poses at 32 x 24, some keypoints missing or outside."""
    random = np.random.default_rng(5)
    coarse = random.uniform(0, 255, (3, 4, 3, 3))
    image = np.kron(coarse, np.ones((1, 8, 8, 1))).astype(np.uint8)
    source, target = random.uniform(0, 24, (2, 3, 18, 2)).astype(np.float32)
    source[0, 3], target[1, 0] = -1, (24.0, 3.0)
    return {"source_image": image, "source_keypoints": source, "target_keypoints": target}


def as_tensors(inputs):
    image = torch.from_numpy(inputs["source_image"]).permute(0, 3, 1, 2).float() / 127.5 - 1
    maps = [
        to_heatmaps(torch.from_numpy(inputs[f"{which}_keypoints"]), *image.shape[-2:], 3.0)
        for which in ("source", "target")
    ]
    return image.contiguous(), *maps


def test_the_image_contract_is_the_network_between_uint8_and_uint8(exported, image_inputs):
    with torch.no_grad():
        generated = exported("image").generator(*as_tensors(image_inputs))
    expected = ((generated + 1) * 127.5).clamp(0, 255).permute(0, 2, 3, 1).numpy()
    with Session.open(exported("image").path) as session:
        found = session.run(image_inputs)["generated"]
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 0.51  # rounded to the nearest step
    assert found.std() > 20


def test_the_tensors_contract_is_the_network(exported, image_inputs):
    tensors = as_tensors(image_inputs)
    with torch.no_grad():
        stages = exported("tensors").generator.stages(*tensors)
    feeds = dict(
        zip(
            ("source_image", "source_heatmaps", "target_heatmaps"),
            map(torch.Tensor.numpy, tensors),
            strict=True,
        )
    )
    with Session.open(exported("tensors").path, extra_outputs=["flow"]) as session:
        found = session.run(feeds)
    np.testing.assert_allclose(found["generated"], stages.generated.numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(found["flow"], stages.flow.numpy(), rtol=0, atol=8e-4)


def test_a_batch_of_three_equals_three_singles(exported, image_inputs):
    with Session.open(exported("image").path) as session:
        together = session.run(image_inputs)["generated"].astype(int)
        singles = [
            session.run({k: v[i : i + 1] for k, v in image_inputs.items()})["generated"] for i in range(3)
        ]
    assert np.abs(together - np.concatenate(singles)).max() <= 1
    assert np.abs(together[0] - together[1]).max() > 20


def test_uint8_meets_nothing_but_casts(exported):
    """TensorRT refuses any other operation on it."""
    graph = exported("image").model.graph
    users = [node for node in graph.node if "source_image" in node.input]
    (last,) = [node for node in graph.node if "generated" in node.output]
    assert [node.op_type for node in (*users, last)] == ["Cast", "Cast"]
    assert next(a.i for a in last.attribute if a.name == "to") == TensorProto.UINT8
    shapes = [
        [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (graph.input[0], graph.output[0])
    ]
    assert shapes == [["batch", 32, 24, 3]] * 2


def test_rounding_and_clipping_come_before_the_last_cast(exported):
    graph = exported("image").model.graph
    made_by = {name: node for node in graph.node for name in node.output}
    chain, node = [], made_by["generated"]
    for _ in range(4):
        chain.append(node.op_type)
        node = made_by[node.input[0]]
    assert chain == ["Cast", "Transpose", "Clip", "Round"]


def test_the_graph_is_clean(exported):
    """Norms folded, one file, our names, and nothing of the machine that it was made on."""
    for io in ("image", "tensors"):
        item = exported(io)
        ops = {node.op_type for node in item.model.graph.node}
        assert not ops & {"BatchNormalization", "Identity", "GridSample"}
        names = [tensor.name for tensor in item.model.graph.initializer]
        assert "generator.decoder.to_image.weight" in names
        assert not [name for name in names if "parametrizations" in name or name.startswith("module.")]
        assert not any(tensor.external_data for tensor in item.model.graph.initializer)
        assert not item.model.graph.value_info
        data = item.path.read_bytes()
        assert b"stack_trace" not in data
        assert not re.search(rb"/(models|export|site-packages)/", data)
    assert len(list(exported("image").path.parent.iterdir())) == 1


def test_the_contract_says_what_the_file_takes(exported):
    fixed, dynamic = (exported(io).report.contract for io in ("image", "tensors"))
    assert [str(tensor) for tensor in (*fixed.inputs, *fixed.outputs)] == [
        "source_image: uint8 (batch, 32, 24, 3)",
        "source_keypoints: float32 (batch, 18, 2)",
        "target_keypoints: float32 (batch, 18, 2)",
        "generated: uint8 (batch, 32, 24, 3)",
    ]
    assert [str(tensor) for tensor in (*dynamic.inputs, *dynamic.outputs)] == [
        "source_image: float32 (batch, 3, height, width)",
        "source_heatmaps: float32 (batch, 18, height, width)",
        "target_heatmaps: float32 (batch, 18, height, width)",
        "generated: float32 (batch, 3, height, width)",
    ]
    settings = {
        "height": 32,
        "width": 24,
        "heatmap_sigma_px": 3.0,
        "heatmap_kind": "gaussian",
        "keypoint_order": "openpose-18",
        "flow": "flow",
    }
    assert fixed.settings == settings
    assert dynamic.settings == {**settings, "size_multiple": 4, "minimum": {"height": 8, "width": 8}}


def test_metadata_are_flat_strings(exported):
    item = exported("image")
    metadata = {entry.key: entry.value for entry in item.model.metadata_props}
    assert Contract.from_json(metadata["posewarp.contract"]) == item.report.contract
    assert GeneratorConfig.from_dict(json.loads(metadata["posewarp.config"])) == item.generator.config
    assert metadata["posewarp.warp"] == "portable"
    assert json.loads(metadata["posewarp.versions"])["torch"] == torch.__version__


def test_another_size_runs_where_it_is_dynamic(exported):
    random = torch.Generator().manual_seed(3)
    coarse = torch.rand(1, 39, 5, 9, generator=random)
    maps = torch.nn.functional.interpolate(coarse, size=(20, 36), mode="bilinear")
    inputs = (2 * maps[:, :3] - 1, maps[:, 3:21], maps[:, 21:])
    with torch.no_grad():
        expected = exported("tensors").generator(*inputs).numpy()
    with Session.open(exported("tensors").path) as session:
        names = [spec.name for spec in session.contract.inputs]
        found = session.run({n: v.numpy() for n, v in zip(names, inputs, strict=True)})["generated"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("warp", ["plugin", "gridsample", "gather"])
def test_the_spelling_asked_for_is_written_and_proven(warp, tiny_generator, tmp_path):
    report = to_onnx(generator_spec(tiny_generator, io="tensors"), tmp_path / "model.onnx", warp=warp)
    nodes = onnx.load(tmp_path / "model.onnx").graph.node
    written = {"MixedGridSample", "GridSample", "GatherND"} & {node.op_type for node in nodes}
    assert written == {{"plugin": "MixedGridSample", "gridsample": "GridSample", "gather": "GatherND"}[warp]}
    assert (report.warp, report.warps) == (warp, 3)
    assert [(p.tensor, p.sizes) for p in report.parity] == [
        ("flow", {"batch": 2}), ("generated", {"batch": 1}), ("generated", {"batch": 3})
    ]  # fmt: skip
    assert ("body put back" in str(report)) == (warp == "plugin")


def test_a_network_without_patch_transfer_has_no_warps_and_no_flow(tmp_path):
    generator = Generator(GeneratorConfig(height=16, width=8, base_width=4, blocks=1, patch_transfer=False))
    report = to_onnx(generator_spec(generator), tmp_path / "model.onnx")
    assert (report.warp, report.warps) == ("none", 0)
    assert "flow" not in report.contract.settings


def test_delta_heat_maps_are_exported(random_generator, tmp_path):
    config = GeneratorConfig(height=16, width=8, base_width=4, blocks=1, heatmap_kind="delta")
    report = to_onnx(generator_spec(random_generator(config)), tmp_path / "model.onnx")
    assert all(parity.passed for parity in report.parity)


def test_a_failed_proof_leaves_the_old_file_and_no_other(tiny_generator, tmp_path, monkeypatch):
    monkeypatch.setattr("posewarp.export.capture.difference.MAX_UINT8_STEPS", -1)
    output = tmp_path / "model.onnx"
    output.write_bytes(b"old")
    with pytest.raises(
        ExportError, match=r"differs from the torch module: generated, batch 1: max \d of 255"
    ):
        to_onnx(generator_spec(tiny_generator), output)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("model.onnx", b"old")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"opset": 15}, "opset is 15, expected at least 16"),
        ({"warp": "native"}, "no warp spelling 'native'; there are portable"),
        ({"output": "model.pt"}, "model.pt is no name for an ONNX file; let it end in .onnx"),
        ({"output": None}, "an ExportSpec has no name for its file; give an output"),
        ({"output": "no/such/folder.onnx"}, "cannot be written: the folder .* does not exist"),
        ({"weights": "ema"}, "weights: for a checkpoint only, not with an ExportSpec"),
    ],
)
def test_misuse_is_refused_before_the_work(changes, message, tiny_generator, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExportError, match=message):
        to_onnx(generator_spec(tiny_generator), **{"output": tmp_path / "model.onnx", **changes})
    assert not list(tmp_path.iterdir())


def test_a_contract_that_does_not_exist_is_refused(tiny_generator):
    with pytest.raises(ExportError, match="no contract 'video'; there are image, tensors"):
        generator_spec(tiny_generator, io="video")


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "notes.pt").write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match=r"notes\.pt"):
        to_onnx(tmp_path / "notes.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.pt"]


def test_half_weights_are_refused_by_name(tiny_generator, tmp_path):
    half = copy.deepcopy(tiny_generator)
    half.decoder.to_image.bias.data = half.decoder.to_image.bias.data.half()
    with pytest.raises(ExportError, match=r"generator\.decoder\.to_image\.bias is torch\.float16, expected"):
        to_onnx(generator_spec(half), tmp_path / "model.onnx")
