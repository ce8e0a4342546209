"""Whole networks at batches 1, 2, 3 and 8, in every spelling, against PyTorch and against float64."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from posewarp.export.capture.difference import MAX_FP32, MAX_UINT8_STEPS, P999_FP32, difference
from posewarp.export.generator_spec import generator_spec
from posewarp.export.to_onnx import to_onnx
from posewarp.models import checkpoint
from posewarp.models.config import GeneratorConfig
from posewarp.runtime.session import Session

NETWORKS = ["demo", "small", "deepfashion"]
DEMO = Path(__file__).parents[2] / "models" / "demo" / "small.safetensors"
BATCHES = (1, 2, 3, 8)


@pytest.fixture
def network(request, random_generator):
    """The trained demo network, or a preset with random weights."""
    if request.param == "demo":
        return checkpoint.load(DEMO).generator
    return random_generator(GeneratorConfig.preset(request.param))


def batch_of(spec, size):
    """The spec's two examples, mixed in other proportions for each element: different, and as smooth."""
    share = torch.linspace(0, 1, size)
    mixed = []
    for first, second in spec.example_inputs:
        weight = share.view(-1, *[1] * first.ndim)
        value = (1 - weight) * first + weight * second
        mixed.append(value.round().to(first.dtype) if first.dtype == torch.uint8 else value.contiguous())
    return tuple(mixed)


def run(session, spec, inputs):
    feeds = {name: value.numpy() for name, value in zip(spec.input_names, inputs, strict=True)}
    return session.run(feeds)["generated"]


@pytest.mark.slow
@pytest.mark.parametrize("warp", ["portable", "gridsample", "gather"])
@pytest.mark.parametrize("network", NETWORKS, indirect=True)
def test_the_tensors_contract_is_pytorch_and_as_near_to_float64(network, warp, tmp_path):
    spec = generator_spec(network, io="tensors")
    to_onnx(spec, tmp_path / "model.onnx", warp=warp)
    exact_network = copy.deepcopy(network).double()
    with Session.open(tmp_path / "model.onnx") as session, torch.no_grad():
        for size in BATCHES:
            inputs = batch_of(spec, size)
            found, expected = run(session, spec, inputs), network(*inputs).numpy()
            p999, largest = difference(found, expected)
            assert p999 <= P999_FP32, size
            assert largest <= MAX_FP32, size
            if size <= 2:  # float64 takes ten times as long
                exact = exact_network(*(value.double() for value in inputs)).numpy()
                own, files = difference(expected, exact), difference(found, exact)
                assert all(f <= 2 * o for f, o in zip(files, own, strict=True)), (size, files, own)


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS, indirect=True)
def test_the_image_contract_is_pytorch_within_one_step(network, tmp_path):
    spec = generator_spec(network)
    to_onnx(spec, tmp_path / "model.onnx")
    with Session.open(tmp_path / "model.onnx") as session, torch.no_grad():
        for size in BATCHES:
            inputs = batch_of(spec, size)
            found, expected = run(session, spec, inputs), spec.module(*inputs)[0].numpy()
            assert np.abs(found.astype(int) - expected.astype(int)).max() <= MAX_UINT8_STEPS, size
