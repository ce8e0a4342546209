import pytest
import torch
from torch import nn

from posewarp.export.capture.prepare import TensorModule, detached_copy, fold_norms
from posewarp.export.generator_spec import generator_spec
from posewarp.runtime.errors import ExportError


def test_folding_changes_nothing(tiny_generator):
    spec = generator_spec(tiny_generator, io="tensors")
    module = detached_copy(spec.module)
    with torch.no_grad():
        before = module(*spec.example_inputs)
        after = fold_norms(module)(*spec.example_inputs)
    for first, second in zip(before, after, strict=True):
        assert (first - second).abs().max() <= 1e-6 * first.abs().max()
    assert not any(nn.utils.parametrize.is_parametrized(part) for part in module.modules())


def test_folding_a_copy_leaves_the_original_parametrized(tiny_generator):
    fold_norms(detached_copy(tiny_generator))
    assert nn.utils.parametrize.is_parametrized(tiny_generator.decoder.to_image, "weight")
    assert tiny_generator.decoder.to_image.weight.isfinite().all()


def test_a_copy_is_in_eval_mode_whatever_the_original_is():
    module = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(3)).train()
    copied = detached_copy(module)
    assert not any(part.training for part in copied.modules())
    assert all(part.training for part in module.modules())
    assert not any(parameter.requires_grad for parameter in copied.parameters())


class Nested(nn.Module):
    def forward(self, x):
        return {"a": x, "b": (2 * x, [3 * x])}


def test_outputs_are_flattened_in_order():
    outputs = TensorModule(Nested(), 3)(torch.ones(1))
    assert [value.item() for value in outputs] == [1, 2, 3]


def test_another_number_of_outputs_is_refused():
    with pytest.raises(ExportError, match="the module returned 3 values; expected 2 tensors"):
        TensorModule(Nested(), 2)(torch.ones(1))
