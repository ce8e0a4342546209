"""How fast the sampling core is on the CPU, beside ONNX Runtime's GridSample, PyTorch's, and a copy of the image.

    python benchmarks/warp.py --json warp.json
    python benchmarks/warp.py demo-out/small.onnx

Every result is compared with PyTorch's before anything is timed. All columns of a row are timed in turn, round by
round, so that a busy moment of the machine hits them alike. The copy (one thread, the image's bytes once) is the limit
that memory sets. ONNX Runtime has a way of its own for align_corners=0 with zeros outside, several times faster than
its general one; networks use both alignments, so both are measured.

Whole networks are timed with and without the library: one of large warps that is made here, and the files given.
"""

from __future__ import annotations

import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import onnxruntime
import torch
import typer
from onnx import TensorProto, helper
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from posewarp.benchmarks.harness.machine import cpu_name
from posewarp.benchmarks.large_warps import large_warps, large_warps_feeds
from posewarp.export.graphs.warps import rewrite_warps
from posewarp.models.data.synthetic import SyntheticPeople
from posewarp.runtime import command, plugin_library
from posewarp.runtime.errors import ParityError
from posewarp.runtime.files import atomic_write
from posewarp.runtime.session import Session
from posewarp.runtime.threads import available_cpus

SHAPES = ((1, 256, 64, 44), (1, 64, 256, 176), (1, 256, 256, 176), (8, 256, 64, 44), (1, 61, 67, 43))
GRIDS = ("smooth", "random")
DTYPES = ("float32", "float16")
COLUMNS = {
    "ours": "core",
    "ours in\nONNX Runtime": "adapter",
    "ONNX Runtime": "onnxruntime",
    "PyTorch": "pytorch",
    "copy": "copy",
}
RATIOS = {
    "ONNX Runtime\n/ ours": ("onnxruntime", "core"),
    "PyTorch\n/ ours": ("pytorch", "core"),
    "ours\n/ copy": ("core", "copy"),
}
FLOW_PX = 6.0
# What the README promises on smooth grids in fp32: times faster than ONNX Runtime's and PyTorch's, and times
# slower than the copy, that at the first three shapes.
LEAST_OVER_ONNXRUNTIME, LEAST_OVER_PYTORCH, MOST_OVER_COPY = 15.0, 5.0, 4.0
# Threads of another library spin for a while after they have worked.
SETTLE_S = 0.004
CALLS_PER_ROUND = 3


@dataclass(frozen=True)
class Timing:
    """Of one column: milliseconds of single calls."""

    median_ms: float
    p90_ms: float


@dataclass(frozen=True)
class Row:
    """One shape, grid, dtype and alignment; bilinear, zeros outside.

    Attributes:
        timings: by column: ``core`` (C ABI), ``adapter`` (the same in ONNX Runtime), ``onnxruntime``, ``pytorch``,
            ``copy``.
    """

    shape: tuple[int, int, int, int]
    grid: str
    dtype: str
    align_corners: bool
    timings: dict[str, Timing]

    def ratio(self, slow: str, fast: str) -> float:
        return self.timings[slow].median_ms / self.timings[fast].median_ms

    @property
    def missed(self) -> set[tuple[str, str]]:
        """The ratios that break a promise."""
        if self.grid != "smooth" or self.dtype != "float32":
            return set()
        kept = {
            ("onnxruntime", "core"): self.ratio("onnxruntime", "core") >= LEAST_OVER_ONNXRUNTIME,
            ("pytorch", "core"): self.ratio("pytorch", "core") >= LEAST_OVER_PYTORCH,
            ("core", "copy"): self.shape not in SHAPES[:3] or self.ratio("core", "copy") <= MOST_OVER_COPY,
        }
        return {ratio for ratio, is_kept in kept.items() if not is_kept}


