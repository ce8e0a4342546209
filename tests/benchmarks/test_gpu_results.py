"""benchmarks/gpu.sh with a played card and played steps, the result file that it writes, and the README's table."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from posewarp.benchmarks import gpu_table
from posewarp.runtime.errors import DataError

ROOT = Path(gpu_table.__file__).parents[1]
SCRIPT, WHEELS = ROOT / "benchmarks" / "gpu.sh", ROOT / "benchmarks" / "gpu" / "wheels.sh"
CARD = "NVIDIA H200, 580.159.03, 9.0, 143771"
STEM = f"nvidia-h200-{time.strftime('%Y-%m-%d', time.gmtime())}"

pytestmark = pytest.mark.skipif(
    not SCRIPT.exists() or shutil.which("timeout") is None, reason="no sources, or no GNU coreutils"
)


@pytest.fixture
def run(tmp_path):
    """``run(*lines of steps, card=what nvidia-smi prints, options=())``: the finished command."""
    programs = tmp_path / "bin"
    programs.mkdir()

    def call(*steps, card=CARD, options=(), script=SCRIPT, **variables):
        smi = programs / "nvidia-smi"
        ends = f"echo '{card}'" if card else "echo 'No devices were found'; exit 6"
        smi.write_text(f"#!/bin/sh\n{ends}\n")
        smi.chmod(0o755)
        table = tmp_path / "steps.txt"
        table.write_text("# name | limit | command\n\n" + "\n".join(steps) + "\n")
        environment = {
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "TMPDIR": str(tmp_path),
            "PYTHON": sys.executable,
            **variables,
        }
        command = ["bash", script, "--steps", table, "-o", tmp_path / "out", "--commit", "abc", *options]
        return subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment)

    return call


@pytest.fixture
def result(tmp_path):
    return lambda: json.loads((tmp_path / "out" / f"{STEM}.json").read_text())


def steps_of(result):
    return {step["name"]: step for step in result["steps"]}


def test_without_a_gpu_one_line_exit_1_and_nothing_is_written(run, tmp_path):
    done = run("one | 5 | true", card=None)
    assert done.returncode == 1
    assert done.stderr == "gpu.sh: no NVIDIA GPU here, nothing was measured: No devices were found\n"
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("tmp.*"))


def test_without_a_driver_it_says_so(run, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for program in ("bash", "dirname", "realpath", "cat"):
        (bare / program).symlink_to(shutil.which(program))
    done = subprocess.run(
        ["bash", SCRIPT, "-o", tmp_path / "out"], capture_output=True, text=True, env={"PATH": str(bare)}
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("nothing was measured: there is no nvidia-smi on PATH\n")
    assert not (tmp_path / "out").exists()


def test_a_failing_step_and_one_over_its_limit_do_not_stop_the_others(run, result, tmp_path):
    done = run(
        "bad | 5 | echo before; false; echo after",
        'slow | 1 | echo begun; echo \'{"done": 3}\' > "$STEP/part.json"; sleep 30',
        'none | 5 | echo "not measured: no TensorRT for this card"; exit 77',
        'good | 5 | echo a | cat; echo \'{"us": 1.5}\' > "$STEP/figures.json"',
    )
    assert done.returncode == 1
    assert "gpu.sh: 2 steps failed or were not run" in done.stderr
    found = result()
    steps = steps_of(found)
    assert {name: (step["state"], step["reason"]) for name, step in steps.items()} == {
        "bad": ("failed", "exit code 1: before"),
        "slow": ("failed", "over its limit of 1 s"),
        "none": ("not measured", "no TensorRT for this card"),
        "good": ("passed", ""),
    }
    assert steps["slow"]["last_lines"] == ["begun"]
    assert steps["slow"]["figures"] == {"part": {"done": 3}}  # what it had is kept
    assert steps["slow"]["seconds"] < 8
    assert steps["good"]["figures"] == {"figures": {"us": 1.5}}
    told = ("card", "driver", "compute_capability", "commit", "date")
    assert [found[key] for key in told] == ["NVIDIA H200", "580.159.03", "9.0", "abc", STEM[-10:]]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"{STEM}.json",
        f"{STEM}.logs.tar.gz",
    ]
    assert not list(tmp_path.glob("tmp.*"))  # the working folder is gone


def test_a_step_for_which_no_time_is_left_is_not_run(run, result):
    done = run("long | 30 | sleep 20", "late | 5 | true", POSEWARP_GPU_BUDGET_S="2")
    assert done.returncode == 1
    steps = steps_of(result())
    assert steps["long"]["reason"] in ("over its limit of 2 s", "over its limit of 1 s")  # it may start late
    assert (steps["late"]["state"], steps["late"]["reason"]) == (
        "not run",
        "the 2 s of all steps were used up",
    )
    assert steps["late"]["limit_s"] == 5


def test_the_result_is_there_after_each_step(run, result, tmp_path):
    """So a run that is cut off leaves it: the second step looks at it."""
    run("one | 5 | true", f'two | 5 | grep \'"name": "one"\' {tmp_path}/out/{STEM}.json')
    assert steps_of(result())["two"]["state"] == "passed"


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_run_that_is_ended_ends_its_step_and_keeps_what_it_had(run, result, tmp_path):
    mark = tmp_path / "pid"

    def end():
        while not mark.exists() or not mark.read_text().strip():
            time.sleep(0.05)
        timeout = parent_of(int(mark.read_text()))
        os.kill(parent_of(timeout), signal.SIGTERM)

    killer = threading.Thread(target=end, daemon=True)
    killer.start()
    started = time.monotonic()
    done = run("one | 5 | true", f"long | 60 | echo $$ > {mark}; sleep 50")
    assert done.returncode == 143
    assert time.monotonic() - started < 30  # not at the step's own end
    assert list(steps_of(result())) == ["one"]
    assert not Path(f"/proc/{mark.read_text().strip()}").exists()
    assert not list(tmp_path.glob("tmp.*"))


def test_figures_that_cannot_be_read_fail_their_step(run, result):
    run('broken | 5 | echo "{" > "$STEP/figures.json"')
    step = steps_of(result())["broken"]
    assert step["state"] == "failed"
    assert step["reason"].startswith("figures.json cannot be read")


def test_paths_of_the_machine_do_not_get_into_a_result(run, result):
    run(
        'paths | 5 | echo "in $STEP and $PWD/benchmarks, $TMPDIR/posewarp-1/deep/a.engine"; '
        'echo "[\\"$TMPDIR/posewarp-1/a.onnx\\",\\"b/c\\"]" > "$STEP/figures.json"'
    )
    step = steps_of(result())["paths"]
    assert step["last_lines"] == ["in WORK/steps/paths and benchmarks, a.engine"]
    assert step["figures"]["figures"] == ["a.onnx", "b/c"]


def test_junit_files_are_counted(run, result, tmp_path):
    xml = (
        "<testsuites><testsuite><testcase name='a'/><testcase name='b'><failure/></testcase>"
        "<testcase name='c'><skipped message='no TensorRT'/></testcase></testsuite></testsuites>"
    )
    (tmp_path / "given.xml").write_text(xml)
    run(f'tests | 5 | cp {tmp_path}/given.xml "$STEP/tests.xml"')
    assert steps_of(result())["tests"]["figures"]["tests"] == {
        "passed": 1,
        "failed": ["b"],
        "skipped": 1,
        "skip_reasons": ["no TensorRT"],
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--wheels",), "--wheels needs a value"),
        (("--fast",), "no option --fast"),
        (("--networks", "nowhere"), "nowhere does not hold them; make them: python -m posewarp.benchmarks"),
    ],
)
def test_misuse_ends_with_2(run, options, said):
    done = run("one | 5 | true", options=options)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_budget_that_is_no_number_is_refused(run):
    done = run("one | 5 | true", POSEWARP_GPU_BUDGET_S="long")
    assert done.returncode == 2
    assert "POSEWARP_GPU_BUDGET_S is long; expected seconds" in done.stderr


def test_dry_run_prints_the_steps_without_a_gpu():
    done = subprocess.run(["bash", SCRIPT, "--dry-run"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed = [line.split()[0] for line in done.stdout.splitlines()]
    assert {step for _, step, _ in gpu_table._GROUPS} < set(printed)


# Wheels


@pytest.fixture
def wheels(tmp_path):
    """A folder with one small and one large wheel."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    (folder / "small-1-py3-none-any.whl").write_bytes(b"small")
    (folder / "large-1-py3-none-any.whl").write_bytes(os.urandom(5 * 2**19))
    return folder


