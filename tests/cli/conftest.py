"""A small exported model, and commands run in this process as a shell would see them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from posewarp.cli import main as cli
from posewarp.export.generator_spec import generator_spec
from posewarp.export.split import split
from posewarp.export.to_mnn import to_mnn
from posewarp.export.to_onnx import to_onnx
from posewarp.models.config import GeneratorConfig
from posewarp.models.data.synthetic import SyntheticPeople

HEIGHT, WIDTH = 64, 32


@pytest.fixture(scope="session")
def generator(random_generator):
    return random_generator(GeneratorConfig(height=HEIGHT, width=WIDTH, base_width=4, blocks=1), 0)


@pytest.fixture(scope="session")
def model(generator, tmp_path_factory):
    """An ONNX file of a random network with a flow of several pixels."""
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    to_onnx(generator_spec(generator), path)
    return path


@pytest.fixture(scope="session")
def parts(model, tmp_path_factory):
    """The same in two parts; the path of the source part."""
    stem = tmp_path_factory.mktemp("parts") / "model.onnx"
    return Path(split(model, ["source_image", "source_keypoints"], stem).source)


@pytest.fixture(scope="session")
def mnn_model(model, tmp_path_factory):
    """The same for MNN."""
    pytest.importorskip("MNN")
    return Path(to_mnn(model, tmp_path_factory.mktemp("mnn") / "model.mnn").path)


@pytest.fixture
def files(tmp_path):
    """A photo of 96 x 80 with its keypoints, and target keypoints, as files; a dict of paths."""
    pair = SyntheticPeople(96, 80, split="test")[0]
    Image.fromarray(pair.source_image).save(tmp_path / "photo.png")
    paths = {"image": tmp_path / "photo.png"}
    for name in ("source_keypoints", "target_keypoints"):
        paths[name] = tmp_path / f"{name}.json"
        paths[name].write_text(json.dumps(getattr(pair, name).tolist()))
    return paths


@pytest.fixture
def posewarp(monkeypatch, capsys):
    """Run ``posewarp ARGUMENTS``; returns exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["posewarp", *map(str, arguments)])
        with pytest.raises(SystemExit) as ending:
            cli.main()
        captured = capsys.readouterr()
        return int(ending.value.code or 0), captured.out, captured.err

    return run


def transfer_arguments(model, files, output):
    """Arguments of ``posewarp transfer`` for files as the fixture gives them."""
    options = [part for name, path in files.items() for part in (f"--{name.replace('_', '-')}", path)]
    return ["transfer", model, *options, "-o", output]


def read(path):
    return np.asarray(Image.open(path))
