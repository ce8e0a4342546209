"""Whole networks with the operator: its warps take it, and the pictures stay the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from posewarp import models
from posewarp.benchmarks.large_warps import large_warps, large_warps_feeds
from posewarp.benchmarks.warp import measure_model
from posewarp.export.generator_spec import generator_spec
from posewarp.export.graphs.warps import find_warps, rewrite_warps
from posewarp.export.to_onnx import to_onnx
from posewarp.models.config import GeneratorConfig
from posewarp.models.data.synthetic import SyntheticPeople
from posewarp.runtime import plugin_library
from posewarp.runtime.session import Session

DEMO = Path(models.__file__).parent / "demo" / "small.safetensors"


@pytest.fixture(scope="module", autouse=True)
def library() -> Path:
    found = plugin_library.find("cpu")
    assert found is not None, "run `make plugins` first"
    return found


def people_feeds(height: int, width: int, count: int) -> dict[str, np.ndarray]:
    people = SyntheticPeople(height, width, split="test")
    names = ("source_image", "source_keypoints", "target_keypoints")
    return {name: np.stack([getattr(people[i], name) for i in range(count)]) for name in names}


def warps_executed(path: Path, feeds, monkeypatch, **options) -> list[str]:
    """The warping operators that a user's session ran, from ONNX Runtime's profile."""
    plain = onnxruntime.SessionOptions

    def profiled() -> onnxruntime.SessionOptions:
        settings = plain()
        settings.enable_profiling = True
        settings.profile_file_prefix = str(path.with_suffix(""))
        return settings

    with monkeypatch.context() as patch:
        patch.setattr(onnxruntime, "SessionOptions", profiled)
        session = Session.open(path, **options)
    session.run(feeds)
    events = json.loads(Path(session.backend._session.end_profiling()).read_text())
    ran = [event["args"]["op_name"] for event in events if event["name"].endswith("_kernel_time")]
    return [op for op in ran if op in ("MixedGridSample", "GridSample")]


@pytest.fixture(scope="module")
def network(random_generator, tmp_path_factory) -> Path:
    """A small network with random weights and flows of several pixels, picture and keypoints in, picture out."""
    generator = random_generator(
        GeneratorConfig(height=32, width=24, base_width=8, blocks=2, heatmap_sigma_px=3.0)
    )
    path = tmp_path_factory.mktemp("network") / "network.onnx"
    to_onnx(generator_spec(generator, io="image"), path)
    return path


def assert_same_pictures(path: Path, feeds, library: Path) -> None:
    with Session.open(path, plugins=[library]) as ours, Session.open(path, plugins=()) as plain:
        flow = plain.contract.settings["flow"]
        got, expected = ours.run(feeds)["generated"], plain.run(feeds)["generated"]
    assert got.dtype == np.uint8
    # Sums in another order can turn a level that lies between two; more than one step, or many, would be another warp.
    difference = np.abs(got.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3
    with (
        Session.open(path, plugins=[library], extra_outputs=[flow]) as ours,
        Session.open(path, plugins=(), extra_outputs=[flow]) as plain,
    ):
        np.testing.assert_allclose(ours.run(feeds)[flow], plain.run(feeds)[flow], atol=1e-4)


def test_every_warp_of_a_network_takes_the_operator(network, library, monkeypatch):
    warps = len(find_warps(onnx.load(network)))
    assert warps >= 3
    feeds = people_feeds(32, 24, 1)
    assert warps_executed(network, feeds, monkeypatch, plugins=[library]) == ["MixedGridSample"] * warps
    assert warps_executed(network, feeds, monkeypatch, plugins=()) == ["GridSample"] * warps


def test_pictures_are_the_same_with_and_without(network, library):
    assert_same_pictures(network, people_feeds(32, 24, 3), library)


def test_plugin_spelling_gives_what_the_portable_one_gives(network, library, tmp_path):
    onnx.save(rewrite_warps(onnx.load(network), "plugin"), tmp_path / "plugin.onnx")
    feeds = people_feeds(32, 24, 2)
    results = [
        Session.open(path, plugins=[library]).run(feeds)["generated"]
        for path in (network, tmp_path / "plugin.onnx")
    ]
    np.testing.assert_array_equal(*results)


def test_network_of_large_warps_takes_the_operator(library, tmp_path, monkeypatch):
    onnx.save(large_warps(True, 32), path := tmp_path / "large_warps.onnx")
    feeds = large_warps_feeds(32)
    assert warps_executed(path, feeds, monkeypatch, plugins=[library]) == ["MixedGridSample"] * 3


@pytest.mark.slow
def test_demo_gives_the_same_pictures_no_slower(library, tmp_path, monkeypatch):
    to_onnx(DEMO, path := tmp_path / "demo.onnx")
    assert_same_pictures(path, people_feeds(128, 64, 8), library)
    one = people_feeds(128, 64, 1)
    assert warps_executed(path, one, monkeypatch, plugins=[library]) == ["MixedGridSample"] * 3
    timings = measure_model(path, one, threads=2, rounds=15)
    # A tenth for a busy machine; two thread pools that fight cost far more.
    assert timings["with"].median_ms < 1.1 * timings["without"].median_ms
