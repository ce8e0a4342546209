"""latency.py: wrong contenders are refused, ends of workers are rows, a slowed one is caught, a run is resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from posewarp.benchmarks import latency as command
from posewarp.benchmarks.harness import contenders, networks, report, results
from posewarp.benchmarks.harness.contenders import BASELINE, Contender, contenders_of, own_contender
from posewarp.benchmarks.harness.heats import Pace
from posewarp.benchmarks.harness.limits import measure_work
from posewarp.benchmarks.harness.networks import find_networks
from posewarp.benchmarks.harness.results import Row, Run, compare
from posewarp.benchmarks.harness.runners import ProviderRunner, torch_eager
from posewarp.benchmarks.harness.statistics import Ratio
from posewarp.benchmarks.harness.worker import Job
from posewarp.models import checkpoint
from posewarp.models.config import GeneratorConfig
from posewarp.runtime.errors import DataError, ParityError
from posewarp.runtime.session import Session

STUBS = Path(__file__).with_name("latency_stubs.py")
PACE = Pace(rounds=3, turn_s=0.05, heat_s=60.0)
MACHINE = {"cpu": "test", "cpus_allowed": 2, "memory_gib": 1, "system": "test", "gpu": "no CUDA driver"}
AROUND = {"commit": "0", "python": "3", "load_1min": 0.0, "versions": {"numpy": "2"}}
SETTINGS = {"rounds": 3, "turn_s": 0.05, "threads": 1, "data": "random"}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A convolution (batch, 3, 8, 6) -> (batch, 4, 8, 6), as a file that is not ours."""
    weight = numpy_helper.from_array(np.full((4, 3, 3, 3), 0.1, np.float32), "weight")
    node = helper.make_node("Conv", ["x", "weight"], ["y"], pads=[1] * 4)
    sides = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", channels, 8, 6])
        for name, channels in (("x", 3), ("y", 4))
    ]
    graph = helper.make_graph([node], "small", sides[:1], sides[1:], [weight])
    path = tmp_path_factory.mktemp("latency") / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def network(small):
    return find_networks([str(small)], small.parent, "random")[0]


def stubs(network, *names):
    baseline = next(each for each in contenders_of(network, full=False) if each.label == BASELINE)
    return [baseline, *(own_contender(f"{name}={STUBS}:{name}", network) for name in names)]


def measured(network, chosen, run=None, batches=(1,)):
    run = run or Run(MACHINE, AROUND, SETTINGS)
    command.latency(
        [network],
        lambda network: chosen,
        run,
        batches=batches,
        callers=(1,),
        threads=1,
        pace=PACE,
        data="random",
    )
    return run


@pytest.fixture(scope="module")
def run(network):
    missing = Contender("on a GPU", "none:none", "", Job(device="cuda"), "no CUDA driver")
    chosen = stubs(network, "sleeper", "wrong", "nan", "misshapen", "fails_to_open", "crashes")
    return measured(network, [*chosen, missing])


def row_of(run, name):
    return next(row for row in run.rows if row.contender == name)


def test_right_contenders_are_measured(run):
    baseline, stub = row_of(run, BASELINE), row_of(run, "sleeper")
    for row in (baseline, stub):
        assert row.status == "measured"
        assert 0 < row.median_ms <= row.p90_ms <= row.p95_ms <= row.p99_ms
        assert len(row.rounds_ms) == PACE.rounds
        assert row.peak_mib > 10
    assert stub.median_ms >= 20
    assert stub.per_second <= 50
    assert stub.load_s >= 0.3
    assert stub.first_run_ms >= 300
    assert stub.speedup.low <= stub.speedup.value <= stub.speedup.high < 1
    assert baseline.speedup == Ratio(1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("wrong", "wrong", "output y: p99.9 0.01, max 0.01"),
        ("nan", "wrong", "192 of 192 values are NaN"),
        ("misshapen", "wrong", "output y is (1, 4, 8, 5), expected (1, 4, 8, 6)"),
        ("fails_to_open", "failed", "the stub does not open; open another"),
        ("crashes", "failed", "SIGSEGV"),
        ("on a GPU, cuda fp32", "not measured", "no CUDA driver"),
    ],
)
def test_what_was_not_timed_is_a_row_with_a_reason(run, name, status, reason):
    row = row_of(run, name)
    assert row.status == status
    assert reason in row.reason
    assert "\n" not in row.reason
    assert row.median_ms is row.per_second is row.speedup is None


