"""Finding, checking and loading plugin libraries. Broken ones are made from the one that `make plugins` built."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy._core._multiarray_umath as numpy_library
import pytest

from posewarp.runtime import plugin_library
from posewarp.runtime.errors import ContractError, PluginError, PosewarpWarning
from posewarp.runtime.files import sha256
from posewarp.runtime.plugin_library import find, grid_sample, load

CPU, TENSORRT = plugin_library.FILES["cpu"], plugin_library.FILES["tensorrt"]


@pytest.fixture(scope="module")
def built() -> Path:
    library = find("cpu")
    assert library is not None, "run `make plugins` first"
    return library


@pytest.fixture
def place(built, tmp_path, monkeypatch):
    """``place(folder, name) -> path``: a copy of the library; the package's own folder is an empty one."""
    monkeypatch.setattr(plugin_library, "FOLDER", tmp_path / "package")
    monkeypatch.delenv("POSEWARP_PLUGIN_PATH", raising=False)

    def copy(folder, name=CPU) -> Path:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_bytes(built.read_bytes())
        return tmp_path / folder / name

    return copy


def patched(path: Path, offset: int, data: bytes) -> Path:
    content = bytearray(path.read_bytes())
    content[offset : offset + len(data)] = data
    path.write_bytes(content)
    return path


# Where it is looked for


def test_argument_comes_before_environment_and_environment_before_package(place, monkeypatch):
    assert find("cpu") is None
    package = place("package")
    assert find("cpu") == package
    there = place("environment")
    monkeypatch.setenv("POSEWARP_PLUGIN_PATH", str(there))
    assert find("cpu") == there
    given = place("given")
    assert find("cpu", given) == find("cpu", given.parent) == find("cpu", str(given)) == given


def test_environment_names_folders_and_files_and_each_library_finds_its_own(place, tmp_path, monkeypatch):
    cpu, tensorrt, package = place("a"), place("b", TENSORRT), place("package")
    entries = ("", str(tensorrt), str(cpu.parent))
    monkeypatch.setenv("POSEWARP_PLUGIN_PATH", os.pathsep.join(entries))
    assert find("cpu") == cpu
    assert find("tensorrt") == tensorrt
    monkeypatch.setenv("POSEWARP_PLUGIN_PATH", str(tensorrt))
    assert find("cpu") == package


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("gone", "gone, which does not exist"),
        (CPU, f"{CPU}, which does not exist"),
        ("other.so", f"the file .*other.so, whose name must be {CPU} or {TENSORRT}"),
        ("empty", f"the folder .*empty, which holds no {CPU} or {TENSORRT}"),
    ],
)
def test_environment_that_names_something_else_is_an_error(place, tmp_path, monkeypatch, entry, message):
    place("package")
    (tmp_path / "other.so").touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("POSEWARP_PLUGIN_PATH", str(tmp_path / entry))
    with pytest.raises(PluginError, match=f"POSEWARP_PLUGIN_PATH names .*{message}"):
        find("cpu")


def test_dangling_link_in_a_named_folder_is_an_error(place, tmp_path, monkeypatch):
    place("package")
    (tmp_path / CPU).symlink_to(tmp_path / "gone")
    monkeypatch.setenv("POSEWARP_PLUGIN_PATH", str(tmp_path))
    with pytest.raises(PluginError, match=rf"{CPU} cannot be read"):
        find("cpu")


def test_empty_path_and_unknown_name_are_refused(place, monkeypatch, tmp_path):
    monkeypatch.chdir(place("here").parent)
    with pytest.raises(PluginError, match="the path of a plugin library is empty"):
        load("")
    with pytest.raises(PluginError, match="no plugin library 'x', expected one of cpu, tensorrt"):
        find("x")


def test_loaded_library_is_accepted_where_a_path_is(built):
    library = load()
    assert find("cpu", library) == built
    assert load(library) is library


