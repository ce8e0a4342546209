"""The same build as lines for NVIDIA's trtexec.

Flags are those of trtexec 10 and 11 (read in samples/common/sampleOptions.cpp). trtexec 11 types every network by
its ONNX file: --fp16, --bf16 and --best are gone, --stronglyTyped is accepted and does nothing. On trtexec 10 it
is needed, else the builder types FP32 again what the file holds in FP16.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from posewarp.export.engines.profiles import KINDS, format_shapes
from posewarp.export.engines.request import BuildRequest

_LEVELS = {"ampere+": "ampere+", "same-compute-capability": "sameComputeCapability"}


def trtexec_lines(request: BuildRequest, onnx: Path, output: Path) -> list[str]:
    """Commented command lines for TensorRT 10, for 11, and for the lean runtime.

    Args:
        request: of the build; its ``plugins`` decide which form of the file is wanted.
        onnx: the user's file.
        output: the engine.
    """
    lines = []
    if not output.parent.is_dir():
        lines += ["# trtexec makes no folder", shlex.join(["mkdir", "-p", str(output.parent)])]
    for major in (10, 11):
        file = onnx
        if request.plugins and major == 10:
            file = onnx.with_suffix(".plugin.onnx")
            lines.append(
                "# TensorRT 10 (its earlier parsers take a warp's function body before its plugin: use the file "
                f"without body, posewarp fp16 --warp plugin or posewarp export --warp plugin, here {file})"
            )
        else:
            lines.append(f"# TensorRT {major}")
        if major == 10 and request.hardware_compatibility == "same-compute-capability":
            lines.append("# (its earlier releases, 10.5 among them, have no level sameComputeCapability)")
        lines.append(_join(_build_flags(request, file, output, major)))
    lines.append("# run it, full runtime")
    lines.append(_join([f"--loadEngine={output}", *_plugins(request)]))
    lines.append("# lean runtime")
    if request.version_compatible:
        lines.append(_join([f"--loadEngine={output}", "--useRuntime=lean", *_plugins(request)]))
    else:
        lines.append("# needs an engine built with --version-compatible")
    return lines


def _build_flags(request: BuildRequest, onnx: Path, output: Path, major: int) -> list[str]:
    flags = [f"--onnx={onnx}", f"--saveEngine={output}", "--skipInference"]
    if major == 10:
        flags.append("--stronglyTyped")
    if not request.tf32:
        flags.append("--noTF32")
    for index, profile in enumerate(request.profiles):
        if len(request.profiles) > 1:
            flags.append(f"--profile={index}")
        flags += [f"--{kind}Shapes={format_shapes(profile, kind)}" for kind in KINDS]
    if request.version_compatible:
        flags.append("--versionCompatible")
    if request.exclude_lean_runtime:
        flags.append("--excludeLeanRuntime")
    if request.hardware_compatibility:
        flags.append(f"--hardwareCompatibilityLevel={_LEVELS[request.hardware_compatibility]}")
    if request.workspace_mib is not None:
        flags.append(f"--memPoolSize=workspace:{request.workspace_mib}M")
    if request.optimization_level is not None:
        flags.append(f"--builderOptimizationLevel={request.optimization_level}")
    if request.timing_cache:
        # A cache of another version is a hard error in trtexec.
        flags.append(f"--timingCacheFile={Path(request.timing_cache) / f'trtexec-{major}.cache'}")
    return flags + _plugins(request)


def _plugins(request: BuildRequest) -> list[str]:
    """Our library is loaded by the plugin registry, through its getCreators: what --dynamicPlugins does.

    --staticPlugins only opens a library, which must then register itself, and needs the full runtime.
    """
    return [f"--dynamicPlugins={path}" for path in request.plugins]


def _join(flags: Sequence[str]) -> str:
    return " ".join(["trtexec", *map(shlex.quote, flags)])
