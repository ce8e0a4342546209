"""The presets in full, at batches 1, 2, 3 and 8, in every spelling, against PyTorch and against float64."""

import copy

import numpy as np
import pytest
import torch

from posewarp.export.generator_spec import generator_spec
from posewarp.export.parity import MAX_FP32, MAX_UINT8_STEPS, P999_FP32, difference
from posewarp.export.to_onnx import to_onnx
from posewarp.models.config import GeneratorConfig
from posewarp.runtime.session import Session

PRESETS = ["small", "deepfashion"]
BATCHES = (1, 2, 3, 8)


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
@pytest.mark.parametrize("preset", PRESETS)
def test_the_tensors_contract_is_pytorch_and_as_near_to_float64(preset, warp, random_generator, tmp_path):
    generator = random_generator(GeneratorConfig.preset(preset))
    spec = generator_spec(generator, io="tensors")
    to_onnx(spec, tmp_path / "model.onnx", warp=warp)
    exact_generator = copy.deepcopy(generator).double()
    with Session.open(tmp_path / "model.onnx") as session, torch.no_grad():
        for size in BATCHES:
            inputs = batch_of(spec, size)
            found, expected = run(session, spec, inputs), generator(*inputs).numpy()
            p999, largest = difference(found, expected)
            assert p999 <= P999_FP32, size
            assert largest <= MAX_FP32, size
            if size <= 2:  # float64 takes ten times as long
                exact = exact_generator(*(value.double() for value in inputs)).numpy()
                own, files = difference(expected, exact), difference(found, exact)
                assert all(f <= 2 * o for f, o in zip(files, own, strict=True)), (size, files, own)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_the_image_contract_is_pytorch_within_one_step(preset, random_generator, tmp_path):
    spec = generator_spec(random_generator(GeneratorConfig.preset(preset)))
    to_onnx(spec, tmp_path / "model.onnx")
    with Session.open(tmp_path / "model.onnx") as session, torch.no_grad():
        for size in BATCHES:
            inputs = batch_of(spec, size)
            found, expected = run(session, spec, inputs), spec.module(*inputs)[0].numpy()
            assert np.abs(found.astype(int) - expected.astype(int)).max() <= MAX_UINT8_STEPS, size
            assert expected.std() > 0.3 * 127.5