def test_share_is_of_the_limit_by_the_machines_rates(run):
    row = row_of(run, "sleeper")
    assert row.gflop == pytest.approx(2 * 27 * 4 * 48 / 1e9)
    moved, weights = 4 * (3 + 4) * 48, 4 * 4 * 27
    assert row.mb == pytest.approx((moved + weights) / 1e6)
    limit_ms = max(row.gflop / row.gemm_gflops, row.mb / 1e3 / row.copy_gb_s) * 1e3
    assert row.limit_ms == pytest.approx(limit_ms)
    assert row.share == pytest.approx(limit_ms * row.per_second / 1e3)


def test_work_grows_with_the_batch_but_weights_do_not(small):
    one, two = (measure_work(small, {"x": np.zeros((n, 3, 8, 6), np.float32)}) for n in (1, 2))
    assert two == one.scaled(2)
    assert two.weight_bytes == one.weight_bytes > 0


def test_run_is_read_back_as_it_was_written(run, tmp_path):
    run.save(tmp_path / "run.jsonl")
    text = (tmp_path / "run.jsonl").read_text()
    assert "NaN" not in text.replace("values are NaN", "")
    assert [json.loads(line)["contender"] for line in text.splitlines()[1:]] == [
        row.contender for row in run.rows
    ]
    assert results.load(tmp_path / "run.jsonl") == run


def test_file_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "run.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="is no run of latency"):
        results.load(tmp_path / "run.jsonl")


def test_empty_file_is_called_empty(tmp_path):
    (tmp_path / "run.jsonl").touch()
    with pytest.raises(DataError, match=r"run\.jsonl is empty: no run of latency\.py was saved in it"):
        results.load(tmp_path / "run.jsonl")


def test_only_may_name_a_contender_of_ones_own(network):
    own = [f"mine={STUBS}:sleeper"]
    assert [each.label for each in command._chosen(network, "mine", own, False)] == [BASELINE, "mine"]
    with pytest.raises(DataError, match=r"no contender 'nobody' .*ONNX Runtime.*, mine$"):
        command._chosen(network, "nobody", own, False)


def test_folder_of_a_run_that_failed_is_not_left_empty(small, tmp_path):
    (tmp_path / "there").mkdir()
    for output in (tmp_path / "new" / "out", tmp_path / "there"):
        result = CliRunner().invoke(command.app, [str(small), "--data", "no.npz", "-o", str(output)])
        assert isinstance(result.exception, DataError)
        assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"there"}


def test_resumed_run_measures_only_what_is_missing(network, monkeypatch):
    first = measured(network, stubs(network))
    kept = list(first.rows)
    again = measured(network, stubs(network), first, batches=(1, 2))
    assert again.rows[:1] == kept
    assert [row.batch for row in again.rows] == [1, 2]
    monkeypatch.setattr(command, "_reference", None)  # nothing is opened
    assert measured(network, [], again, batches=(1, 2)).rows == again.rows


def test_slowed_contender_is_caught(network):
    before = measured(network, stubs(network, "sleeper"))
    slow = replace(own_contender(f"sleeper={STUBS}:slowed", network))
    now = measured(network, [*stubs(network), slow])
    pairs, _ = compare(now, before)
    pair = next(pair for pair in pairs if pair.row.contender == "sleeper")
    assert pair.change.value > 1.5
    # Of two runs on a busy machine the limits differ, too: judged as if it had not changed.
    assert replace(pair, machine=1.0).regressed


def saved_row(**changes):
    row = Row("net", "abc", "ours", "cpu", "fp32", True, False, 1, 1, "measured", library="lib 1", threads=2)
    values = {
        "median_ms": 10.0,
        "rounds_ms": (9.9, 10.0, 10.1, 10.0),
        "gemm_gflops": 100.0,
        "copy_gb_s": 10.0,
    }
    return replace(row, **(values | changes))


