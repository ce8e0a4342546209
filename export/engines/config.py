"""How a builder is told what to build: targets, flags, profiles, timing cache, progress.

Both libraries, and TensorRT 10 and 11, through one code path: what to set is decided by what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from posewarp.export.engines.request import NAMES, BuildRequest
from posewarp.runtime.errors import EngineError

_HARDWARE = {"ampere+": "AMPERE_PLUS", "same-compute-capability": "SAME_COMPUTE_CAPABILITY"}
_MIB = 2**20


def find_targets(trt: ModuleType, request: BuildRequest) -> list[Any]:
    """The library's names of the targets.

    Raises: EngineError if it offers another set of them, or none.
    """
    offered = getattr(trt, "ComputeCapability", None)
    if not request.targets:
        return []
    if offered is None:
        raise EngineError(
            "TensorRT builds for the GPU that it runs on, and takes no --target; take --backend rtx, or "
            "--hardware-compatibility"
        )
    known = {
        name[2:-1] + "." + name[-1]: value for name, value in offered.__members__.items() if "SM" in name
    } | {name.lower(): value for name, value in offered.__members__.items() if name == "CURRENT"}
    for target in request.targets:
        if target not in known:
            raise EngineError(
                f"--target has {target}; this {NAMES[request.backend]} ({trt.__version__}) offers "
                f"{', '.join(known)}; for others take --backend tensorrt on such a GPU",
                got=target,
                expected=list(known),
            )
    return [known[target] for target in request.targets]


def configure(
    trt: ModuleType,
    request: BuildRequest,
    config: Any,
    targets: Sequence[Any],
    place: dict[str, Any],
    notes: list[str],
) -> Callable[[], None] | None:
    """Set all but profiles and monitor.

    Args:
        targets: from ``find_targets``.
        place: ``versions`` and ``device``, which a timing cache belongs to.
        notes: what a user should know is added here.

    Returns: what stores the timing cache after the build, None if there is none.
    """
    flags = trt.BuilderFlag
    (config.set_flag if request.tf32 else config.clear_flag)(flags.TF32)
    if request.version_compatible:
        config.set_flag(flags.VERSION_COMPATIBLE)
    if request.exclude_lean_runtime:
        config.set_flag(flags.EXCLUDE_LEAN_RUNTIME)
    if request.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_mib * _MIB)
    if request.optimization_level is not None:
        config.builder_optimization_level = request.optimization_level
    if request.hardware_compatibility:
        config.hardware_compatibility_level = _level(trt, request)
    if targets:
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            if not config.set_compute_capability(target, index):
                raise EngineError(f"the target {request.targets[index]} cannot be set")
    # Any touch of the timing cache makes TensorRT-RTX look for a GPU.
    return _set_timing_cache(request, config, place, notes) if request.timing_cache else None


def _level(trt: ModuleType, request: BuildRequest) -> Any:
    name = _HARDWARE[request.hardware_compatibility]
    level = getattr(trt.HardwareCompatibilityLevel, name, None)
    if level is None:
        raise EngineError(
            f"this TensorRT ({trt.__version__}) has no hardware compatibility {request.hardware_compatibility}"
        )
    return level


def check_level(trt: ModuleType, request: BuildRequest, logger: Any, plan: Any) -> None:
    """Read the level back: it was seen accepted and not in the engine."""
    runtime = trt.Runtime(logger)
    if request.version_compatible:
        runtime.engine_host_code_allowed = True  # the lean runtime in a plan that was made a moment ago
    engine = there(
        runtime.deserialize_cuda_engine(plan), "the engine that was just built cannot be read back"
    )
    if engine.hardware_compatibility_level != _level(trt, request):
        raise EngineError(
            f"hardware compatibility {request.hardware_compatibility} was asked, the engine has "
            f"{engine.hardware_compatibility_level.name}",
            got=engine.hardware_compatibility_level.name,
            expected=request.hardware_compatibility,
        )


def _set_timing_cache(
    request: BuildRequest, config: Any, place: dict[str, Any], notes: list[str]
) -> Callable[[], None]:
    """Use the cache of this version and device; a foreign one is a hard error in TensorRT, and a note here."""
    device = place["device"] or {"name": "unknown-gpu", "compute_capability": "unknown"}
    key = "-".join((*place["versions"].values(), device["name"], device["compute_capability"]))
    path = Path(request.timing_cache) / f"tensorrt-{key.replace(' ', '_').replace('/', '_')}.cache"
    stored = path.read_bytes() if path.exists() else b""
    accepted = False
    try:
        cache = config.create_timing_cache(stored)
        accepted = cache is not None and config.set_timing_cache(cache, ignore_mismatch=False)
    except (RuntimeError, TypeError) as exc:  # what is not a cache at all
        notes.append(f"{path.name}: {exc}")
    if not accepted:
        notes.append(
            f"the timing cache {path.name} is of another TensorRT or GPU; it is ignored and replaced"
        )
        cache = there(config.create_timing_cache(b""), "no timing cache can be made")
        config.set_timing_cache(cache, ignore_mismatch=False)

    def store() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".posewarp-{path.name}")
        temporary.write_bytes(config.get_timing_cache().serialize())
        temporary.replace(path)

    return store


def add_profile(builder: Any, config: Any, network: Any, shapes: dict[str, Any]) -> None:
    """Add one optimisation profile.

    Raises: EngineError naming the input that the library refuses.
    """
    profile = builder.create_optimization_profile()
    inputs = {network.get_input(i).name: network.get_input(i) for i in range(network.num_inputs)}
    for name, triple in shapes.items():
        if inputs[name].is_shape_tensor:
            raise EngineError(
                f"input {name} is a tensor of sizes, whose values need a profile: not supported"
            )
        try:
            profile.set_shape(name, *(tuple(triple[kind]) for kind in ("min", "opt", "max")))
        except (ValueError, TypeError) as exc:
            raise EngineError(f"the profile of input {name} is refused: {exc}") from exc
    if config.add_optimization_profile(profile) == -1:
        raise EngineError(f"the profile of {', '.join(shapes)} is refused")


def set_monitor(trt: ModuleType, config: Any, tell: Callable) -> Any:
    """Have phases and steps told, where the library can; returns what must live as long as the build."""
    if not hasattr(trt, "IProgressMonitor") or not hasattr(config, "progress_monitor"):
        return None

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            tell("phase", [name, parent, steps])

        def step_complete(self, name: str, step: int) -> bool:
            tell("step", [name, step])
            return True

        def phase_finish(self, name: str) -> None:
            tell("done", name)

    monitor = Monitor()
    config.progress_monitor = monitor
    return monitor


def find_device() -> dict[str, str] | None:
    """Name and compute capability of the GPU, None if that cannot be known."""
    try:
        runtime = import_module("cuda.bindings.runtime")
    except ImportError:
        return None
    _, driver = runtime.cudaDriverGetVersion()
    if not driver:
        return None
    error, properties = runtime.cudaGetDeviceProperties(0)
    if int(error):
        return None
    name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
    return {"name": name.strip("\0"), "compute_capability": f"{properties.major}.{properties.minor}"}


def there(made: Any, otherwise: str) -> Any:
    """What a binding made; it says None for failure.

    Raises: EngineError, saying ``otherwise``.
    """
    if made is None:
        raise EngineError(otherwise)
    return made
