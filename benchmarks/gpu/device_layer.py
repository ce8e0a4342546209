"""The device layer on a real GPU: page-locked copies, streams at once, our kernel launched and in a CUDA graph.

    python -m posewarp.benchmarks.gpu.device_layer --json device.json

Once with each provider that is there. The kernel comes from libposewarp_launch.so, which benchmarks/gpu/launch.sh
builds. Everything is compared with what is right before it is timed; times are the host's, from before the first call
until the stream has been waited for, medians of 20.
"""

from __future__ import annotations

import ctypes
import json
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import torch
import typer

from posewarp.runtime import command
from posewarp.runtime.backends.device import Device, open_device
from posewarp.runtime.engine_options import PROVIDERS
from posewarp.runtime.errors import BackendError, ParityError, PluginError
from posewarp.runtime.files import atomic_write

LIBRARY = Path("build/plugins/lib/libposewarp_launch.so")
SHAPE = (1, 256, 64, 44)
COPY_BYTES = 256 * 2**20
REPEATS, LAUNCHES = 20, 20
# FP32 against PyTorch's FP32 on the CPU, features in [0, 1): positions differ by their last bits.
ATOL = 1e-4


class Launch(Protocol):
    """Puts the kernel on a stream: addresses of features, grid and output, features' shape, the stream's handle."""

    def __call__(
        self, features: int, grid: int, output: int, shape: tuple[int, ...], stream: int
    ) -> None: ...


def load_kernel(path: Path = LIBRARY) -> Launch:
    """Our kernel from its library.

    Raises: PluginError if the library is missing or does not load.
    """
    if not path.exists():
        raise PluginError(f"no {path}; build it: make plugins && bash benchmarks/gpu/launch.sh build/plugins")
    try:
        function = ctypes.CDLL(str(path)).posewarp_launch_grid_sample
    except (OSError, AttributeError) as exc:
        raise PluginError(f"{path} does not load: {exc}") from exc
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = (pointer, pointer, pointer, size, size, size, size, pointer)

    def launch(features: int, grid: int, output: int, shape: tuple[int, ...], stream: int) -> None:
        if status := function(features, grid, output, *shape, stream):
            raise BackendError(f"CUDA failed in launchGridSample: status {status}", got=status)

    return launch


def measure(device: Device, launch: Launch, copy_bytes: int = COPY_BYTES) -> dict[str, Any]:
    """Figures of one provider.

    Raises: ParityError if something is not as it must be; BackendError if the driver refuses.
    """
    with device.current():
        return {
            "gpu": device.name,
            "compute_capability": device.compute_capability,
            **_copies(device, copy_bytes),
            "kernel": _kernel(device, launch),
        }


def _time_s(device: Device, streams: list[Any], work: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS + 1):  # the first warms up
        started = time.perf_counter()
        work()
        for stream in streams:
            device.synchronize(stream)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def _held(device: Device, stack: ExitStack, make: Callable[..., Any], free: Callable, *size: int) -> Any:
    made = make(*size)
    stack.callback(free, made)
    return made


def _copies(device: Device, size: int) -> dict[str, float]:
    """Rates of page-locked copies, each way and both ways at once on two streams."""
    with ExitStack() as stack:
        first, second = (_held(device, stack, device.stream, device.free_stream) for _ in range(2))
        memory, other = (_held(device, stack, device.allocate, device.free, size) for _ in range(2))
        there, back = (
            _held(device, stack, device.allocate_pinned, device.free_pinned, size) for _ in range(2)
        )
        there[:] = np.random.default_rng(0).integers(0, 256, size, np.uint8)
        device.copy_in(int(memory), there, first)
        device.copy_out(back, int(memory), first)
        device.synchronize(first)
        _expect(np.array_equal(there, back), "what was copied in did not come out")

        def both() -> None:
            device.copy_in(int(other), there, first)
            device.copy_out(back, int(memory), second)

        seconds = {
            "copy_in_gb_s": _time_s(device, [first], lambda: device.copy_in(int(memory), there, first)),
            "copy_out_gb_s": _time_s(device, [first], lambda: device.copy_out(back, int(memory), first)),
            "both_ways_gb_s": _time_s(device, [first, second], both) / 2,
        }
    return {name: size / value / 1e9 for name, value in seconds.items()}