def saved_run(*rows, **machine):
    return Run({**MACHINE, **machine}, AROUND, SETTINGS, list(rows))


SLOW = {"median_ms": 15.0, "rounds_ms": (14.9, 15.0, 15.1, 15.0)}


@pytest.mark.parametrize(
    ("changes", "regressed"),
    [
        ({}, False),
        (SLOW, True),
        (SLOW | {"gemm_gflops": 60.0}, False),  # the machine itself was that much slower
        ({"rounds_ms": (10.0, 40.0, 9.9, 10.1), "median_ms": 10.0}, False),  # one busy moment
        ({"rounds_ms": (10.4, 10.5, 10.6, 10.5), "median_ms": 10.5}, False),  # within what runs differ by
    ],
)
def test_regression_is_what_noise_does_not_explain(changes, regressed):
    ((pair,), skipped) = compare(saved_run(saved_row(**changes)), saved_run(saved_row()))
    assert pair.regressed == regressed
    assert not skipped


@pytest.mark.parametrize(
    ("now", "before", "why"),
    [
        (saved_run(saved_row(library="lib 2")), saved_run(saved_row()), "lib 2, 2 threads; was lib 1"),
        (saved_run(saved_row(threads=1)), saved_run(saved_row()), "lib 1, 1 threads; was lib 1, 2"),
        (saved_run(saved_row(model_sha256="x")), saved_run(saved_row()), "of another model"),
        (saved_run(saved_row(status="failed")), saved_run(saved_row()), "failed in this run"),
        (saved_run(saved_row()), saved_run(saved_row(status="wrong")), "wrong in the saved run"),
        (saved_run(saved_row()), saved_run(saved_row(), cpu="other"), "cpu is test, was other"),
        (saved_run(), saved_run(saved_row()), "only in the saved run"),
    ],
)
def test_what_cannot_be_compared_is_skipped_and_said(now, before, why):
    pairs, skipped = compare(now, before)
    assert not pairs
    assert why in skipped[0]


def test_page_needs_no_other_file_and_escapes(run):
    rows = [replace(row, contender=row.contender.replace("wrong", "<wrong> & | more")) for row in run.rows]
    page = report.to_html(replace(run, rows=rows))
    assert "&lt;wrong&gt; &amp; | more" in page
    assert "<wrong>" not in page
    assert page.count("<img") == 1
    assert all(part.startswith("data:image/svg+xml;base64,") for part in page.split('src="')[1:])
    assert "<script" not in page
    assert "<link" not in page
    table = report.to_markdown(replace(run, rows=rows))
    assert "<wrong> & \\| more" in table
    assert "no CUDA driver" in table


def test_command_exits_with_1_for_a_wrong_contender(small, tmp_path):
    arguments = [str(small), "--data", "random", "--only", "tensorrt", "--batch-size", "1", "--rounds", "1"]
    arguments += ["--threads", "1", "-o", str(tmp_path / "out"), "--contender", f"bad={STUBS}:wrong"]
    result = CliRunner().invoke(command.app, arguments)
    assert result.exit_code == 1
    assert isinstance(result.exception, ParityError)
    assert "bad, batch 1, callers 1: wrong: output y" in str(result.exception)
    statuses = {row.contender: row.status for row in results.load(tmp_path / "out/latency.jsonl").rows}
    assert statuses[BASELINE] == "measured"
    assert statuses["bad"] == "wrong"
    assert (tmp_path / "out/latency.html").is_file()
    assert (tmp_path / "out/latency.md").is_file()


def test_file_that_fails_its_gate_is_a_failed_row_and_exits_with_1(small, tmp_path, monkeypatch):
    def beyond(*_, **__):
        raise ParityError("y at batch 1: max 0.5; it was not written")

    monkeypatch.setattr(networks, "to_mnn", beyond)
    monkeypatch.setattr(networks, "find_spec", lambda name: name)
    arguments = [str(small), "--data", "random", "--only", "mnn", "--batch-size", "1", "--rounds", "1"]
    result = CliRunner().invoke(command.app, [*arguments, "--threads", "1", "-o", str(tmp_path)])
    assert result.exit_code == 1
    assert "MNN, batch 1, callers 1: failed: ParityError: y at batch 1: max 0.5" in str(result.exception)