def call_wheels(*arguments):
    return subprocess.run([*map(str, ("bash", WHEELS, *arguments))], capture_output=True, text=True)


def test_split_wheels_are_joined_to_what_they_were(wheels, tmp_path):
    before = {path.name: path.read_bytes() for path in wheels.iterdir()}
    assert call_wheels("split", wheels, 1).returncode == 0
    parts = [path for path in wheels.iterdir() if ".part-" in path.name]
    assert [path.stat().st_size for path in sorted(parts)] == [2**20, 2**20, 2**19]
    assert not (wheels / "large-1-py3-none-any.whl").exists()
    into = tmp_path / "joined"
    into.mkdir()
    assert call_wheels("join", wheels, into).returncode == 0
    assert {path.name: path.read_bytes() for path in into.iterdir()} == before


@pytest.mark.parametrize("fault", ["missing", "damaged", "no hash"])
def test_a_wheel_whose_parts_do_not_fit_is_left_out_and_named(wheels, tmp_path, fault):
    call_wheels("split", wheels, 1)
    part = wheels / "large-1-py3-none-any.whl.part-01"
    if fault == "missing":
        part.unlink()
    elif fault == "damaged":
        part.write_bytes(bytes(2**20))
    else:
        (wheels / "large-1-py3-none-any.whl.sha256").unlink()
    into = tmp_path / "joined"
    into.mkdir()
    done = call_wheels("join", wheels, into)
    assert done.returncode == 1
    assert done.stdout.startswith("large-1-py3-none-any.whl")
    assert [path.name for path in into.iterdir()] == ["small-1-py3-none-any.whl"]


