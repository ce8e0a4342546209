"""What the contract ``image`` costs: the share of a run that its pre- and post-processing takes.

    python benchmarks/contract_cost.py
    python benchmarks/contract_cost.py model.onnx --runs 50 --json cost.json

ONNX Runtime optimises the file, and its profiler times each node of what is left, so the share is of one and the same
run. Pre-processing are the nodes that no layer comes before, post-processing those that none comes behind. The
network's own at both ends, such as its last activation, are counted too, and so are ONNX Runtime's changes of layout:
the share is a bound from above. With no file, the preset ``deepfashion`` at 256x176 with random weights.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import onnxruntime
import typer
from onnx import ModelProto

from posewarp.benchmarks.harness.machine import machine
from posewarp.benchmarks.random_generator import make_random_generator
from posewarp.export.generator_spec import generator_spec
from posewarp.export.graphs.convolutions import CONV, CONV_RELU
from posewarp.export.graphs.graph import load_model
from posewarp.export.graphs.inlining import OP
from posewarp.export.ladder.sample_data import load_inputs, read_contract
from posewarp.export.to_onnx import to_onnx
from posewarp.models.config import GeneratorConfig
from posewarp.runtime import command, plugin_library
from posewarp.runtime.errors import ExportError
from posewarp.runtime.files import atomic_write, check_outputs
from posewarp.runtime.threads import available_cpus

LIMIT_PERCENT = 3.0
# Also as ONNX Runtime fuses them, which keeps the stem of the name.
_LAYERS = ("Conv", "ConvTranspose", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "GridSample")
_LAYERS += (OP, CONV, CONV_RELU)  # ours
_WARM_UP = 3


def measure(model: Path, runs: int = 20) -> dict[str, object]:
    """Profile a model with one of posewarp's contracts, batch 1, on all allowed CPUs.

    Returns: plain JSON: ``share_percent``, ``before_ms``, ``after_ms`` and ``all_ms``, medians over the runs; the
        operators before and after; and the machine.
    Raises: ExportError if the model has no layer, or no contract that synthetic people fit.
    """
    (feeds,) = load_inputs(None, read_contract(load_model(model)), batch=1)
    with tempfile.TemporaryDirectory(prefix="posewarp-") as folder:
        optimised = Path(folder) / "optimised.onnx"
        options = _options()
        options.optimized_model_filepath = str(optimised)
        onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        graph = onnx.load(optimised)
        for index, node in enumerate(graph.graph.node):
            node.name = f"n{index}"
        onnx.save(graph, optimised)
        options = _options()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(str(optimised), options, providers=["CPUExecutionProvider"])
        for _ in range(_WARM_UP + runs):
            session.run(None, feeds)
        times = node_times_ms(json.loads(Path(session.end_profiling()).read_text()), _WARM_UP)
    before, after = ends_of(graph)
    parts = [sum(times[name] for name in names) for names in (before, after, times)]
    share = np.median((parts[0] + parts[1]) / parts[2])
    before_ms, after_ms, all_ms = (float(np.median(part)) for part in parts)
    return {
        "model": model.name,
        "share_percent": 100 * float(share),
        "before_ms": before_ms,
        "after_ms": after_ms,
        "all_ms": all_ms,
        "before": list(before.values()),
        "after": list(after.values()),
        "runs": runs,
        "machine": machine(),
    }


def node_times_ms(events: list[dict], warm_up: int) -> dict[str, np.ndarray]:
    """Milliseconds of each node in each run but the first ones, from ONNX Runtime's profile."""
    times: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times.setdefault(event["name"].removesuffix("_kernel_time"), []).append(event["dur"] / 1e3)
    return {name: np.array(each[warm_up:]) for name, each in times.items()}


def ends_of(model: ModelProto) -> tuple[dict[str, str], dict[str, str]]:
    """The nodes that no layer comes before, and those that none comes behind: operators by name.

    Raises: ExportError if there is no layer.
    """
    nodes = list(model.graph.node)  # in an order in which each comes after what it takes
    if not any(node.op_type in _LAYERS for node in nodes):
        raise ExportError(f"the model has no {', '.join(_LAYERS)}, so no processing before and after layers")
    behind: set[str] = set()  # tensors behind a layer
    before, after = {}, {}
    for node in nodes:
        if node.op_type in _LAYERS or behind.intersection(node.input):
            behind.update(node.output)
        else:
            before[node.name] = node.op_type
    leading: set[str] = set()  # tensors that lead to a layer
    for node in reversed(nodes):
        if node.op_type in _LAYERS or leading.intersection(node.output):
            leading.update(filter(None, node.input))
        elif node.name not in before:
            after[node.name] = node.op_type
    return before, after


def _options() -> onnxruntime.SessionOptions:
    """As sessions of ours have them."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = available_cpus(), 1
    options.log_severity_level = 4
    if library := plugin_library.find("cpu"):
        options.register_custom_ops_library(str(library))
    return options


def report(result: Mapping[str, object]) -> str:
    """What was measured, for reading."""
    return (
        f"{result['model']}, batch 1, {result['runs']} runs on {result['machine']['cpu']}, "
        f"{result['machine']['cpus_allowed']} CPUs\n"
        f"  before the first layer {result['before_ms']:.2f} ms: {', '.join(result['before'])}\n"
        f"  after the last {result['after_ms']:.2f} ms: {', '.join(result['after'])}\n"
        f"  of {result['all_ms']:.1f} ms: {result['share_percent']:.2f} %"
    )


app = typer.Typer(add_completion=False)


@app.command()
def _command(
    model: Annotated[Path | None, typer.Argument(help="An ONNX file of posewarp export.")] = None,
    runs: Annotated[int, typer.Option(min=1)] = 20,
    limit_percent: Annotated[float, typer.Option(help="Exit with 1 above it.")] = LIMIT_PERCENT,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the result here too.")] = None,
) -> None:
    """Measure what share of a run pre- and post-processing take."""
    check_outputs({"--json": json_path}, [model])
    with tempfile.TemporaryDirectory(prefix="posewarp-") as folder:
        if model is None:
            model = Path(folder) / "deepfashion.onnx"
            to_onnx(generator_spec(make_random_generator(GeneratorConfig.preset("deepfashion"))), model)
        result = measure(model, runs)
    print(report(result))
    if json_path is not None:
        with atomic_write(json_path) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n")
    if result["share_percent"] > limit_percent:
        raise typer.Exit(1)


if __name__ == "__main__":
    command.main(app)