@pytest.mark.parametrize(
    ("lacking", "said"), [("MNN", "MNN is not installed"), ("library", "the plugin library is not built")]
)
def test_file_that_cannot_be_made_here_is_not_measured(small, tmp_path, monkeypatch, lacking, said):
    monkeypatch.setattr(networks, "find_spec", lambda name: None)
    monkeypatch.setattr(networks, "plugin_library", SimpleNamespace(find=lambda name: None))
    found = find_networks([str(small)], tmp_path, "random")[0]
    derived = found.mnn if lacking == "MNN" else found.cpu
    assert derived.missing.startswith(said)
    assert derived.error is None


def test_without_a_driver_gpu_rows_say_so(network, monkeypatch):
    monkeypatch.setattr(contenders, "cuda_missing", lambda: "no CUDA driver")
    on_gpu = [each for each in contenders_of(network, full=True) if each.job.device == "cuda"]
    assert {each.name for each in on_gpu} == {"ONNX Runtime CUDA", "ONNX Runtime TensorRT"}
    assert all(each.missing == "no CUDA driver" for each in on_gpu)


def test_with_a_driver_each_gpu_contender_runs_in_each_mode(network, monkeypatch):
    monkeypatch.setattr(contenders, "cuda_missing", lambda: None)
    monkeypatch.setattr(contenders, "_provider_missing", lambda entry: None)
    quick, full = ([each.label for each in contenders_of(network, full=full)] for full in (False, True))
    assert sum("ONNX Runtime CUDA" in label for label in quick) == 2
    assert sum("ONNX Runtime CUDA" in label for label in full) == 4
    assert len(set(full)) == len(full)


@pytest.mark.parametrize("host_copies", [True, False])
def test_bound_provider_gives_what_a_session_gives(small, host_copies):
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 3, 8, 6)).astype(np.float32)}
    runner = ProviderRunner(str(small), Job(host_copies=host_copies), "CPUExecutionProvider", {})
    bound = runner.bind(feeds)
    bound.call()
    with Session.open(small, threads=1, plugins=()) as session:
        np.testing.assert_array_equal(bound.outputs()["y"], session.run(feeds)["y"])


@pytest.mark.slow  # exports a generator
def test_torch_runner_gives_what_the_checkpoint_gives(random_generator, tmp_path):
    config = GeneratorConfig(height=32, width=32, base_width=4, blocks=1)
    path = tmp_path / "small.safetensors"
    checkpoint.save(path, random_generator(config).state_dict(), config)
    network = find_networks([str(path)], tmp_path)[0]
    assert network.torch == str(path)
    names = [each.label for each in contenders_of(network, full=False) if each.job.device == "cpu"]
    assert names == [
        BASELINE,
        "ONNX Runtime + posewarp",
        "ONNX Runtime + posewarp, Winograd",
        "PyTorch eager",
        "torch.compile",
        "OpenVINO",
        "MNN",
    ]
    feeds = command.sample_data.load_inputs("random", network.contract)[0]
    bound = torch_eager(str(path), Job(contract=str(network.onnx))).bind(feeds)
    bound.call()
    with Session.open(network.onnx, threads=1, plugins=()) as session:
        expected = session.run(feeds)["generated"].astype(int)
    assert np.abs(bound.outputs()["generated"].astype(int) - expected).max() <= 1


def test_files_of_one_name_are_one_network(small, tmp_path):
    engine = tmp_path / "small.fp16.engine"
    engine.write_bytes(b"plan")
    (network,) = find_networks([str(engine), str(small)], tmp_path)
    assert network.onnx == small
    assert network.others == (engine,)
    with pytest.raises(DataError, match="is an engine; give the FP32 ONNX file"):
        find_networks([str(engine)], tmp_path)
    with pytest.raises(DataError, match=r"gone\.onnx does not exist; expected a file, or one of demo"):
        find_networks(["gone.onnx"], tmp_path)
