"""TensorRT's and TensorRT-RTX's builder, through one code path: parse, look, build.

The two libraries, and TensorRT 10 and 11, differ in what they still have. What to call is decided by whether it
is there, never by a version. Their Python calls report failure by None or False; each is checked at once, and
the error carries the last lines of their logger. This runs in a process of its own (engine_process.py), so
that nothing but the standard library, the builder's library and our errors is imported here.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from posewarp.export.engines.config import (
    add_profile,
    check_level,
    configure,
    find_device,
    find_targets,
    set_monitor,
    there,
)
from posewarp.export.engines.request import NAMES, BuildRequest
from posewarp.runtime.errors import EngineError

_MODULES = {"rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"), "tensorrt": ("tensorrt",)}

# Layers that --precision speaks of: those that are most of the work.
_COMPUTE = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
_HALF, _FLOATS = ("HALF", "BF16"), ("FLOAT", "HALF", "BF16")
# Asked for fp16, so much of them must be: some are kept in FP32 by name, most are not.
LEAST_HALF = 0.5

_MODES = {"bilinear": "LINEAR", "nearest": "NEAREST", "bicubic": "CUBIC"}
_PADDINGS = {"zeros": "FILL", "border": "CLAMP", "reflection": "REFLECT"}

_DTYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}

_LAST_LINES = 4


def build(request: BuildRequest, tell: Callable[[str, Any], None]) -> dict[str, Any]:
    """Build one engine and write its plan.

    Args:
        tell: called with ``log`` and a line, or with ``phase`` and [name, parent, steps], ``step`` and
            [name, number], ``done`` and a name.

    Returns: ``unchanged``, or ``versions``, ``device``, ``layers`` (counts), ``half``, ``compute``, ``half_tensors``
        (counts), ``fp32_compute`` (names), ``grid_samples``, ``inputs``, ``outputs``, ``plugins`` (what each library
        brought), ``notes``.
    Raises: EngineError; OSError if the plan cannot be written.
    """
    trt = open_library(request.backend)
    logger = _make_logger(trt, tell)
    try:
        return _build(trt, request, logger, tell)
    except EngineError as exc:
        said = " | ".join(dict.fromkeys(logger.lines))
        raise EngineError(f"{exc}; {NAMES[request.backend]} said: {said}" if said else str(exc)) from exc


def open_library(backend: str) -> ModuleType:
    """Import a backend's Python module.

    Raises: EngineError if it is not installed, or does not load.
    """
    for name in _MODULES[backend]:
        try:
            return import_module(name)
        except ModuleNotFoundError as exc:
            if exc.name != name:
                raise EngineError(f"{NAMES[backend]} does not load: {exc}") from exc
        except (ImportError, OSError) as exc:
            raise EngineError(f"{NAMES[backend]} does not load: {exc}") from exc
    raise EngineError(
        f"{NAMES[backend]} is not installed: pip install 'posewarp[{backend}]', or take the other --backend, "
        "or --print-trtexec"
    )


def _build(trt: ModuleType, request: BuildRequest, logger: Any, tell: Callable) -> dict[str, Any]:
    targets = find_targets(trt, request)
    place = {
        "versions": {NAMES[request.backend]: trt.__version__},
        "device": find_device() if request.backend == "tensorrt" or "current" in request.targets else None,
    }
    if request.unless == place:
        return {"unchanged": True}
    builder = there(trt.Builder(logger), "no builder can be made")
    plugins = _load_plugins(trt, request, logger)
    network = there(builder.create_network(_network_flags(trt)), "no network can be made")
    parser = there(trt.OnnxParser(network, logger), "no parser can be made")
    _check_custom_ops(trt, request, parser)
    if not parser.parse_from_file(request.onnx):
        raise EngineError(f"the ONNX file cannot be parsed: {_parser_errors(parser)}")
    seen = _look(trt, network)
    check_precision(request.precision, seen["half"], seen["compute"], seen["half_tensors"])
    _check_grid_samples(request, seen["grid_samples"])

    config = there(builder.create_builder_config(), "no configuration can be made")
    notes: list[str] = []
    store_cache = configure(trt, request, config, targets, place, notes)
    for profile in request.profiles:
        add_profile(builder, config, network, profile)
    config_monitor = set_monitor(trt, config, tell)
    plan = builder.build_serialized_network(network, config)
    del config_monitor  # it must live as long as the build
    if plan is None:
        raise EngineError("the engine cannot be built")
    if request.hardware_compatibility:
        check_level(trt, request, logger, plan)
    Path(request.plan).write_bytes(plan)
    if store_cache:
        store_cache()
    return {**place, **seen, "plugins": plugins, "notes": notes}


def _make_logger(trt: ModuleType, tell: Callable) -> Any:
    severities = trt.ILogger.Severity
    wanted = {severities.INTERNAL_ERROR: "error", severities.ERROR: "error", severities.WARNING: "warning"}

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: deque[str] = deque(maxlen=_LAST_LINES)

        def log(self, severity: Any, message: str) -> None:
            kind = wanted.get(severity)
            if kind == "error" and not _is_noise(message):
                self.lines.append(" ".join(message.split()))
            if kind:
                tell("log", " ".join(message.split()))

    return Logger()


def _is_noise(message: str) -> bool:
    """Errors that TensorRT-RTX logs of everything that it does on a machine without a driver."""
    return "CUDA driver version is insufficient" in message or "Thread context has not been set" in message


def _network_flags(trt: ModuleType) -> int:
    """Explicit batch where there is another kind, strong typing where there is a weak kind."""
    known = trt.NetworkDefinitionCreationFlag
    if hasattr(trt.BuilderFlag, "FP16") and not hasattr(known, "STRONGLY_TYPED"):
        raise EngineError(
            f"this TensorRT ({trt.__version__}) chooses types by builder flags, not by the ONNX file; take 10.0 "
            "or later"
        )
    flags = [getattr(known, name) for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED") if hasattr(known, name)]
    return sum(1 << int(flag) for flag in flags)


def _load_plugins(trt: ModuleType, request: BuildRequest, logger: Any) -> dict[str, list[str]]:
    """Load the plugin libraries; what each brings, by its file's name."""
    if request.backend == "tensorrt" and hasattr(trt, "init_libnvinfer_plugins"):
        trt.init_libnvinfer_plugins(logger, "")
    brought = {}
    for path in request.plugins:
        registry = trt.get_plugin_registry()
        before = set(map(_creator, registry.all_creators))
        if not registry.load_library(path):
            raise EngineError(f"the plugin library {Path(path).name} cannot be loaded")
        brought[Path(path).name] = sorted(set(map(_creator, registry.all_creators)) - before)
    return brought


