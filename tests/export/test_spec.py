import re

import pytest
import torch
from torch import nn

from posewarp.export.spec import ExportSpec, load_spec
from posewarp.runtime.errors import ExportError

AXES = {0: "batch", 2: "height"}


def make(**changes):
    values = {
        "module": nn.Identity(),
        "example_inputs": (torch.rand(2, 3, 8),),
        "input_names": ("image",),
        "output_names": ("result",),
        "dynamic_axes": {"image": AXES, "result": AXES},
    }
    return ExportSpec(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_names": ("a", "b")}, "1 example inputs, but 2 input names (a, b)"),
        ({"output_names": ("image",)}, "the name 'image' is given to more than one tensor"),
        ({"dynamic_axes": {"picture": AXES}}, "dynamic_axes names 'picture', which is no input or output"),
        ({"dynamic_axes": {"image": {0: "N/2"}}}, "the dynamic axis 'N/2' needs a plain name"),
        ({"dynamic_axes": {"image": {3: "width"}}}, "gives image an axis 3; its shape is (2, 3, 8)"),
        ({"dynamic_axes": {"result": {0: "batch"}}}, "axis 'batch' is on an output, but on no input"),
        ({"multiple_of": {"width": 4}}, "multiple_of names 'width', which is no dynamic axis"),
        ({"multiple_of": {"height": 3}}, "height = 8 on its dynamic axis 2, expected a multiple of 3"),
        ({"example_inputs": ([1.0],)}, "example input image is a list, expected a torch.Tensor"),
        (
            {"example_inputs": (torch.rand(2, 3, 8).double(),)},
            "example input image is torch.float64, expected torch.float32: pass image.float()",
        ),
        (
            {"example_inputs": (torch.rand(1, 3, 8),)},
            "batch = 1 on its dynamic axis 0, expected a multiple of 1 and at least 2",
        ),
        (
            {"example_inputs": (torch.rand(2, 3, 8),) * 2, "input_names": ("image", "flow"),
             "dynamic_axes": {"image": {2: "size"}, "flow": {1: "size"}}},
            "example input flow has size = 3, another has 8",
        ),
    ],
)  # fmt: skip
def test_a_spec_that_does_not_fit_together_is_refused(changes, message):
    with pytest.raises(ExportError, match=re.escape(message)):
        make(**changes)


def test_inputs_are_brought_to_other_sizes_in_their_own_type():
    image = torch.arange(2 * 3 * 4, dtype=torch.uint8).reshape(2, 3, 4)
    spec = make(example_inputs=(image,), dynamic_axes={"image": {0: "batch", 2: "width"}})
    (one,) = spec.at_sizes({"batch": 1})
    (three,) = spec.at_sizes({"batch": 3})
    (wide,) = spec.at_sizes({"width": 6})
    assert torch.equal(one, image[:1])
    assert torch.equal(three[:2], image)
    assert torch.equal(three[2], image[0].flip(-1))
    assert wide[0, 0].tolist() == [0, 0, 1, 2, 2, 3]
    assert wide.dtype == torch.uint8


SPEC = """
import torch
from neighbour import SIZE
from posewarp.export.spec import ExportSpec

def make(checkpoint=None):
    metadata = {"from": str(checkpoint)}
    return ExportSpec(torch.nn.Identity(), (torch.rand(2, SIZE),), ("x",), ("y",), metadata=metadata)

def broken():
    raise KeyError("no such weights")

def wrong():
    return torch.nn.Identity()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "user_spec.py").write_text(SPEC)
    (tmp_path / "neighbour.py").write_text("SIZE = 5")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("user_spec", "neighbour"):
        __import__("sys").modules.pop(name, None)


@pytest.mark.parametrize("place", ["user_spec:make", "user_spec.py:make", "{folder}/user_spec.py:make"])
def test_a_users_function_is_found_by_module_or_by_file(place, folder):
    spec = load_spec(place.format(folder=folder))
    assert spec.example_inputs[0].shape == (2, 5)
    assert spec.metadata == {"from": "None"}


def test_a_users_function_gets_the_checkpoint(folder):
    assert load_spec("user_spec:make", folder / "a.pt").metadata == {"from": str(folder / "a.pt")}


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("user_spec", "expected package.module:function or path/to/file.py:function"),
        ("no_such_module:make", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("no_such_file.py:make", "no_such_file.py does not exist"),
        (
            "user_spec:no_such_function",
            "AttributeError: module 'user_spec' has no attribute 'no_such_function'",
        ),
        ("user_spec:broken", "KeyError: 'no such weights'"),
        ("user_spec:wrong", "returned a Identity, expected an ExportSpec"),
    ],
)
def test_a_users_function_that_fails_is_named(place, message, folder):
    with pytest.raises(ExportError, match=re.escape(message)):
        load_spec(place)
