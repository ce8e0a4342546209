"""One small network, exported once in each contract, for the tests that look at the file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest

from posewarp.export.generator_spec import generator_spec
from posewarp.export.spec import ExportSpec
from posewarp.export.to_onnx import ExportReport, to_onnx
from posewarp.models.config import GeneratorConfig
from posewarp.models.generator import Generator


@dataclass(frozen=True)
class Exported:
    generator: Generator
    spec: ExportSpec
    report: ExportReport
    path: Path

    @property
    def model(self) -> onnx.ModelProto:
        return onnx.load(self.path)


@pytest.fixture(scope="session")
def tiny_generator(random_generator):
    return random_generator(
        GeneratorConfig(height=32, width=24, base_width=8, blocks=2, heatmap_sigma_px=3.0)
    )


@pytest.fixture(scope="session")
def exported(tiny_generator, tmp_path_factory):
    """``exported(io)``: in contract ``image`` at a fixed size, in contract ``tensors`` at a dynamic one."""
    done = {}

    def export(io: str) -> Exported:
        if io not in done:
            spec = generator_spec(tiny_generator, io=io, dynamic_size=io == "tensors")
            path = tmp_path_factory.mktemp("exported") / f"{io}.onnx"
            done[io] = Exported(tiny_generator, spec, to_onnx(spec, path), path)
        return done[io]

    return export
