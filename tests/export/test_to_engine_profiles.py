"""Optimisation profiles: trtexec's grammar, defaults from the contract, refusals that name the input."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posewarp.export.engines.profiles import KINDS, Shapes, format_shapes, make_profiles, parse_shapes
from posewarp.runtime.contract import Contract, TensorSpec
from posewarp.runtime.errors import ContractError

PICTURE = TensorSpec("picture", "float32", ("batch", 3, "height", "width"))
POINTS = TensorSpec("points", "float32", ("batch", 18, 2))
SIZES = {"height": 256, "width": 176, "size_multiple": 4, "minimum": {"height": 16}}
OURS = Contract("tensors", (PICTURE, POINTS), (), SIZES)


def test_the_default_follows_the_contract():
    assert make_profiles(OURS, Shapes()) == [
        {
            "picture": {"min": (1, 3, 128, 88), "opt": (1, 3, 256, 176), "max": (8, 3, 256, 176)},
            "points": {"min": (1, 18, 2), "opt": (1, 18, 2), "max": (8, 18, 2)},
        }
    ]


def test_a_model_of_fixed_sizes_has_no_profile():
    fixed = Contract("custom", (TensorSpec("x", "float32", (1, 3, 8, 8)),), ())
    assert make_profiles(fixed, Shapes()) == []
    assert make_profiles(fixed, Shapes(opt=["x:1x3x8x8"])) == []


def test_a_dynamic_axis_of_unknown_size_is_named():
    foreign = Contract("custom", (TensorSpec("x", "float32", ("batch", 3, "h", 8)),), ())
    with pytest.raises(
        ContractError, match=r"input x: .*\(batch, 3, h, 8\) is dynamic.*axis h is known.*--minShapes"
    ):
        make_profiles(foreign, Shapes())


def test_opt_alone_stands_for_all_three():
    (profile,) = make_profiles(OURS, Shapes(opt=["picture:2x3x64x64,points:2x18x2"]))
    assert set(profile["picture"].values()) == {(2, 3, 64, 64)}


def test_a_missing_opt_lies_between_min_and_max():
    """Case D23: min 1000, max 1200 once gave opt 1600."""
    (profile,) = make_profiles(
        OURS, Shapes(["picture:1x3x1000x1000,points:1x18x2"], (), ["picture:2x3x1200x1200,points:2x18x2"])
    )
    assert profile["picture"]["opt"] == (1, 3, 1000, 1000)
    foreign = Contract("custom", (TensorSpec("x", "float32", ("h",)),), ())
    (profile,) = make_profiles(foreign, Shapes(["x:1000"], (), ["x:1200"]))
    assert profile["x"]["opt"] == (1200,)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (
            Shapes(["picture:4x3x64x64,points:1x18x2"], (), ["picture:2x3x64x64,points:2x18x2"]),
            "input picture has (min|opt)",
        ),
        (
            Shapes(
                ["picture:1x3x64x64,points:1x18x2"],
                ["picture:4x3x64x64,points:4x18x2"],
                ["picture:2x3x64x64,points:2x18x2"],
            ),
            r"input picture has opt 4x3x64x64 above max 2x3x64x64",
        ),
        (
            Shapes(["picture:1x3x64x64"], (), ["picture:2x3x64x64"]),
            "input points: .* is dynamic, and --minShapes does not name it",
        ),
        (
            Shapes(["picture:1x3x64x64,points:1x18x2"], (), ["picture:2x3x64x64"]),
            "input points: .* is dynamic, and --maxShapes does not name it",
        ),
        (
            Shapes(
                ["picture:1x3x64x64,points:1x18x2"],
                ["picture:1x3x64x64"],
                ["picture:2x3x64x64,points:2x18x2"],
            ),
            "input points: .* is dynamic, and --optShapes does not name it",
        ),
        (
            Shapes(opt=["pictures:1x3x64x64"]),
            "--optShapes names input pictures; the model takes picture, points",
        ),
        (Shapes(opt=["picture:1x64x64,points:1x18x2"]), "gives input picture the shape 1x64x64"),
        (Shapes(opt=["picture:1x4x64x64,points:1x18x2"]), "gives input picture the shape 1x4x64x64"),
        (
            Shapes(opt=["picture:1x3x66x64,points:1x18x2"]),
            "height = 66 for input picture, .* a multiple of 4",
        ),
        (
            Shapes(opt=["picture:1x3x12x64,points:1x18x2"]),
            "height = 12 for input picture, expected at least 16",
        ),
        (Shapes(opt=["picture:0x3x64x64,points:0x18x2"]), "batch = 0 for input picture, expected at least 1"),
        (
            Shapes(opt=["picture:1x3x64x64,points:2x18x2"]),
            "batch = 2 for input points, but 1 for input picture",
        ),
        (Shapes(opt=["picture=1x3x64x64"]), "--optShapes has 'picture=1x3x64x64', expected name:1x3x256x176"),
        (Shapes(opt=["picture:1x3x-4x64"]), "--optShapes has"),
        (Shapes(opt=["picture:1x3x64x64"]), "input points: .* is dynamic, and --optShapes does not name it"),
        (Shapes(opt=["picture:1x3x64"]), "--optShapes gives input picture"),
        (Shapes(opt=[""]), "--optShapes has ''"),
        (Shapes(["garbage"]), "--minShapes has 'garbage', expected"),
        (Shapes(opt=["picture:1x3x4x4,picture:1x3x4x4"]), "names input picture twice"),
        (
            Shapes(["picture:1x3x64x64,points:1x18x2"]),
            "--minShapes 1 times, --optShapes 0 times, --maxShapes 0 times",
        ),
        (Shapes(["a:1", "b:1"], (), ["a:1"]), "--minShapes 2 times, .* --maxShapes 1 times"),
        (Shapes(["a:1"], ["a:1", "b:1"], ["a:1"]), "--optShapes 2 times"),
    ],
)
def test_what_cannot_be_is_refused_by_the_inputs_name(shapes, message):
    with pytest.raises(ContractError, match=message):
        make_profiles(OURS, shapes)


def test_each_repetition_is_a_profile():
    texts = ["picture:1x3x64x64,points:1x18x2", "picture:1x3x128x64,points:1x18x2"]
    profiles = make_profiles(OURS, Shapes(opt=texts))
    assert [profile["picture"]["opt"][2] for profile in profiles] == [64, 128]


def test_names_may_be_quoted_and_hold_colons():
    assert parse_shapes("'Input:0':1x2,b:,c:scalar", "--x") == {"Input:0": (1, 2), "b": (), "c": ()}


@given(
    st.dictionaries(
        st.text("abc:_/", min_size=1), st.lists(st.integers(0, 9999), max_size=5).map(tuple), min_size=1
    )
)
def test_what_is_printed_reads_back(shapes):
    profile = {name: dict.fromkeys(KINDS, shape) for name, shape in shapes.items()}
    assert parse_shapes(format_shapes(profile, "opt"), "--optShapes") == shapes