def make_grid(kind: str, batch: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Positions (B, H, W, 2), normalised, align_corners=True: ``smooth``, as a flow of up to 6 px, or ``random``."""
    if kind == "random":
        return rng.uniform(-1.1, 1.1, (batch, height, width, 2)).astype(np.float32)
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    phase = rng.uniform(0, 6, (batch, 1, 1))
    x = x + FLOW_PX * np.sin(y / 19 + phase)
    y = y + FLOW_PX * np.cos(x / 23 + phase)
    return np.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], -1).astype(np.float32)


def time_in_turn(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Each call ``CALLS_PER_ROUND`` times a round, after one that is not timed."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(SETTLE_S)
            call()
            for _ in range(CALLS_PER_ROUND):
                start = time.perf_counter()
                call()
                samples[name].append((time.perf_counter() - start) * 1e3)
    return {name: Timing(statistics.median(ms), float(np.percentile(ms, 90))) for name, ms in samples.items()}


def measure(
    shape: tuple[int, int, int, int], grid: str, dtype: str, align_corners: bool, threads: int, rounds: int
) -> Row:
    """Validate and time one row; features and output have one size.

    Raises: ParityError if a column does not compute what PyTorch computes.
    """
    rng = np.random.default_rng(0)
    features = rng.standard_normal(shape).astype(dtype)
    positions = make_grid(grid, shape[0], *shape[2:], rng)
    library = plugin_library.load()
    outputs = {name: np.empty_like(features) for name in ("core", "adapter", "onnxruntime", "copy")}
    calls: dict[str, Callable[[], object]] = {
        "core": lambda: plugin_library.grid_sample(
            features,
            positions,
            align_corners=align_corners,
            threads=threads,
            out=outputs["core"],
            library=library,
        )
    }
    model = _one_warp(dtype, align_corners)
    for name, library_path in (("adapter", library.path), ("onnxruntime", None)):
        calls[name] = _bound_call(model, library_path, threads, features, positions, outputs[name])
    torch.set_num_threads(threads)
    torch_features, torch_grid = torch.from_numpy(features), torch.from_numpy(positions)
    # PyTorch wants one type for both; a grid rounded to fp16 would be another warp, so fp16 features are widened.
    calls["pytorch"] = lambda: torch.nn.functional.grid_sample(
        torch_features.float(), torch_grid, align_corners=align_corners
    ).to(torch_features.dtype)
    calls["copy"] = lambda: np.copyto(outputs["copy"], features)

    with torch.inference_mode():
        expected = calls["pytorch"]().float().numpy()
        for name in ("core", "adapter", "onnxruntime"):
            calls[name]()
            _validate(f"{name}, {grid} {dtype} {shape}", outputs[name], expected, features)
        return Row(shape, grid, dtype, align_corners, time_in_turn(calls, rounds))


def _validate(what: str, got: np.ndarray, expected: np.ndarray, features: np.ndarray) -> None:
    wide = features.astype(np.float32)
    slope = max(np.abs(np.diff(wide, axis=axis)).max() for axis in (2, 3))
    # 4 units in the last place of the pixel coordinate, times the slope; and the rounding to fp16.
    limit = 1e-6 + 4 * np.spacing(np.float32(max(features.shape[2:]))) * slope
    if features.dtype == np.float16:
        limit = limit + np.spacing(np.abs(expected).astype(np.float16)).astype(np.float32)
    excess = np.abs(got.astype(np.float32) - expected) - limit
    if not excess.max() <= 0:
        raise ParityError(f"{what} differs from PyTorch by {excess.max():.1e} more than its limit")


def _one_warp(dtype: str, align_corners: bool) -> bytes:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    features, sampled = (
        helper.make_tensor_value_info(name, kind, ["N", "C", "H", "W"]) for name in ("features", "sampled")
    )
    grid = helper.make_tensor_value_info("grid", TensorProto.FLOAT, ["N", "H", "W", 2])
    node = helper.make_node(
        "GridSample", ["features", "grid"], ["sampled"], mode="bilinear", align_corners=int(align_corners)
    )
    graph = helper.make_graph([node], "warp", [features, grid], [sampled])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return rewrite_warps(model, "portable").SerializeToString()


def _bound_call(
    model: bytes,
    library: Path | None,
    threads: int,
    features: np.ndarray,
    grid: np.ndarray,
    output: np.ndarray,
) -> Callable[[], object]:
    """A run of ONNX Runtime from and into given arrays, so that no copy of Python's is timed."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if library is not None:
        options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(model, options)
    binding = session.io_binding()
    for name, value in (("features", features), ("grid", grid)):
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(value))
    binding.bind_output("sampled", "cpu", 0, output.dtype, output.shape, output.ctypes.data)
    return lambda: session.run_with_iobinding(binding)


def measure_model(path: Path, feeds: dict[str, np.ndarray], threads: int, rounds: int) -> dict[str, Timing]:
    """A whole network in a session, ``with`` the library and ``without``.

    Raises: ParityError if the results differ by more than one 8-bit step, or 1e-4 of the largest value.
    """
    with (
        Session.open(path, threads=threads, plugins=[plugin_library.load().path]) as ours,
        Session.open(path, threads=threads, plugins=()) as plain,
    ):
        for name, expected in plain.run(feeds).items():
            got = ours.run(feeds)[name]
            limit = 1 if expected.dtype == np.uint8 else 1e-4 * float(np.abs(expected).max())
            worst = float(np.abs(got.astype(np.float64) - expected).max())
            if not worst <= limit:
                raise ParityError(
                    f"{path}: {name} differs by {worst:.1e} with the library, limit {limit:.1e}"
                )
        return time_in_turn({"with": lambda: ours.run(feeds), "without": lambda: plain.run(feeds)}, rounds)


