"""What the two stub modules share: enough of TensorRT's Python interface to drive the builder's code.

A build's "plan" is a plan's header and a JSON text of what was set, which tests read. STUB_FAULT names a fault
to be planted: segfault, killed, refuse (None, as on failure), lost_level, hang, or a size in bytes for the plan.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import time
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace

import onnx
import onnx.inliner
from onnx import TensorProto

FAULT = os.environ.get("STUB_FAULT", "")

DataType = IntEnum(
    "DataType", {"FLOAT": 0, "HALF": 1, "INT8": 2, "INT32": 3, "INT64": 4, "UINT8": 5, "BF16": 6}
)
LayerType = IntEnum(
    "LayerType", ["CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "GRID_SAMPLE", "PLUGIN_V3", "OTHER"]
)
InterpolationMode = IntEnum("InterpolationMode", {"NEAREST": 0, "LINEAR": 1, "CUBIC": 2})
SampleMode = IntEnum("SampleMode", {"STRICT_BOUNDS": 0, "WRAP": 1, "CLAMP": 2, "FILL": 3, "REFLECT": 4})
MemoryPoolType = IntEnum("MemoryPoolType", {"WORKSPACE": 0})

_TYPES = {
    TensorProto.FLOAT: DataType.FLOAT,
    TensorProto.FLOAT16: DataType.HALF,
    TensorProto.BFLOAT16: DataType.BF16,
    TensorProto.INT64: DataType.INT64,
    TensorProto.INT32: DataType.INT32,
    TensorProto.UINT8: DataType.UINT8,
}
_LAYERS = {
    "Conv": "CONVOLUTION",
    "ConvTranspose": "DECONVOLUTION",
    "Gemm": "MATRIX_MULTIPLY",
    "MatMul": "MATRIX_MULTIPLY",
}
_PADDINGS = {"zeros": SampleMode.FILL, "border": SampleMode.CLAMP, "reflection": SampleMode.REFLECT}


class ILogger:
    class Severity(IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4


class IProgressMonitor:
    pass


class ILayer:
    def __init__(self, kind, name, outputs, **settings):
        self.type, self.name, self._outputs = kind, name, outputs
        self.__dict__.update(settings)

    def get_output(self, index):
        return self._outputs[index]


class IGridSampleLayer(ILayer):
    pass


class Network:
    def __init__(self, flags):
        self.flags, self.layers, self.inputs, self.outputs = flags, [], [], []

    num_layers = property(lambda self: len(self.layers))
    num_inputs = property(lambda self: len(self.inputs))
    num_outputs = property(lambda self: len(self.outputs))

    def get_layer(self, index):
        return self.layers[index]

    def get_input(self, index):
        return self.inputs[index]

    def get_output(self, index):
        return self.outputs[index]


class Registry:
    def __init__(self):
        self.all_creators = []

    def load_library(self, path):
        creator = SimpleNamespace(name="MixedGridSample", plugin_version="1", plugin_namespace="posewarp")
        self.all_creators.append(creator)
        return object()

    def get_creator(self, name, version, namespace):
        for creator in self.all_creators:
            if (creator.name, creator.plugin_version, creator.plugin_namespace) == (name, version, namespace):
                return creator
        return None


_REGISTRY = Registry()


def get_plugin_registry():
    return _REGISTRY


def init_libnvinfer_plugins(logger, namespace):
    return True


class Parser:
    """Reads types from the file; ``linear_is_nearest`` as before 11.2, ``function_first`` as in 10.1."""

    linear_is_nearest = False
    function_first = False
    strongly_typed = 1

    def __init__(self, network, logger):
        self.network, self.logger, self.errors = network, logger, []

    num_errors = property(lambda self: len(self.errors))

    def get_error(self, index):
        return self.errors[index]

    def supports_operator(self, op):
        return onnx.defs.has(op) and op != "Hardmax"

    def parse_from_file(self, path):
        model = onnx.load(path)
        if self.function_first or not _REGISTRY.all_creators:
            model = onnx.inliner.inline_local_functions(model)
        inferred = onnx.shape_inference.infer_shapes(model)
        values = {
            v.name: v for v in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
        }
        self.network.inputs = [self._tensor(value) for value in inferred.graph.input]
        self.network.outputs = [self._tensor(value) for value in inferred.graph.output]
        for node in model.graph.node:
            known = self.supports_operator(node.op_type)
            if not known and not any(c.name == node.op_type for c in _REGISTRY.all_creators):
                self.errors.append(_ParserError(f"No importer registered for op: {node.op_type}", node))
                return False
            outputs = [self._tensor(values[name]) if name in values else None for name in node.output]
            self.network.layers.append(self._layer(node, outputs, known))
        return True

    def _tensor(self, value):
        kind = value.type.tensor_type
        dtype = _TYPES[kind.elem_type]
        if not self.network.flags & 1 << self.strongly_typed and dtype == DataType.HALF:
            dtype = DataType.FLOAT  # weakly typed: the builder chooses
        shape = [d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim]
        return SimpleNamespace(name=value.name, dtype=dtype, shape=shape, is_shape_tensor=False)

    def _layer(self, node, outputs, known):
        if not known:
            return ILayer(
                LayerType.PLUGIN_V3, node.name, [SimpleNamespace(name=node.output[0], dtype=DataType.HALF)]
            )
        if node.op_type != "GridSample":
            kind = LayerType[_LAYERS.get(node.op_type, "OTHER")]
            return ILayer(kind, node.name, outputs)
        given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        words = {
            "bilinear": "LINEAR",
            "linear": "LINEAR",
            "nearest": "NEAREST",
            "bicubic": "CUBIC",
            "cubic": "CUBIC",
        }
        mode = given.get("mode", b"bilinear").decode()
        read = "NEAREST" if mode == "linear" and self.linear_is_nearest else words[mode]
        return ILayer(
            LayerType.GRID_SAMPLE,
            node.name,
            outputs,
            interpolation_mode=InterpolationMode[read],
            sample_mode=_PADDINGS[given.get("padding_mode", b"zeros").decode()],
            align_corners=bool(given.get("align_corners", 0)),
        )


class _ParserError:
    def __init__(self, text, node):
        self._text, self._node = text, node

    def desc(self):
        return self._text

    def node_name(self):
        return self._node.name

    def node_operator(self):
        return self._node.op_type


class Profile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, name, smallest, usual, largest):
        self.shapes[name] = [list(smallest), list(usual), list(largest)]


class TimingCache:
    def __init__(self, stored):
        self.stored = stored

    def serialize(self):
        return self.stored


class Config:
    version = ""

    def __init__(self):
        self.builder_flags = {"TF32"}
        self.profiles, self.workspace, self.cache = [], None, None
        self.builder_optimization_level = 3
        self.hardware_compatibility_level = None
        self.progress_monitor = None

    def set_flag(self, flag):
        self.builder_flags.add(flag.name)

    def clear_flag(self, flag):
        self.builder_flags.discard(flag.name)

    def set_memory_pool_limit(self, pool, size):
        self.workspace = size

    def add_optimization_profile(self, profile):
        self.profiles.append(profile.shapes)
        return len(self.profiles) - 1

    def create_timing_cache(self, stored):
        return TimingCache(stored)

    def set_timing_cache(self, cache, ignore_mismatch):
        mark = f"cache of {self.version}".encode()
        if cache.stored and cache.stored != mark:
            return False
        self.cache = TimingCache(mark)
        return True

    def get_timing_cache(self):
        return self.cache


class Builder:
    version = ""
    levels = None

    def __init__(self, logger):
        self.logger = logger

    def create_network(self, flags=0):
        return Network(flags)

    def create_optimization_profile(self):
        return Profile()

    def build_serialized_network(self, network, config):
        if config.progress_monitor:
            config.progress_monitor.phase_start("Building engine", None, 1)
            config.progress_monitor.step_complete("Building engine", 0)
            config.progress_monitor.phase_finish("Building engine")
        self.logger.log(ILogger.Severity.WARNING, "a warning of the stub")
        if FAULT == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if FAULT == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if FAULT == "hang":
            Path(os.environ["STUB_STARTED"]).write_text(str(os.getpid()))
            time.sleep(60)
        if FAULT == "refuse":
            self.logger.log(ILogger.Severity.ERROR, "no implementation for node {ForeignNode[a...b]}")
            return None
        level = config.hardware_compatibility_level
        record = {
            "network_flags": network.flags,
            "flags": sorted(config.builder_flags),
            "profiles": config.profiles,
            "workspace": config.workspace,
            "optimization_level": config.builder_optimization_level,
            "level": None if FAULT == "lost_level" or level is None else level.name,
            "layers": [layer.type.name for layer in network.layers],
        }
        text = json.dumps(record).encode()
        size = int(FAULT) if FAULT.isdecimal() else 0
        numbers = bytes(int(part) for part in self.version.split("."))
        return struct.pack("<4sIQQ", b"ftrt", 0, 0, 0) + numbers + text + bytes(size)


class Runtime:
    levels = None

    def __init__(self, logger):
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, plan):
        record = json.loads(plan[28:].rstrip(b"\0"))
        return SimpleNamespace(hardware_compatibility_level=self.levels[record["level"] or "NONE"])
