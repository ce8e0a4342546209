"""Side-cars of engines, put together from what was asked, what the builder saw, and what is not known."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from posewarp.export.engines.graph import onnx_sha256
from posewarp.export.engines.request import BuildRequest
from posewarp.runtime.contract import Contract
from posewarp.runtime.files import sha256
from posewarp.runtime.sidecar import NOT_EXECUTED, Sidecar


def describe(request: BuildRequest, path: Path, contract: Contract) -> dict[str, Any]:
    """The part of a side-car that is known before the build, and that decides whether to build again."""
    wanted = {
        "origin": "built",
        "onnx": describe_onnx(path),
        "backend": request.backend,
        "targets": request.targets,
        "tf32": request.tf32,
        "profiles": request.profiles,
        "contract": json.loads(contract.to_json()),
        "plugins": [{"name": Path(library).name, "sha256": sha256(library)} for library in request.plugins],
        "options": {
            "precision": request.precision,
            "version_compatible": request.version_compatible,
            "exclude_lean_runtime": request.exclude_lean_runtime,
            "hardware_compatibility": request.hardware_compatibility,
            "workspace_mib": request.workspace_mib,
            "optimization_level": request.optimization_level,
            "timing_cache": bool(request.timing_cache),
        },
        "versions": own_versions(),
    }
    return json.loads(json.dumps(wanted))  # tuples become lists, as they are read back


def describe_onnx(path: Path) -> dict[str, str]:
    return {"name": path.name, "sha256": onnx_sha256(path)}


def own_versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("posewarp", "onnx")}


def is_same(previous: Sidecar, wanted: Mapping[str, Any]) -> bool:
    """Whether an engine was built from and as what is wanted; its library and GPU are not compared."""
    held = asdict(previous)
    held["versions"] = {name: previous.versions.get(name) for name in wanted["versions"]}
    held["plugins"] = [{"name": p["name"], "sha256": p["sha256"]} for p in previous.plugins]
    held["onnx"] = {**held["onnx"], "name": wanted["onnx"]["name"]}  # a copy is the same file
    return all(held[name] == value for name, value in wanted.items())


def assemble(seen: Mapping[str, Any], plan: Path, engine: Path, wanted: Mapping[str, Any]) -> Sidecar:
    """The side-car of an engine that was just built.

    Args:
        seen: what ``engine_builder.build`` returned.
        plan: where the plan is now; ``engine``: what it will be called.
        wanted: from ``describe``.
    """
    brought = {name: ", ".join(creators) for name, creators in seen["plugins"].items()}
    known = {
        "plan": {"sha256": sha256(plan), "bytes": plan.stat().st_size},
        "plugins": [{**entry, "version": brought[entry["name"]]} for entry in wanted["plugins"]],
        "versions": {**seen["versions"], **wanted["versions"]},
        "device": seen["device"],
        "inputs": seen["inputs"],
        "outputs": seen["outputs"],
        "precision": {
            "asserted": wanted["options"]["precision"],
            "half": seen["half"],
            "all": seen["compute"],
        },
        "grid_samples": seen["grid_samples"],
        "parity": [not_executed(wanted["onnx"]["name"], engine)],
    }
    return Sidecar(**{**wanted, **known})


def not_executed(reference: str, engine: Path) -> dict[str, str]:
    """The rung of parity of an engine that has not been run."""
    return {"reference": reference, "model": engine.name, "status": NOT_EXECUTED}