def test_several_names_of_one_library_are_one_and_one_needs_no_list(place, tmp_path):
    library = place("a")
    (tmp_path / "link.so").symlink_to(library)
    several = [library, str(library), library.parent, tmp_path / "link.so"]
    assert plugin_library.named("cpu", several) == [library]
    for one in several:
        assert plugin_library.named("cpu", one) == [library]


def test_what_was_named_must_be_there(place, tmp_path):
    place("package")
    with pytest.raises(PluginError, match=r"gone\.so cannot be read: No such file .*make plugins"):
        find("cpu", tmp_path / "gone.so")
    with pytest.raises(PluginError, match=rf"{CPU} cannot be read"):
        find("cpu", tmp_path)


def test_symbolic_link_is_the_library_it_leads_to(place, tmp_path):
    library = place("real")
    (tmp_path / "link.so").symlink_to(library)
    assert find("cpu", tmp_path / "link.so") == library
    assert load(tmp_path / "link.so") is load(library)
    (tmp_path / "dangling.so").symlink_to(tmp_path / "gone")
    with pytest.raises(PluginError, match=r"dangling\.so cannot be read"):
        load(tmp_path / "dangling.so")


# What is refused


def test_file_that_is_no_library_is_refused_before_it_is_loaded(place, tmp_path):
    library = place("broken")
    size = library.stat().st_size
    os.truncate(library, size - 1)  # the system's loader may crash the process on such a file
    with pytest.raises(PluginError, match=f"is cut short: {size - 1} bytes"):
        load(library)
    for content in (b"", b"hello", library.read_bytes()[:20], b"MZ" + bytes(100)):
        library.write_bytes(content)
        with pytest.raises(PluginError, match="is not a shared library of 64-bit Linux"):
            load(library)


@pytest.mark.parametrize("kept", [0.5, 0.9, 0.999])
def test_library_whose_tail_is_zeros_is_refused(place, kept):
    library = place("sparse")
    size = library.stat().st_size
    os.truncate(library, int(kept * size))
    os.truncate(library, size)
    with pytest.raises(PluginError, match=f"is cut short: {size} bytes, or zeros at its end"):
        load(library)


@pytest.mark.parametrize("table", [0, 2**63, 2**64 - 64])
def test_library_whose_header_points_nowhere_is_refused(place, table):
    with pytest.raises(PluginError, match="is cut short"):
        load(patched(place("wild"), 40, table.to_bytes(8, "little")))


def test_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / CPU)
    for path in (tmp_path / CPU, tmp_path):
        with pytest.raises(PluginError, match="is no regular file"):
            load(path)


@pytest.fixture
def compiled(tmp_path):
    """``compiled(source) -> path`` of a library."""
    compiler = shutil.which("cc") or pytest.skip("there is no C compiler")

    def make(source: str) -> Path:
        (tmp_path / "other.c").write_text(source)
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-o", tmp_path / "other.so", tmp_path / "other.c"], check=True
        )
        return tmp_path / "other.so"

    return make


def test_library_that_says_no_version_is_refused(compiled):
    library = compiled("char const* posewarp_cpu_version(void) { return 0; }")
    with pytest.raises(PluginError, match="is of version unknown, this posewarp is"):
        load(library)


def test_library_with_some_functions_is_refused(compiled):
    version = plugin_library.metadata.version("posewarp")
    library = compiled(f'char const* posewarp_cpu_version(void) {{ return "{version}"; }}')
    with pytest.raises(PluginError, match=rf"cannot be loaded as {CPU}: .*posewarp_cpu_simd"):
        load(library)


def test_version_is_compared_before_other_functions_are_looked_up(compiled):
    library = compiled('char const* posewarp_cpu_version(void) { return "0.0.0"; }')
    with pytest.raises(PluginError, match=r"is of version 0\.0\.0"):
        load(library)


