"""What of a model will go wrong where it shall run, read from the file alone."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from onnx import ModelProto
from rich.console import Console

from posewarp.export.linting.facts import Facts
from posewarp.export.linting.graph_rules import GRAPH_RULES
from posewarp.export.linting.rules import SEVERITIES
from posewarp.export.linting.targets import Target
from posewarp.export.linting.warp_rules import WARP_RULES
from posewarp.runtime import command
from posewarp.runtime.errors import ExportError
from posewarp.runtime.files import atomic_write, check_outputs

RULES = sorted((*GRAPH_RULES, *WARP_RULES), key=lambda rule: rule.id)


@dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes:
        rule: id of the rule, such as ``PW021``; ids keep their meaning.
        severity: ``error`` for what fails or changes pixels at this target, ``warning`` for what may.
        where: the node, tensor, input or output.
        message: what is the matter there.
        remedy: what to do about it.
    """

    rule: str
    severity: str
    where: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.severity} {self.rule} {self.where}: {self.message}"


def lint(model: ModelProto | str | Path, target: str) -> list[Finding]:
    """Apply ``RULES`` to a model, of ours or anyone's. Nothing is run or built.

    Args:
        model: a file, or a model in memory.
        target: ``tensorrt-10.3``, ``rtx-1.7``, ``onnxruntime``, ``openvino``, with any version or none, which
            stands for every version.

    Returns: errors first, each kind in the order of the rules.
    Raises: ExportError if the file is missing, truncated or not ONNX, or the target is unknown.
    """
    parsed = Target.parse(target)
    facts = Facts(model, parsed)
    findings = [
        Finding(rule.id, severity, where, message, rule.remedy)
        for rule in RULES
        if (severity := rule.severity(parsed))
        for where, message in rule.find(facts)
    ]
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


app = typer.Typer(add_completion=False)
_FailOn = Enum("_FailOn", [(name, name) for name in (*SEVERITIES, "never")], type=str)


@app.command("lint")
def _command(
    model: Annotated[Path, typer.Argument(help="An .onnx file, of ours or anyone's.")],
    target: Annotated[
        str,
        typer.Option(
            help="tensorrt-10.3, tensorrt-11.4, rtx-1.7, onnxruntime, openvino; any version or none."
        ),
    ],
    fail_on: Annotated[
        _FailOn, typer.Option(help="The mildest finding that ends in exit code 1.")
    ] = _FailOn.error,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the findings here too.")] = None,
) -> None:
    """Look for what will fail, or move pixels, where a model shall run."""
    check_outputs({"--json": json_path}, [model], ExportError)
    findings = lint(model, target)
    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        console.print(f"{finding}\n  {finding.remedy}", markup=False)
    counts = Counter(finding.severity for finding in findings)
    total = ", ".join(f"{counts[severity]} {severity}s" for severity in SEVERITIES)
    console.print(f"{model} for {target}: {total}", markup=False)
    if json_path is not None:
        report = {"model": str(model), "target": target, "findings": [asdict(f) for f in findings]}
        with atomic_write(json_path, ExportError) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n")
    failing = {"error": ("error",), "warning": SEVERITIES, "never": ()}[fail_on.value]
    if any(counts[severity] for severity in failing):
        raise typer.Exit(1)


if __name__ == "__main__":
    command.main(app)
