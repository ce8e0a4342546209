from __future__ import annotations

import hashlib
import os

import pytest

from posewarp.runtime.errors import DataError, ExportError
from posewarp.runtime.files import (
    atomic_folder,
    atomic_write,
    check_folder,
    check_outputs,
    check_writable,
    sha256,
)


def fail_halfway(path, failure):
    path.write_text("half")
    raise failure


def test_file_appears_whole(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_text("old")
    with path.open() as reader:
        with atomic_write(path) as temporary:
            temporary.write_text("new")
            assert path.read_text() == "old"
            assert temporary.parent == path.parent
            assert temporary.suffix == ".onnx"
        assert reader.read() == "old"  # whoever reads it keeps what was there
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["model.onnx"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_failure_leaves_nothing_and_keeps_the_old_file(tmp_path, failure):
    path = tmp_path / "m"
    path.write_text("old")
    with pytest.raises(failure), atomic_write(path) as temporary:
        fail_halfway(temporary, failure)
    assert os.listdir(tmp_path) == ["m"]
    assert path.read_text() == "old"


def test_full_disk_is_mapped_to_the_error_that_was_passed(tmp_path):
    path = tmp_path / "m"
    with (
        pytest.raises(ExportError, match="m cannot be written: No space left"),
        atomic_write(path, ExportError) as temporary,
    ):
        fail_halfway(temporary, OSError(28, "No space left on device"))
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("write", [check_writable, lambda path: atomic_write(path).__enter__()])
def test_impossible_places_are_told_before_the_work(tmp_path, write):
    with pytest.raises(DataError, match=r"gone/m cannot be written: the folder .* does not exist"):
        write(tmp_path / "gone" / "m")
    with pytest.raises(DataError, match="it is a folder"):
        write(tmp_path)
    with pytest.raises(DataError, match="/dev/null cannot be written: it is not a plain file"):
        write("/dev/null")
    (tmp_path / "m").touch()
    with pytest.raises(DataError, match="does not exist"):
        write(tmp_path / "m" / "n")


def test_read_only_folder_is_refused():
    # /proc refuses new files even to root, which plain permissions do not.
    with pytest.raises(DataError, match="/proc/m cannot be written"):
        check_writable("/proc/m")


def test_check_leaves_nothing(tmp_path):
    check_writable(tmp_path / "m")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("spelled", ["m.onnx", "folder/../m.onnx", "symbolic", "hard"])
def test_an_output_that_is_an_input_is_refused_however_it_is_spelled(tmp_path, spelled):
    model = tmp_path / "m.onnx"
    model.write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "symbolic").symlink_to(model)
    (tmp_path / "hard").hardlink_to(model)
    with pytest.raises(
        ExportError, match=r"^--json .* would overwrite the input .*m.onnx; give another path$"
    ):
        check_outputs({"--output": None, "--json": tmp_path / spelled}, ["random", None, model], ExportError)


def test_an_output_that_is_another_output_or_cannot_be_written_is_refused(tmp_path):
    path = tmp_path / "new"
    with pytest.raises(DataError, match=r"^--json .*new would overwrite --output .*new; give another path$"):
        check_outputs({"--output": path, "--json": path})
    with pytest.raises(DataError, match="does not exist"):
        check_outputs({"--json": tmp_path / "gone" / "m"})
    check_outputs({"--output": path, "--json": tmp_path / "other"}, [tmp_path / "m.onnx"])
    assert not os.listdir(tmp_path)


def test_symbolic_link_stays_one(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with atomic_write(tmp_path / "link") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "x"


def test_new_file_has_ordinary_permissions(tmp_path):
    old = os.umask(0o022)
    try:
        with atomic_write(tmp_path / "m") as temporary:
            temporary.touch()
    finally:
        os.umask(old)
    assert (tmp_path / "m").stat().st_mode & 0o777 == 0o644


def test_sha256_is_of_the_whole_file(tmp_path):
    data = bytes(range(256)) * 8192  # 2 MiB: more than one read
    (tmp_path / "m").write_bytes(data)
    assert sha256(tmp_path / "m") == hashlib.sha256(data).hexdigest()
    with pytest.raises(DataError, match="gone cannot be read: No such file"):
        sha256(tmp_path / "gone")


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "out"
    with atomic_folder(path) as temporary:
        (temporary / "a").write_text("new")
        assert not path.exists()
    assert (path / "a").read_text() == "new"
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "other") as temporary:
        fail_halfway(temporary / "a", RuntimeError)
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_is_checked_beforehand_and_nothing_is_left_of_it(tmp_path):
    (tmp_path / "empty").mkdir()
    check_folder(tmp_path / "empty")
    check_folder(tmp_path / "new")
    assert os.listdir(tmp_path) == ["empty"]
    (tmp_path / "file").touch()
    for name, message in [
        ("file", "is a file"),
        ("", "has files in it"),
        ("no/such", "cannot be written: No such"),
    ]:
        with pytest.raises(ExportError, match=message):
            check_folder(tmp_path / name, ExportError)
