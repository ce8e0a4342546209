"""GridSample out of standard operators that every runtime gets right: floor, clip and GatherND."""

from __future__ import annotations

from onnx import FunctionProto, parser

# Zeros outside are two rings of zeros around the map: from position -2 on, both neighbours lie in them, and
# beyond them is all the same. So both paddings are "clip the position, then interpolate", and nothing is read
# out of bounds: what an integer cast makes of NaN is clipped again.
_RINGS = {"zeros": 2, "border": 0}

_BILINEAR = """
    low = Floor (position)
    fraction = Sub (position, low)
    rest = Sub (one, fraction)
    right = Gather <axis: int = 2> (fraction, x_axis)
    down = Gather <axis: int = 2> (fraction, y_axis)
    left = Gather <axis: int = 2> (rest, x_axis)
    up = Gather <axis: int = 2> (rest, y_axis)

    low_whole = Cast <to: int = 7> (low)
    low_cell = Add (low_whole, rings)
    low_capped = Min (low_cell, last_cell)
    first = Max (low_capped, zero)
    next = Add (first, unit)
    second = Min (next, last_cell)
    x0 = Gather <axis: int = 2> (first, x_axis)
    y0 = Gather <axis: int = 2> (first, y_axis)
    x1 = Gather <axis: int = 2> (second, x_axis)
    y1 = Gather <axis: int = 2> (second, y_axis)
    row0 = Mul (y0, stride)
    row1 = Mul (y1, stride)

    index00 = Add (row0, x0)
    index01 = Add (row0, x1)
    index10 = Add (row1, x0)
    index11 = Add (row1, x1)
    value00 = GatherND <batch_dims: int = 1> (cells, index00)
    value01 = GatherND <batch_dims: int = 1> (cells, index01)
    value10 = GatherND <batch_dims: int = 1> (cells, index10)
    value11 = GatherND <batch_dims: int = 1> (cells, index11)
    weight00 = Mul (up, left)
    weight01 = Mul (up, right)
    weight10 = Mul (down, left)
    weight11 = Mul (down, right)
    part00 = Mul (value00, weight00)
    part01 = Mul (value01, weight01)
    part10 = Mul (value10, weight10)
    part11 = Mul (value11, weight11)
    upper = Add (part00, part01)
    lower = Add (part10, part11)
    sampled_points = Add (upper, lower)
"""

_NEAREST = """
    near = Round (position)
    near_whole = Cast <to: int = 7> (near)
    near_cell = Add (near_whole, rings)
    near_capped = Min (near_cell, last_cell)
    first = Max (near_capped, zero)
    x0 = Gather <axis: int = 2> (first, x_axis)
    y0 = Gather <axis: int = 2> (first, y_axis)
    row0 = Mul (y0, stride)
    index = Add (row0, x0)
    sampled_points = GatherND <batch_dims: int = 1> (cells, index)
"""


def gather_function(
    domain: str, name: str, mode: str, padding_mode: str, align_corners: int, opset: int
) -> FunctionProto:
    """A model-local function that samples as ``torch.nn.functional.grid_sample`` does, 4-D, any size.

    Inputs ``features`` (N, C, H, W) and ``grid`` (N, Ho, Wo, 2), fp32; output (N, C, Ho, Wo) in the type of
    ``features``. Equal to grid_sample for finite positions, to rounding; huge ones count as outside.

    Args:
        domain, name: of the function.
        mode: ``bilinear`` or ``nearest`` (ties to the even pixel, as torch rounds).
        padding_mode: ``zeros`` or ``border``.
        align_corners: 1 or 0.
        opset: of its body, 16 or later.
    """
    rings = _RINGS[padding_mode]
    interpolate = {"bilinear": _BILINEAR, "nearest": _NEAREST}[mode]
    # -1 and 1 are the centres of the outer pixels, or their outer edges.
    to_pixels = (
        "span = Mul (last, half)\n pixel = Mul (shifted, span)"
        if align_corners
        else "span = Mul (extent, half)\n scaled = Mul (shifted, span)\n pixel = Sub (scaled, half)"
    )
    return parser.parse_function(f"""
    <domain: "{domain}", opset_import: ["" : {opset}]>
    {name} (features, grid) => (sampled)
    {{
    zero = Constant <value_int: int = 0> ()
    unit = Constant <value_int: int = 1> ()
    x_axis = Constant <value_ints: ints = [0]> ()
    y_axis = Constant <value_ints: ints = [1]> ()
    pair = Constant <value_ints: ints = [2]> ()
    one = Constant <value_float: float = 1.0> ()
    half = Constant <value_float: float = 0.5> ()
    rings = Constant <value_int: int = {rings}> ()
    both_rings = Constant <value_int: int = {2 * rings}> ()
    float_rings = Constant <value_float: float = {float(rings)}> ()
    minus_rings = Constant <value_float: float = -{float(rings)}> ()
    width_height = Constant <value_ints: ints = [3, 2]> ()
    pads = Constant <value_ints: ints = [0, 0, {rings}, {rings}, 0, 0, {rings}, {rings}]> ()

    wide = CastLike (features, grid)
    ringed = Pad (wide, pads)
    batch_channels = Shape <start: int = 0, end: int = 2> (features)
    ringed_size = Shape <start: int = 2> (ringed)
    cell_count = ReduceProd <keepdims: int = 1> (ringed_size)
    flat_shape = Concat <axis: int = 0> (batch_channels, cell_count)
    flat = Reshape (ringed, flat_shape)
    cells = Transpose <perm: ints = [0, 2, 1]> (flat)

    out_size = Shape <start: int = 1, end: int = 3> (grid)
    batch = Shape <start: int = 0, end: int = 1> (grid)
    point_count = ReduceProd <keepdims: int = 1> (out_size)
    points_shape = Concat <axis: int = 0> (batch, point_count, pair)
    points = Reshape (grid, points_shape)

    shape = Shape (features)
    size = Gather <axis: int = 0> (shape, width_height)
    extent = CastLike (size, grid)
    last = Sub (extent, one)
    shifted = Add (points, one)
    {to_pixels}
    highest = Add (last, float_rings)
    capped = Min (pixel, highest)
    position = Max (capped, minus_rings)

    ringed_extent = Add (size, both_rings)
    last_cell = Sub (ringed_extent, unit)
    stride = Gather <axis: int = 0> (ringed_extent, x_axis)
    {interpolate}
    channels_first = Transpose <perm: ints = [0, 2, 1]> (sampled_points)
    out_shape = Concat <axis: int = 0> (batch_channels, out_size)
    read = Reshape (channels_first, out_shape)
    sampled = CastLike (read, features)
    }}
    """)
