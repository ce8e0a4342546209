"""A side-car for an engine that another program, such as trtexec, built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from posewarp.export.engines.graph import checked, contract_of
from posewarp.export.engines.request import NAMES
from posewarp.export.engines.sidecars import describe_onnx, not_executed, own_versions
from posewarp.export.graphs.graph import load_model
from posewarp.runtime import command, sidecar
from posewarp.runtime.contract import TensorSpec
from posewarp.runtime.errors import EngineError
from posewarp.runtime.files import check_outputs, sha256
from posewarp.runtime.sidecar import NOT_EXECUTED, Sidecar

_UNKNOWN = ("device", "targets", "tf32", "profiles", "grid_samples", "plugins", "options")
_FIRST_TENSORRT = 5  # TensorRT-RTX counts from 1


def adopt(engine: str | Path, onnx_path: str | Path) -> Sidecar:
    """Write the side-car of an engine that another program built.

    That it was built from this file is the caller's word. What cannot be known is named under ``unknown``; types
    are those of the ONNX file, which a weakly typed build may have changed.

    Raises: EngineError if the engine is no plan, or has the side-car of its build already; ExportError if the
        model cannot be read.
    """
    engine, path = Path(engine), Path(onnx_path)
    check_outputs({"the side-car": sidecar.path_of(engine)}, [engine, path], EngineError)
    version = sidecar.read_header(engine).version
    known = sidecar.read(engine)
    if known and known.origin == "built" and known.plan["sha256"] == sha256(engine):
        raise EngineError(
            f"{engine} has the side-car of its build, which knows more; delete it to adopt all the same"
        )
    backend = "rtx" if version and int(version.split(".")[0]) < _FIRST_TENSORRT else "tensorrt"
    model = load_model(path)
    contract = contract_of(model)
    _, (half, compute, _) = checked(model, plugins=True)
    adopted = Sidecar(
        origin="adopted",
        plan={"sha256": sha256(engine), "bytes": engine.stat().st_size},
        onnx=describe_onnx(path),
        backend=backend,
        versions={NAMES[backend]: version or "unknown", **own_versions()},
        inputs=[_tensor(spec) for spec in contract.inputs],
        outputs=[_tensor(spec) for spec in contract.outputs],
        precision={"asserted": None, "half": half, "all": compute},
        contract=json.loads(contract.to_json()),
        parity=[not_executed(path.name, engine)],
        unknown=_UNKNOWN,
    )
    sidecar.write(engine, adopted)
    return adopted


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else -1 for size in spec.shape]
    return {"name": spec.name, "dtype": spec.dtype, "shape": shape}


app = typer.Typer(add_completion=False)


@app.command("adopt")
def _command(
    engine: Annotated[Path, typer.Argument(help="A plan that trtexec or another program built.")],
    onnx: Annotated[Path, typer.Option(help="The file that it was built from.")],
) -> None:
    """Write the side-car of an engine that another program built."""
    adopted = adopt(engine, onnx)
    library = NAMES[adopted.backend]
    print(
        f"{sidecar.path_of(engine)}: {engine} is of {library} {adopted.versions[library]}, from {onnx} on your word\n"
        f"  not known: {', '.join(adopted.unknown)}\n"
        f"  parity {onnx.name} -> {engine.name}: {NOT_EXECUTED}"
    )


if __name__ == "__main__":
    command.main(app)
