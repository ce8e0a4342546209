"""The limit of a row: what a model must compute and move, and how fast the machine does either.

The rates are measured by contenders of their own, in the same rounds as the models. A product (Conv, ConvTranspose,
Gemm, MatMul) counts by its direct form, so an algorithm with fewer multiplications (Winograd) may pass the limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from posewarp.benchmarks.harness.worker import Bound, Job
from posewarp.export.graphs.graph import Index, inline_functions, load_model, node_id, tensor_types
from posewarp.export.graphs.warps import rewrite_warps
from posewarp.export.precision.ranges import measure_ranges
from posewarp.export.precision.report import PRODUCTS, product_flops

# (M, K) @ (K, N): large enough for a library's full rate, 0.05 s on a core of 2023.
GEMM_SIZE = {"cpu": 1024, "cuda": 8192}
# Bytes of each array: beyond caches, so that the rate is memory's.
COPY_BYTES = {"cpu": 128 * 2**20, "cuda": 2**30}


@dataclass(frozen=True)
class Work:
    """Of one run of a model.

    Attributes:
        flops: multiplications and additions of its products, each counted.
        weight_bytes: FP32 weights, which every run reads.
        tensor_bytes: inputs and outputs of its products and warps in FP32: what is moved if all else is fused.
    """

    flops: float
    weight_bytes: float
    tensor_bytes: float

    def scaled(self, factor: float) -> Work:
        """Of a batch ``factor`` times as large."""
        return Work(self.flops * factor, self.weight_bytes, self.tensor_bytes * factor)

    def bytes(self, dtype: str) -> float:
        return (self.weight_bytes + self.tensor_bytes) * (1.0 if dtype == "fp32" else 0.5)

    def limit_ms(self, dtype: str, gemm_gflops: float, copy_gb_s: float) -> float:
        """The shortest time: computing and moving overlap."""
        return max(self.flops / gemm_gflops, self.bytes(dtype) / copy_gb_s) / 1e6


def measure_work(path: Path, feeds: Mapping[str, np.ndarray]) -> Work:
    """Count what a model does on given inputs, by running it once.

    Raises: BackendError if ONNX Runtime cannot run it.
    """
    model = inline_functions(rewrite_warps(load_model(path), "gridsample"))
    ranges, index, types = measure_ranges(model, [feeds]), Index(model), tensor_types(model)
    flops = weights = tensors = 0.0
    for node in index.nodes.values():
        if node.op_type not in (*PRODUCTS, "GridSample"):
            continue
        if node.op_type in PRODUCTS:
            flops += product_flops(node, index, ranges, types)
        for name in (*node.input, node_id(node)):
            if name in index.constants:
                weights += 4.0 * np.prod(index.constants[name].dims)
            elif name in ranges:
                tensors += 4.0 * ranges[name].elements
    return Work(flops, weights, tensors)


class GemmRunner:
    """A square matrix product, by PyTorch where it is there (MKL or cuBLAS, TF32 off), else by numpy."""

    def __init__(self, file: str, job: Job):
        size = GEMM_SIZE[job.device]
        try:
            import torch
        except ImportError:
            if job.device == "cuda":
                raise
            left, right = np.ones((2, size, size), np.float32)
            out = np.empty_like(left)
            self.name, self._call = f"numpy {np.__version__}", lambda: np.matmul(left, right, out=out)
            return
        torch.set_num_threads(job.threads)
        torch.backends.cuda.matmul.allow_tf32 = False
        dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[job.dtype]
        left, right = torch.ones((2, size, size), dtype=dtype, device=job.device)
        out = torch.empty_like(left)

        def call() -> None:
            torch.mm(left, right, out=out)
            if job.device == "cuda":
                torch.cuda.synchronize()

        self.name, self._call = f"PyTorch {torch.__version__}", call

    def bind(self, feeds: Mapping[str, np.ndarray]) -> Bound:
        return Bound(self._call, dict)


class CopyRunner:
    """A copy between two large arrays; on the CPU a part for each thread."""

    def __init__(self, file: str, job: Job):
        size = COPY_BYTES[job.device]
        if job.device == "cuda":
            import torch

            source = torch.ones(size, dtype=torch.uint8, device="cuda")
            target = torch.empty_like(source)

            def call() -> None:
                target.copy_(source)
                torch.cuda.synchronize()

            self.name, self._call = f"PyTorch {torch.__version__}", call
            return
        pool = ThreadPoolExecutor(job.threads)
        source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
        parts = list(
            zip(np.array_split(target, job.threads), np.array_split(source, job.threads), strict=True)
        )
        self.name = f"numpy {np.__version__}"
        self._call = lambda: list(pool.map(lambda part: np.copyto(*part), parts))

    def bind(self, feeds: Mapping[str, np.ndarray]) -> Bound:
        return Bound(self._call, dict)


def gemm_gflops(median_ms: float, device: str) -> float:
    return 2.0 * GEMM_SIZE[device] ** 3 / median_ms / 1e6


def copy_gb_s(median_ms: float, device: str) -> float:
    """Bytes read and bytes written, each counted."""
    return 2.0 * COPY_BYTES[device] / median_ms / 1e6