# The environment, of this machine's packages: no card is needed for it.


@pytest.mark.slow
def test_environment_sees_the_machines_packages_and_installs_what_is_carried(run, result, wheels, tmp_path):
    """What is carried here is no wheel, which fails the step; posewarp is installed all the same."""
    sources = tmp_path / "sources"
    beside = shutil.ignore_patterns(".*", "build", "*.egg-info", "lib", "__pycache__", "demo-out", "runs")
    shutil.copytree(ROOT, sources, ignore=beside)
    done = run(
        'wheels | 40 | bash benchmarks/gpu/wheels.sh join "$GIVEN_WHEELS" "$WHEELS"',
        "environment | 300 | bash benchmarks/gpu/environment.sh",
        'session | 120 | "$PYTHON" -c "import torch, sys; from posewarp.runtime import Session; print(sys.prefix)"',
        options=("--wheels", wheels),
        script=sources / "benchmarks" / "gpu.sh",
    )
    steps = steps_of(result())
    assert steps["environment"]["state"] == "failed", done.stdout
    assert any("small-1" in line for line in steps["environment"]["last_lines"])
    assert steps["session"]["state"] == "passed", steps["session"]["last_lines"]
    assert steps["session"]["last_lines"][-1] == "WORK/environment"
    assert "torch" in result()["versions"]


# The README's table


def made_result(**changes):
    def step(name, state="passed", reason="", last_lines=(), **figures):
        return {"name": name, "state": state, "reason": reason, "last_lines": last_lines, "figures": figures}

    row = {"device": "cuda", "network": "deepfashion", "batch": 1, "status": "measured", "reason": ""}
    return {
        "format": 1,
        "card": "NVIDIA H200",
        "driver": "580.1",
        "cuda": "13.0",
        "commit": "abc",
        "date": "2026-11-26",
        "versions": {"torch": "2.11.0"},
        "steps": [
            step("kernels", last_lines=["kernels: 1234 cases, 0 failed"]),
            step("enqueue", "failed", "exit code 1: contract: broken", ["enqueue: 9 cases, 1 failed"]),
            step("tests", tests={"passed": 7, "failed": [], "skipped": 2}),
            step(
                "device",
                device={
                    "cuda-python": {
                        "copy_in_gb_s": 51.2,
                        "copy_out_gb_s": 50.1,
                        "both_ways_gb_s": 40.0,
                        "kernel": {"shape": [1, 2, 3, 4], "launched_us": 5.25, "graph_us": 2.5},
                    },
                    "pycuda": "not measured: pycuda is not here",
                },
            ),
            step("engines", "not measured", "no TensorRT for this card (rtx: refused)"),
            step(
                "provider",
                provider={
                    "demo": {
                        "fp16": {
                            "status": "passed",
                            "max_abs": 2.0,
                            "psnr_db": 63.62,
                            "own_flow_p999_px": 0.0094,
                        },
                        "all fp16": {
                            "status": "positions move by 0.07 px",
                            "max_abs": 2.0,
                            "psnr_db": "Infinity",
                            "own_flow_p999_px": "NaN",
                        },
                    }
                },
            ),
            step("training", training={"bf16": {"step": 40, "l1": 0.26619}}),
            step(
                "latency",
                "failed",
                "over its limit of 170 s",
                latency=[
                    {"format": 1},
                    {**row, "contender": "PyTorch eager, cuda fp32", "median_ms": 5.432, "p99_ms": 6.1},
                    {
                        **row,
                        "contender": "ONNX Runtime CUDA",
                        "status": "not measured",
                        "reason": "no | provider",
                    },
                    {**row, "contender": "ONNX Runtime", "device": "cpu", "median_ms": 100, "p99_ms": 100},
                ],
            ),
        ],
        **changes,
    }