def _creator(creator: Any) -> str:
    return f"{creator.plugin_namespace}::{creator.name} {creator.plugin_version}"


def _check_custom_ops(trt: ModuleType, request: BuildRequest, parser: Any) -> None:
    if not request.custom_ops:
        return
    registry = trt.get_plugin_registry()
    missing = []
    for domain, op, version, namespace in request.custom_ops:
        # Not asked of rtx: its network has no plugin layers, and a registry's answer would abort the parser.
        plugin = request.backend == "tensorrt" and (
            registry.get_creator(op, version, namespace) or registry.get_creator(op, version, domain)
        )
        if not plugin and not parser.supports_operator(op):
            missing.append(f"{domain}::{op} (plugin {namespace or domain}::{op} version {version})")
    if missing:
        remedy = (
            "TensorRT-RTX takes no plugins: write them as standard operators, for warps by "
            "posewarp fp16 --warp portable"
            if request.backend == "rtx"
            else "name the libraries that hold these plugins with --plugins"
        )
        raise EngineError(f"no importer and no plugin for {', '.join(missing)}; {remedy}", got=missing)


def _parser_errors(parser: Any) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    texts = []
    for error in errors:
        node = error.node_name() if hasattr(error, "node_name") else ""
        op = error.node_operator() if hasattr(error, "node_operator") else ""
        where = f" at node {node!r} ({op})" if node or op else ""
        texts.append(" ".join(error.desc().split()) + where)
    return "; ".join(texts) or "no reason was given"