def test_library_of_another_hash_is_never_run(compiled, tmp_path):
    ran = tmp_path / "ran"
    library = compiled(
        f'#include <stdio.h>\n__attribute__((constructor)) static void run(void) {{ fopen("{ran}", "w"); }}'
    )
    with pytest.raises(PluginError, match=r"has the hash .* expected 0{12}"):
        load(library, sha256="0" * 64)
    assert not ran.exists()
    with pytest.raises(PluginError, match="posewarp_cpu_version"):
        load(library, sha256=sha256(library))
    assert ran.exists()


@pytest.mark.parametrize(("machine", "named"), [(0xB7, "aarch64"), (0xF3, "machine 243")])
def test_library_for_another_machine_is_refused(place, monkeypatch, machine, named):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    library = patched(place("foreign"), 18, machine.to_bytes(2, "little"))
    with pytest.raises(PluginError, match=f"built for {named}, this machine is x86_64"):
        load(library)


def test_library_that_is_not_ours_is_refused():
    with pytest.raises(PluginError, match=rf"cannot be loaded as {CPU}: .*posewarp_cpu_version"):
        load(numpy_library.__file__)


def test_library_that_the_system_cannot_load_is_refused(place):
    library = place("damaged")
    patched(library, 16, b"\x01\x00")  # an object file, not a shared one
    with pytest.raises(PluginError, match=rf"damaged/{CPU} cannot be loaded"):
        load(library)


def test_library_of_another_version_is_refused(place, monkeypatch):
    monkeypatch.setattr(plugin_library.metadata, "version", lambda name: f"{name}-next")
    with pytest.raises(
        PluginError, match=r"is of version \d+\.\d+\.\d+, this posewarp is posewarp-next"
    ) as caught:
        load(place("old"))
    assert caught.value.expected == "posewarp-next"


def test_library_of_another_hash_is_refused(built):
    digest = sha256(built)
    for spelling in (digest, digest.upper(), f"sha256:{digest}", f"SHA256:{digest}"):
        assert load(sha256=spelling).sha256 == digest
    with pytest.raises(PluginError, match=r"has the hash [0-9a-f]{12}\.\.\., expected 000000000000\.\.\."):
        load(sha256="0" * 64)


def test_no_library_at_all_says_how_to_get_one(place):
    with pytest.raises(PluginError, match=rf"{CPU} is not there; `make plugins` builds it"):
        load()


# What is loaded


def test_loaded_once_and_described(built):
    library = load()
    assert library is load(built)
    assert (library.path, library.name) == (built, "posewarp_cpu")
    assert library.version == plugin_library.metadata.version("posewarp")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/maps")
def test_unknown_word_for_the_instructions_is_told_once(built, monkeypatch):
    for word in ("avx2", "portable", ""):
        monkeypatch.setenv("POSEWARP_CPU_SIMD", word)
        load(built)
    monkeypatch.setenv("POSEWARP_CPU_SIMD", "sse9")
    with pytest.warns(PosewarpWarning, match="POSEWARP_CPU_SIMD=sse9 has no effect; .* avx2, portable"):
        load(built)
    load(built)


def test_importing_loads_no_library(built):
    code = "import posewarp.runtime.plugin_library as p{}; print('posewarp_cpu' in open('/proc/self/maps').read())"
    for then, expected in (("", "False"), ("; p.load()", "True")):
        done = subprocess.run([sys.executable, "-c", code.format(then)], capture_output=True, text=True)
        assert done.stdout.strip() == expected, done.stderr


def identity_grid(height: int, width: int) -> np.ndarray:
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    return np.stack([x, y], -1)[None].astype(np.float32)  # (1, H, W, 2)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_identity_grid_gives_the_features_and_its_mirror_mirrors_them(dtype, rng):
    features = rng.standard_normal((1, 11, 6, 5)).astype(dtype)
    grid = identity_grid(6, 5)
    same = grid_sample(features, grid, align_corners=True)
    assert same.dtype == dtype
    np.testing.assert_allclose(same, features, atol=1e-3 if dtype == "float16" else 1e-6)
    mirrored = grid_sample(features, grid * np.float32([-1, 1]), "nearest", align_corners=True, threads=1)
    np.testing.assert_array_equal(mirrored, features[..., ::-1])


