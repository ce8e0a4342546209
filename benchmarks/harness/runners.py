"""What the contenders are: each factory opens a model file with one library, inside the contender's worker."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from posewarp.benchmarks.harness.worker import Bound, Job
from posewarp.runtime.engine_options import EngineOptions
from posewarp.runtime.errors import BackendError
from posewarp.runtime.session import Session

Feeds = Mapping[str, np.ndarray]


# Sessions of ours: ONNX Runtime on the CPU, engines, and whatever else the runtime opens by suffix


class SessionRunner:
    """``Session.run``, as a service calls it."""

    def __init__(self, file: str, job: Job, **options: Any):
        if job.device == "cuda":
            options |= {"device": "cuda", "engine": EngineOptions(cuda_graph=job.cuda_graph)}
        self._session = Session.open(file, threads=job.threads, contract=job.contract, **options)
        self._on_device = not job.host_copies
        self.name = f"{self._session.backend.name} on {self._session.device}"

    def bind(self, feeds: Feeds) -> Bound:
        into: dict[str, Any] = {}
        if self._on_device:
            import torch

            into = {name: torch.from_numpy(array).cuda() for name, array in self._session.run(feeds).items()}
            feeds = {name: torch.from_numpy(array).cuda() for name, array in feeds.items()}
        last: dict[str, Any] = {}
        arguments = (feeds, into) if into else (feeds,)
        return Bound(
            lambda: last.update(self._session.run(*arguments)),
            lambda: {name: value.cpu().numpy() if into else value for name, value in last.items()},
        )


def session(file: str, job: Job) -> SessionRunner:
    return SessionRunner(file, job)


def plain_session(file: str, job: Job) -> SessionRunner:
    """Without our plugin library."""
    return SessionRunner(file, job, plugins=())


def library_session(file: str, job: Job) -> SessionRunner:
    """With our plugin library, which must be there."""
    from posewarp.runtime import plugin_library

    return SessionRunner(file, job, plugins=[plugin_library.load().path])


# ONNX Runtime's providers, by bindings, since arrays on the device are theirs to make


class ProviderRunner:
    """One execution provider of ONNX Runtime, and never another in its place."""

    def __init__(self, file: str, job: Job, provider: str, settings: Mapping[str, str]):
        import onnxruntime as ort

        self._ort, self._job = ort, job
        if hasattr(ort, "preload_dlls") and job.device == "cuda":
            ort.preload_dlls()
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = job.threads, 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(file, options, providers=[(provider, dict(settings))])
        if (taken := self._session.get_providers()[0]) != provider:
            raise BackendError(f"asked ONNX Runtime for {provider}, it took {taken}")
        self.name = f"ONNX Runtime {ort.__version__}, {provider}"

    def bind(self, feeds: Feeds) -> Bound:
        device, copies = self._job.device, self._job.host_copies
        names = [output.name for output in self._session.get_outputs()]
        # Shapes of the outputs; a graph wants their addresses to stay, so nothing is captured in this run.
        uncaptured = self._ort.RunOptions()
        uncaptured.add_run_config_entry("gpu_graph_id", "-1")
        shaped = self._session.run(names, dict(feeds), uncaptured if self._job.cuda_graph else None)
        make = self._ort.OrtValue.ortvalue_from_numpy
        inputs = {name: make(array, device, 0) for name, array in feeds.items()}
        outputs = {name: make(array, device, 0) for name, array in zip(names, shaped, strict=True)}
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        fetched: dict[str, np.ndarray] = {}

        def fetch() -> dict[str, np.ndarray]:
            return {name: value.numpy() for name, value in outputs.items()}

        def call() -> None:
            if copies:
                for name, value in inputs.items():
                    value.update_inplace(feeds[name])
            self._session.run_with_iobinding(binding)
            if copies:
                fetched.update(fetch())
            else:
                binding.synchronize_outputs()

        return Bound(call, fetch)


def cuda_provider(file: str, job: Job) -> ProviderRunner:
    # TF32 would move warps by 0.1 px; see backends/onnxruntime.py.
    settings = {"use_tf32": "0", "enable_cuda_graph": str(int(job.cuda_graph))}
    return ProviderRunner(file, job, "CUDAExecutionProvider", settings)


def tensorrt_provider(file: str, job: Job) -> ProviderRunner:
    settings = {
        "trt_cuda_graph_enable": str(job.cuda_graph),
        "trt_fp16_enable": str(job.dtype == "fp16"),
        "trt_engine_cache_enable": "False",  # its cache confuses models of one name
    }
    return ProviderRunner(file, job, "TensorrtExecutionProvider", settings)


# PyTorch


class TorchRunner:
    """A checkpoint of ours, or a function that makes an ExportSpec, as fast as PyTorch runs it without more tools.

    Spectral norm is folded and the layout is channels last, which was the faster one on CPUs (1035 ms against 1278)
    and GPUs. FP16 and BF16 are by autocast, which leaves grid_sample in FP32. TF32 is off.
    """

    def __init__(self, file: str, job: Job, compiled: bool):
        import torch

        from posewarp.export.capture.prepare import TensorModule, detached_copy, fold_norms
        from posewarp.export.generator_spec import checkpoint_spec
        from posewarp.export.graphs.graph import load_model
        from posewarp.export.ladder.sample_data import read_contract
        from posewarp.export.spec import load_spec

        torch.set_num_threads(job.threads)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
        io = read_contract(load_model(job.contract)).io if job.contract else "image"
        spec = load_spec(file) if ".py:" in file else checkpoint_spec(file, io=io)
        self._inputs = spec.input_names
        self._names = (*spec.output_names, *spec.intermediates)
        module = TensorModule(fold_norms(detached_copy(spec.module)), len(self._names))
        self._module = module.to(job.device, memory_format=torch.channels_last)
        if compiled:
            options = {"freezing": True, "triton.cudagraphs": job.cuda_graph}
            self._module = torch.compile(self._module, dynamic=False, options=options)
        self._torch, self._job = torch, job
        self._captures = job.cuda_graph and not compiled
        self.name = f"PyTorch {torch.__version__} on {job.device}"

    def bind(self, feeds: Feeds) -> Bound:
        torch, job = self._torch, self._job
        host = [torch.from_numpy(feeds[name]) for name in self._inputs]
        held = [value.to(job.device, copy=True) for value in host]
        last: list[Any] = []
        run = self._captured(held) if self._captures else lambda: self._forward(held)

        def call() -> None:
            if job.host_copies and job.device == "cuda":
                for value, source in zip(held, host, strict=True):
                    value.copy_(source, non_blocking=True)
            results = run()
            last[:] = [value.cpu() for value in results] if job.host_copies else results
            if job.device == "cuda":
                torch.cuda.synchronize()

        return Bound(
            call,
            lambda: {
                name: value.float().cpu().numpy() if value.is_floating_point() else value.cpu().numpy()
                for name, value in zip(self._names, last, strict=True)
            },
        )

    def _forward(self, inputs: list[Any]) -> tuple[Any, ...]:
        torch, low = self._torch, {"fp16": "float16", "bf16": "bfloat16"}.get(self._job.dtype)
        half = torch.autocast(self._job.device, getattr(torch, low)) if low else contextlib.nullcontext()
        with torch.inference_mode(), half:
            return self._module(*inputs)

    def _captured(self, inputs: list[Any]) -> Any:
        """A CUDA graph's replay; its outputs lie where they lay at capture."""
        torch = self._torch
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # allocations and autotuning must not fall into the capture
                self._forward(inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self._forward(inputs)

        def replay() -> tuple[Any, ...]:
            graph.replay()
            return outputs

        return replay


def torch_eager(file: str, job: Job) -> TorchRunner:
    return TorchRunner(file, job, compiled=False)


def torch_compile(file: str, job: Job) -> TorchRunner:
    return TorchRunner(file, job, compiled=True)


# OpenVINO


class OpenVinoRunner:
    """OpenVINO on the CPU in FP32; its ONNX reader knows no local functions, so they are inlined first."""

    def __init__(self, file: str, job: Job):
        import openvino

        from posewarp.export.graphs.graph import inline_functions, load_model
        from posewarp.export.graphs.warps import rewrite_warps

        model = inline_functions(rewrite_warps(load_model(file), "gridsample")).SerializeToString()
        core = openvino.Core()
        settings = {
            "INFERENCE_NUM_THREADS": job.threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._compiled = core.compile_model(core.read_model(model, b""), "CPU", settings)
        self.name = f"OpenVINO {openvino.__version__.split('-')[0]} on cpu"

    def bind(self, feeds: Feeds) -> Bound:
        request, last = self._compiled.create_infer_request(), {}

        def call() -> None:
            # Copies of the outputs: a session's belong to the caller, too.
            for port, value in request.infer(dict(feeds)).items():
                last[port.any_name] = value.copy()

        return Bound(call, lambda: last)


def openvino(file: str, job: Job) -> OpenVinoRunner:
    return OpenVinoRunner(file, job)