def test_readme_has_the_table_that_the_results_give():
    """python benchmarks/gpu_table.py writes it."""
    text = gpu_table.README.read_text(encoding="utf-8")
    table = gpu_table.render(gpu_table.load_results())
    assert gpu_table.replace_table(text, table) == text


def test_without_results_each_group_is_not_measured():
    lines = gpu_table.render([]).splitlines()
    rows = [line for line in lines if line.startswith("|")][2:]
    assert len(rows) == len(gpu_table._GROUPS)
    assert all(line.endswith("| not measured |") for line in rows)


def test_table_has_figures_failures_and_what_was_not_measured():
    table = gpu_table.render([made_result()])
    for line in (
        "| on one GPU | NVIDIA H200, driver 580.1, CUDA 13.0, PyTorch 2.11.0; commit abc, 2026-11-26 |",
        "| kernels against the core | 1234 cases, 0 failed |",
        "| plugin's enqueue against the core, directly and as a CUDA graph | failed: exit code 1: contract: broken |",
        "| tests marked gpu | 7 passed, 2 skipped |",
        "| device layer, pycuda | not measured: pycuda is not here |",
        "| engine against PyTorch FP32, batches 1, 2, 7, 16 | not measured: no TensorRT for this card (rtx: refused) |",
        "| ONNX Runtime CUDA against PyTorch FP32 | passed, see below |",
        "NVIDIA H200, ONNX Runtime's CUDA provider against PyTorch FP32 on the CPU, batches 1, 2, 7, 16 "
        "(all fp16: 1, 2):",
        "| demo | fp16 | 2 | 63.6 dB | 0.0094 px | passed |",
        "| demo | all fp16 | 2 | Infinity dB | NaN px | positions move by 0.07 px |",
        "| warp against PyTorch and cuDNN | not measured |",
        "| training, 256x176, batches of 8, bf16: L1 after 40 steps | 0.2662 |",
        "| latency, deepfashion, batch 1, PyTorch eager, cuda fp32 | 5.43 ms, p99 6.1 |",
        "| latency, deepfashion, batch 1, ONNX Runtime CUDA | not measured: no \\| provider |",
        "| latency, the step | failed |",
        "| compute-sanitizer over the plugin | not measured |",
    ):
        assert line in table.splitlines()
    assert "our kernel, 1x2x3x4, launched from Python, in a CUDA graph, us | 5.25, 2.5 |" in table
    assert "| 100" not in table  # the CPU's row is not of this card


def test_cards_are_columns_with_their_newest_result(tmp_path):
    for number, changes in enumerate(
        ({"commit": "old", "date": "2026-11-25"}, {}, {"card": "NVIDIA A10", "steps": []})
    ):
        (tmp_path / f"{number}.json").write_text(json.dumps(made_result(**changes)))
    results = gpu_table.load_results(tmp_path)
    assert [(each["card"], each["commit"]) for each in results] == [
        ("NVIDIA A10", "abc"),
        ("NVIDIA H200", "abc"),
    ]
    assert "| tests marked gpu | not measured | 7 passed, 2 skipped |" in gpu_table.render(results)


@pytest.mark.parametrize(
    ("content", "said"), [("{", "is no result"), ("{}", "is no result"), ('{"format": 9}', "has format 9")]
)
def test_what_is_no_result_is_refused(tmp_path, content, said):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match=said):
        gpu_table.load_results(tmp_path)


def test_command_writes_the_table_and_its_check_finds_a_stale_one(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{gpu_table.BEGIN}\nold\n{gpu_table.END}\nafter\n")
    (tmp_path / "h200.json").write_text(json.dumps(made_result()))
    options = ["--results", str(tmp_path), "--readme", str(readme)]
    stale = CliRunner().invoke(gpu_table.app, [*options, "--check"])
    assert isinstance(stale.exception, DataError)
    assert "old" in readme.read_text()
    assert CliRunner().invoke(gpu_table.app, options).exit_code == 0
    assert readme.read_text() == f"before\n{gpu_table.render([made_result()])}\nafter\n"
    assert CliRunner().invoke(gpu_table.app, [*options, "--check"]).exit_code == 0


def test_a_readme_without_markers_is_refused():
    for text in (
        "none",
        f"{gpu_table.END} {gpu_table.BEGIN}",
        f"{gpu_table.BEGIN} {gpu_table.BEGIN} {gpu_table.END}",
    ):
        with pytest.raises(DataError, match="once each"):
            gpu_table.replace_table(text, "")