def test_volumes_bfloat16_and_views(rng):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="onnx brings it")
    features = rng.standard_normal((2, 3, 4, 5, 12)).astype(ml_dtypes.bfloat16)[..., ::2]  # (2, 3, 4, 5, 6)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (4, 5, 6)), indexing="ij")
    grid = np.stack([np.stack([x, y, z], -1)] * 2).astype(np.float32)
    got = grid_sample(features, grid, "nearest", "border", align_corners=True)
    np.testing.assert_array_equal(got, features)


IMAGE, GRID = np.zeros((1, 3, 4, 4), np.float32), np.zeros((1, 2, 2, 2), np.float32)


@pytest.mark.parametrize(
    ("features", "grid", "words", "message"),
    [
        (IMAGE[0], GRID, (), r"features have shape \(3, 4, 4\)"),
        (IMAGE, GRID[..., :1], (), r"the grid \(1, 2, 2, 1\), expected"),
        (IMAGE, np.repeat(GRID, 2, 0), (), r"the grid \(2, 2, 2, 2\), expected"),
        (IMAGE, GRID.astype(np.float16), (), "the grid float16, expected"),
        (IMAGE.astype(np.float64), GRID, (), "features are float64"),
        (IMAGE.astype(">f4"), GRID, (), "features are >f4"),
        (IMAGE, GRID, ("linear",), "mode 'linear' with padding_mode 'zeros', expected one of bilinear"),
        (IMAGE, GRID, ("bilinear", "wrap"), "padding_mode 'wrap'"),
        (IMAGE[:, :, :0], GRID, (), r"shape \(1, 3, 0, 4\) cannot be sampled"),
        (IMAGE[..., None], np.zeros((1, 2, 2, 2, 3), np.float32), ("bicubic",), "bicubic takes 4-D"),
    ],
)
def test_wrong_inputs_are_refused(features, grid, words, message):
    with pytest.raises(ContractError, match=message):
        grid_sample(features, grid, *words)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads is 0, expected an int of at least 1"),
        ({"threads": -1}, "threads is -1"),
        ({"threads": 1.5}, "threads is 1.5"),
        ({"align_corners": 2}, "align_corners is 2, expected True or False"),
        ({"align_corners": "no"}, "align_corners is 'no'"),
        ({"align_corners": None}, "align_corners is None"),
        ({"out": [0.0]}, "out is a list, expected a numpy array"),
        ({"out": np.zeros((1, 3, 2, 3), np.float32)}, r"out is float32 of shape \(1, 3, 2, 3\)"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ContractError, match=message):
        grid_sample(IMAGE, GRID, **options)


def test_zero_and_one_are_alignments_too(rng):
    features = rng.standard_normal((1, 3, 4, 4)).astype(np.float32)
    for number, alignment in ((0, False), (1, True), (np.True_, True)):
        got = grid_sample(features, GRID + np.float32(0.3), align_corners=number)
        np.testing.assert_array_equal(
            got, grid_sample(features, GRID + np.float32(0.3), align_corners=alignment)
        )


def test_result_may_not_overlap_what_it_is_made_of():
    memory = np.zeros(64, np.float32)
    features, grid = memory[:12].reshape(1, 3, 2, 2), memory[16:24].reshape(1, 2, 2, 2)
    for start in (0, 8, 12, 23):
        with pytest.raises(ContractError, match="out overlaps the features or the grid"):
            grid_sample(features, grid, out=memory[start : start + 12].reshape(1, 3, 2, 2))
    out = memory[24:36].reshape(1, 3, 2, 2)
    assert grid_sample(features, grid, out=out) is out