def _kernel(device: Device, launch: Launch) -> dict[str, Any]:
    """Our kernel on a stream, and 20 of it in a graph where there are graphs, microseconds for one."""
    batch, _, height, width = SHAPE
    rng = np.random.default_rng(1)
    features = rng.random(SHAPE, np.float32)
    grid = (2.2 * rng.random((batch, height, width, 2), np.float32) - 1.1).astype(np.float32)
    with ExitStack() as stack:
        stream = _held(device, stack, device.stream, device.free_stream)
        held = [
            _held(device, stack, device.allocate, device.free, array.nbytes)
            for array in (features, grid, features)
        ]
        host = [
            _held(device, stack, device.allocate_pinned, device.free_pinned, array.nbytes)
            for array in (features, grid, features)
        ]
        addresses = [int(memory) for memory in held]

        def put(array: np.ndarray, place: int) -> None:
            host[place][:] = array.reshape(-1).view(np.uint8)
            device.copy_in(addresses[place], host[place], stream)
            device.synchronize(stream)

        def sample() -> None:
            launch(*addresses, SHAPE, device.handle(stream))

        def check(given: np.ndarray, how: str) -> float:
            device.copy_out(host[2], addresses[2], stream)
            device.synchronize(stream)
            right = torch.nn.functional.grid_sample(
                torch.from_numpy(given), torch.from_numpy(grid), align_corners=True
            ).numpy()
            error = float(np.abs(host[2].view(np.float32).reshape(SHAPE) - right).max())
            _expect(error <= ATOL, f"our kernel, {how}, is off PyTorch's by {error:.3g} (limit {ATOL:g})")
            return error

        def many() -> None:
            for _ in range(LAUNCHES):
                sample()

        put(features, 0)
        put(grid, 1)
        sample()
        found = {"shape": list(SHAPE), "max_abs": check(features, "launched")}
        found["launched_us"] = _time_s(device, [stream], many) / LAUNCHES * 1e6
        if device.captures:
            graph = device.capture(stream, many)
            stack.callback(device.free_graph, graph)
            changed = np.ascontiguousarray(features[:, ::-1])
            put(changed, 0)  # a replay reads what lies in the buffers then
            device.launch(graph, stream)
            check(changed, "replayed on changed features")
            found["graph_us"] = (
                _time_s(device, [stream], lambda: device.launch(graph, stream)) / LAUNCHES * 1e6
            )
    return found


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ParityError(otherwise)


def _in_context(provider: str, stack: ExitStack) -> Device:
    """Opened; pycuda in the primary context, as a pipeline of its user would be."""
    if provider == "pycuda":
        try:
            import pycuda.driver as cuda
        except ImportError as exc:
            raise BackendError(f"pycuda is not here ({exc})") from exc
        cuda.init()
        context = cuda.Device(0).retain_primary_context()
        context.push()
        stack.callback(cuda.Context.pop)
    device = open_device(provider)
    stack.callback(device.close)
    return device


def device_layer(
    library: Annotated[Path, typer.Option(help="The built libposewarp_launch.so.")] = LIBRARY,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
) -> None:
    """Check and time the device layer with each provider; exit 1 unless cuda-python works."""
    launch = load_kernel(library)
    found: dict[str, Any] = {}
    for provider in PROVIDERS:
        with ExitStack() as stack:
            try:
                device = _in_context(provider, stack)
            except BackendError as exc:
                if provider == PROVIDERS[0]:
                    raise
                found[provider] = f"not measured: {exc}"
            else:
                found[provider] = measure(device, launch)
        print(f"{provider}: {found[provider]}")
    if json_path is not None:
        with atomic_write(json_path) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n")


app = typer.Typer(add_completion=False)
app.command()(device_layer)

if __name__ == "__main__":
    command.main(app)
