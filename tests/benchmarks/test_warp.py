"""The warp benchmark: it validates before it times, times in turn, keeps the rows that lose."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from posewarp.benchmarks import warp
from posewarp.benchmarks.large_warps import large_warps, large_warps_feeds
from posewarp.benchmarks.warp import CALLS_PER_ROUND, Row, Timing
from posewarp.runtime import plugin_library
from posewarp.runtime.errors import ParityError

SHAPE = (2, 5, 13, 9)


@pytest.fixture(autouse=True)
def library():
    assert plugin_library.find("cpu") is not None, "run `make plugins` first"


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("dtype", warp.DTYPES)
@pytest.mark.parametrize("grid", warp.GRIDS)
def test_a_row_has_every_column(grid, dtype, align_corners):
    row = warp.measure(SHAPE, grid, dtype, align_corners, threads=1, rounds=1)
    assert set(row.timings) == set(warp.COLUMNS.values())
    assert all(0 < timing.median_ms <= timing.p90_ms for timing in row.timings.values())


@pytest.mark.parametrize("dtype", warp.DTYPES)
def test_wrong_result_is_not_timed(monkeypatch, dtype):
    sample = plugin_library.grid_sample

    def off_by_little(*arrays, out, **options):
        sample(*arrays, out=out, **options)
        out[..., 0, 0] += 0.01

    monkeypatch.setattr(plugin_library, "grid_sample", off_by_little)
    monkeypatch.setattr(warp, "time_in_turn", lambda *_: pytest.fail("was timed"))
    with pytest.raises(ParityError, match=rf"core, smooth {dtype} \(2, 5, 13, 9\) differs from PyTorch by"):
        warp.measure(SHAPE, "smooth", dtype, True, threads=1, rounds=1)


def test_columns_are_timed_in_turn():
    order = []
    timings = warp.time_in_turn({name: lambda name=name: order.append(name) for name in "ab"}, rounds=2)
    calls = 1 + CALLS_PER_ROUND  # the first of a turn is not timed
    assert "".join(order) == ("a" * calls + "b" * calls) * 2
    assert set(timings) == {"a", "b"}


def row_of(shape=warp.SHAPES[0], grid="smooth", dtype="float32", **milliseconds) -> Row:
    columns = {"core": 1.0, "adapter": 1.0, "onnxruntime": 15.0, "pytorch": 5.0, "copy": 0.25, **milliseconds}
    return Row(shape, grid, dtype, True, {name: Timing(ms, ms) for name, ms in columns.items()})


def test_promises_are_judged_where_they_were_made():
    over_onnxruntime, over_pytorch, over_copy = warp.RATIOS.values()
    assert row_of().missed == set()
    assert row_of(onnxruntime=14.0).missed == {over_onnxruntime}
    assert row_of(core=1.1).missed == {over_onnxruntime, over_pytorch, over_copy}
    assert row_of(warp.SHAPES[3], copy=0.1).missed == set()
    assert row_of(grid="random", core=9.0).missed == row_of(dtype="float16", core=9.0).missed == set()


def test_smooth_grid_moves_by_a_few_pixels_and_stays_smooth():
    grid = warp.make_grid("smooth", 2, 40, 30, np.random.default_rng(0))  # (2, 40, 30, 2)
    x = (grid[..., 0] + 1) * 29 / 2
    assert 0.9 * warp.FLOW_PX < np.abs(x - np.arange(30)).max() <= warp.FLOW_PX + 1e-3
    assert np.abs(np.diff(x, axis=1)).max() < 2
    assert not np.array_equal(grid[0], grid[1])


def test_network_of_large_warps_gives_the_same_with_and_without(tmp_path):
    onnx.save(large_warps(True, 32), tmp_path / "large_warps.onnx")
    feeds = large_warps_feeds(32, batch=2)
    timings = warp.measure_model(tmp_path / "large_warps.onnx", feeds, threads=1, rounds=1)
    assert set(timings) == {"with", "without"}


def test_command_writes_rows_networks_and_machine(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(warp, "SHAPES", (SHAPE,))
    monkeypatch.setattr(warp, "large_warps", lambda align_corners: large_warps(align_corners, 32))
    monkeypatch.setattr(warp, "large_warps_feeds", lambda: large_warps_feeds(32))
    warp.warp(threads=1, rounds=1, json_path=tmp_path / "warp.json")
    report = json.loads((tmp_path / "warp.json").read_text())
    assert [(row["align_corners"], row["dtype"], row["grid"]) for row in report["rows"]] == [
        (align, dtype, grid) for align in (True, False) for dtype in warp.DTYPES for grid in warp.GRIDS
    ]
    assert report["machine"]["threads"] == 1
    assert report["machine"]["library_sha256"] == plugin_library.load().sha256
    assert list(report["networks"]) == ["large warps, align_corners 1", "large warps, align_corners 0"]
    said = capsys.readouterr().out
    assert "2x5x13x9" in said
    assert "not measured" in said


@pytest.mark.slow
@pytest.mark.parametrize(("align_corners", "most"), [(True, 0.8), (False, 1.1)])
def test_network_of_large_warps_is_faster_with_the_library(tmp_path, align_corners, most):
    # Without aligned corners ONNX Runtime's own way is fast too: there it must only not become slower.
    onnx.save(large_warps(align_corners), path := tmp_path / "large_warps.onnx")
    timings = warp.measure_model(path, large_warps_feeds(), threads=1, rounds=5)
    assert timings["with"].median_ms < most * timings["without"].median_ms