def feeds_for(session: Session) -> dict[str, np.ndarray]:
    """One synthetic person for a network of ours, of the size that its contract names."""
    height, width = (session.contract.settings[key] for key in ("height", "width"))
    person = SyntheticPeople(height, width, split="test")[0]
    names = ("source_image", "source_keypoints", "target_keypoints")
    return {name: getattr(person, name)[None] for name in names}


def warp(
    models: Annotated[
        list[Path] | None, typer.Argument(metavar="[MODEL...]", help="Networks exported with --io image.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="For every column but the copy.")] = 2,
    rounds: Annotated[
        int, typer.Option(min=1, help=f"Each of {CALLS_PER_ROUND} calls of every column.")
    ] = 10,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
) -> None:
    """Time the sampling core beside ONNX Runtime, PyTorch and a copy; then whole networks with and without it."""
    library = plugin_library.load()
    machine = {
        "cpu": cpu_name(),
        "cpus_allowed": available_cpus(),
        "threads": threads,
        "simd": plugin_library.simd(),
        "library": f"{library.name} {library.version}",
        "library_sha256": library.sha256,
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "cuda": "not measured",
    }
    rows = [
        measure(shape, grid, dtype, align_corners, threads, rounds)
        for shape in track(SHAPES, "timing warps", transient=True)
        for align_corners in (True, False)
        for dtype in DTYPES
        for grid in GRIDS
    ]
    networks = {}
    with tempfile.TemporaryDirectory() as folder:
        for align_corners in (True, False):
            onnx.save(large_warps(align_corners), made := Path(folder) / "large_warps.onnx")
            name = f"large warps, align_corners {int(align_corners)}"
            networks[name] = measure_model(made, large_warps_feeds(), threads, rounds)
    for path in models or ():
        with Session.open(path, threads=threads) as session:
            feeds = feeds_for(session)
        networks[path.name] = measure_model(path, feeds, threads, rounds)
    _print(machine, rows, networks)
    if json_path is not None:
        report = {
            "machine": machine,
            "rounds": rounds,
            "rows": [asdict(row) for row in rows],
            "networks": {
                name: {column: asdict(timing) for column, timing in timings.items()}
                for name, timings in networks.items()
            },
        }
        with atomic_write(json_path) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n")


def _print(machine: dict[str, object], rows: list[Row], networks: dict[str, dict[str, Timing]]) -> None:
    console = Console(width=170)
    console.print(
        f"{machine['cpu']}, {machine['threads']} threads, {machine['library']} ({machine['simd']}), ONNX Runtime "
        f"{machine['onnxruntime']}, PyTorch {machine['torch']}; milliseconds, median (p90)",
        highlight=False,
    )
    table = Table(box=box.SIMPLE)
    for name in ("shape", "type", "align\ncorners", "grid", *COLUMNS, *RATIOS):
        table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(
            "x".join(map(str, row.shape)),
            {"float32": "fp32", "float16": "fp16"}[row.dtype],
            str(int(row.align_corners)),
            row.grid,
            *(
                f"{row.timings[name].median_ms:.3g} ({row.timings[name].p90_ms:.3g})"
                for name in COLUMNS.values()
            ),
            *(f"{row.ratio(*pair):.1f}{' !' if pair in row.missed else ''}" for pair in RATIOS.values()),
        )
    console.print(table)
    console.print(
        f"!: less than promised of smooth grids in fp32: {LEAST_OVER_ONNXRUNTIME:.0f} times faster than ONNX Runtime, "
        f"{LEAST_OVER_PYTORCH:.0f} times than PyTorch; {MOST_OVER_COPY:.0f} copies at most for the first three shapes",
        highlight=False,
    )
    console.print("CUDA kernel, PyTorch's on CUDA, cuDNN's sampler: not measured", highlight=False)
    table = Table("network", "with the library", "without", "without / with")
    for name, timings in networks.items():
        ours, plain = timings["with"], timings["without"]
        table.add_row(
            name,
            *(f"{each.median_ms:.1f} ({each.p90_ms:.1f})" for each in (ours, plain)),
            f"{plain.median_ms / ours.median_ms:.2f}",
        )
    console.print(table)


app = typer.Typer(add_completion=False)
app.command()(warp)

if __name__ == "__main__":
    command.main(app)