def _look(trt: ModuleType, network: Any) -> dict[str, Any]:
    """What the parser made of the file: the only place where its types and modes can be seen."""
    counts: Counter[str] = Counter()
    compute: Counter[str] = Counter()
    fp32: list[str] = []
    half_tensors = 0
    grid_samples = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        kind = layer.type.name
        counts[kind] += 1
        result = layer.get_output(0)
        half_tensors += result.dtype.name in _HALF
        if kind in _COMPUTE and result.dtype.name in _FLOATS:
            compute[result.dtype.name] += 1
            if result.dtype.name == "FLOAT":
                fp32.append(layer.name)
        if kind == "GRID_SAMPLE":
            layer.__class__ = trt.IGridSampleLayer  # the binding gives the base class
            grid_samples.append(
                {
                    "name": result.name,
                    "mode": _word(_MODES, layer.interpolation_mode.name),
                    "padding_mode": _word(_PADDINGS, layer.sample_mode.name),
                    "align_corners": int(layer.align_corners),
                    "dtype": _dtype(result),
                }
            )
    return {
        "layers": dict(counts),
        "half": sum(compute[kind] for kind in _HALF),
        "compute": compute.total(),
        "half_tensors": half_tensors,
        "fp32_compute": fp32,
        "grid_samples": grid_samples,
        "inputs": [_tensor(network.get_input(i)) for i in range(network.num_inputs)],
        "outputs": [_tensor(network.get_output(i)) for i in range(network.num_outputs)],
    }


def _word(words: dict[str, str], theirs: str) -> str:
    return next((ours for ours, name in words.items() if name == theirs), theirs.lower())


def _tensor(tensor: Any) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": _dtype(tensor), "shape": list(tensor.shape)}


def _dtype(tensor: Any) -> str:
    """numpy's name of a tensor's type, as in contracts."""
    return _DTYPES.get(tensor.dtype.name, tensor.dtype.name.lower())


def check_precision(asserted: str | None, half: int, compute: int, tensors: int) -> None:
    """``--precision`` is an assertion about the graph: no builder flag makes it true.

    Args:
        asserted: ``fp16``, ``fp32``, or None for no assertion.
        half, compute: how many Conv, ConvTranspose, Gemm and MatMul are FP16 or BF16, and how many there are.
        tensors: how many tensors are: what is asserted of a network without such layers, one of warps alone.

    Raises: EngineError if it does not hold.
    """
    what = f"{half} of {compute} Conv, ConvTranspose, Gemm and MatMul are FP16 or BF16"
    if not compute:
        what = f"there is no Conv, ConvTranspose, Gemm or MatMul, and {tensors} tensors are FP16 or BF16"
        half = tensors
    if asserted == "fp16" and (not half or half < LEAST_HALF * compute):
        raise EngineError(
            f"precision fp16 was asserted, but {what}: an engine takes its types from the ONNX file; convert "
            "it first: posewarp fp16 model.onnx",
            got=half,
            expected=f"at least {LEAST_HALF:.0%}",
        )
    if asserted == "fp32" and half:
        raise EngineError(f"precision fp32 was asserted, but {what}", got=half, expected=0)


def _check_grid_samples(request: BuildRequest, found: list[dict[str, Any]]) -> None:
    """Parsers before 11.2 read opset 20's ``linear`` as nearest, without a word."""
    expected = request.grid_samples
    if len(found) != len(expected):
        raise EngineError(
            f"the parser made {len(found)} GridSample layers of {len(expected)} GridSample nodes"
        )
    # Names are kept but for layers inside loops and branches; these are compared in order.
    by_name = {entry["name"] for entry in found} == set(expected)
    for entry, (name, right) in zip(found, expected.items(), strict=True):
        right = expected[entry["name"]] if by_name else right
        for key, value in right.items():
            if entry[key] != value:
                raise EngineError(
                    f"the parser read the {key} of GridSample {entry['name'] if by_name else name!r} as "
                    f"{entry[key]}, the ONNX file says {value}: this parser mistakes it; export with --opset 18, "
                    "or build with --plugins",
                    got=entry[key],
                    expected=value,
                )
