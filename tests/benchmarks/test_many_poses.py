"""Poses of one source, timed: what is compared first, what the figures are made of, and what is printed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from typer.testing import CliRunner

from posewarp.benchmarks import many_poses
from posewarp.runtime.errors import ParityError
from posewarp.runtime.split_session import SplitSession

RESULT = {
    "model": "model.onnx", "poses": 16, "gain": 1.5, "low": 1.4, "high": 1.6,
    "predicted_by_time": 1.5, "predicted_by_operations": 1.61, "files": ["whole.onnx", "one.onnx", "other.onnx"],
}  # fmt: skip


@pytest.fixture
def model(tmp_path):
    """out = two layers of a picture a, times a pose b."""
    graph = parser.parse_model("""<ir_version: 10, opset_import: ["": 18]>
        g (float[N, 2, 32, 32] a, float[N, 2, 32, 32] b) => (float[N, 2, 32, 32] out) {
            first = Conv <kernel_shape: ints = [3, 3], pads: ints = [1, 1, 1, 1]> (a, weight)
            second = Conv <kernel_shape: ints = [3, 3], pads: ints = [1, 1, 1, 1]> (first, weight)
            out = Mul (second, b)
        }""")
    weight = np.random.default_rng(0).normal(size=(2, 2, 3, 3)).astype(np.float32)
    graph.graph.initializer.append(numpy_helper.from_array(weight, "weight"))
    onnx.save(graph, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


class Spy(SplitSession):
    """Notes how often features were made, and the seeds of what it was run on."""

    opened: Spy

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        type(self).opened, self.seen = self, []

    def run(self, feeds):
        self.seen.append(feeds)
        return super().run(feeds)


def test_each_round_makes_the_features_of_its_one_source_anew(model, monkeypatch):
    monkeypatch.setattr(many_poses, "SplitSession", Spy)
    result = many_poses.measure(model, ["a"], "random", poses=3, rounds=4)
    assert len(result["whole_ms"]) == len(result["parts_ms"]) == 4
    assert Spy.opened.cache.state.misses == 1 + 4  # once to compare, once a round
    seen = Spy.opened.seen
    assert len(seen) == 3 + 4 * 3
    assert all(np.array_equal(each["a"], seen[0]["a"]) for each in seen)
    assert len({each["b"].tobytes() for each in seen}) > 1


def test_the_figures_are_the_gain_its_interval_and_what_split_predicted(model, monkeypatch):
    reports = []
    real = many_poses.split
    monkeypatch.setattr(many_poses, "split", lambda *a, **k: reports.append(real(*a, **k)) or reports[0])
    result = many_poses.measure(model, ["a"], "random", poses=2, rounds=4)
    assert 0 < result["low"] <= result["gain"] <= result["high"]
    assert result["gain"] == pytest.approx(np.median(result["whole_ms"]) / np.median(result["parts_ms"]))
    # Both layers, 2 x 2 x 2 x 9 operations a pixel and their bias, beside one product.
    assert 1.9 < result["predicted_by_operations"] < 2
    assert result["predicted_by_time"] == reports[0].times_ms.times(2)
    assert (result["model"], result["poses"]) == ("model.onnx", 2)
    json.dumps(result)


def test_parts_that_give_other_outputs_are_refused_before_anything_is_timed(model, monkeypatch):
    class Wrong(Spy):
        def run(self, feeds):
            results = super().run(feeds)
            return {"out": results["out"] + (0.1 if len(self.seen) == 2 else 0)}

    monkeypatch.setattr(many_poses, "SplitSession", Wrong)
    with pytest.raises(ParityError, match=r"output out of the parts differs from the whole's by 0\.1"):
        many_poses.measure(model, ["a"], "random", poses=4, rounds=4)
    assert len(Wrong.opened.seen) == 2


def test_with_the_backend_cpu_what_has_a_faster_form_is_built_and_timed(model, monkeypatch):
    monkeypatch.setattr(many_poses, "SplitSession", Spy)
    built, real = {}, many_poses.to_cpu

    def build(file, output, data):
        report = real(file, output, data=data)
        built[Path(file).name] = (report.narrow, Path(data).name)
        return report

    monkeypatch.setattr(many_poses, "to_cpu", build)
    timed, gain = [], many_poses.time_parts
    monkeypatch.setattr(many_poses, "time_parts", lambda *a: timed.append((a, gain(*a))) or timed[-1][1])
    result = many_poses.measure(model, ["a"], "random", poses=3, rounds=4, backend="cpu")
    assert result["files"] == [
        "model.cpu.onnx",
        "model.source.cpu.onnx",
        "model.pose.onnx",
    ]  # no layer in the last
    assert built == {"model.onnx": (2, "random"), "model.source.onnx": (2, "model.source.npz")}
    (((whole, source, pose, _), predicted),) = timed
    assert [whole.path.name, source.path.name, pose.path.name] == result["files"]
    assert result["predicted_by_time"] == predicted.times(3)
    assert len(result["whole_ms"]) == len(result["parts_ms"]) == 4
    assert list(model.parent.iterdir()) == [model]


def test_without_a_backend_the_files_are_run_as_they_are(model):
    result = many_poses.measure(model, ["a"], "random", poses=2, rounds=4)
    assert result["files"] == ["model.onnx", "model.source.onnx", "model.pose.onnx"]


def test_the_command_takes_a_backend(monkeypatch, model):
    seen = []
    monkeypatch.setattr(many_poses, "measure", lambda *arguments: seen.append(arguments[-1]) or RESULT)
    arguments = [str(model), "--by", "a"]
    assert CliRunner().invoke(many_poses.app, [*arguments, "--backend", "cpu"]).exit_code == 0
    assert CliRunner().invoke(many_poses.app, arguments).exit_code == 0
    assert seen == ["cpu", None]
    assert CliRunner().invoke(many_poses.app, [*arguments, "--backend", "rtx"]).exit_code == 2


@pytest.mark.parametrize(("predicted", "said"), [(1.5, "inside"), (1.7, "outside")])
def test_the_prediction_is_printed_beside_the_interval(tmp_path, monkeypatch, predicted, said):
    result = {**RESULT, "predicted_by_time": predicted}
    monkeypatch.setattr(many_poses, "measure", lambda *_: result)
    report = tmp_path / "out.json"
    done = CliRunner().invoke(many_poses.app, ["model.onnx", "--by", "a", "--json", str(report)])
    assert done.exit_code == 0
    assert "16 poses of one source 1.50x (1.40 to 1.60, paired 95 %)" in done.output
    assert f"predicted by time {predicted:.2f}x: {said}; by operations 1.61x" in done.output
    assert "run: whole.onnx, one.onnx, other.onnx" in done.output
    assert json.loads(report.read_text()) == result
