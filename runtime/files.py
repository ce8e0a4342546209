"""Files: written whole or not at all, and named by what they hold."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from posewarp.runtime.errors import DataError, PosewarpError


@contextmanager
def atomic_write(path: str | os.PathLike[str], error: type[PosewarpError] = DataError) -> Iterator[Path]:
    """Write a file under a temporary name beside it, and give it its own name once it is complete.

    Use: ``with atomic_write("out.png") as temporary: picture.save(temporary)``. The temporary name keeps the
    suffix, since writers choose a format by it. An existing file is replaced; a symbolic link stays one.

    Args:
        path: where the file shall be.
        error: the class that an OSError, in the block too, is mapped to.

    Yields: the temporary path, not yet existing. After an exception nothing is left of it.
    Raises: ``error`` if the file cannot be written there.
    """
    target = _checked(path, error)
    temporary = target.with_name(f".posewarp-{secrets.token_hex(6)}{target.suffix}")
    try:
        yield temporary
        os.replace(temporary, target)
    except OSError as exc:
        raise _cannot_write(path, exc, error) from exc
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str], error: type[PosewarpError] = DataError) -> Iterator[Path]:
    """Write a folder under a temporary name beside it, and give it its own name once it is complete.

    Args:
        path: where the folder shall be: not yet there, or empty.
        error: the class that an OSError, in the block too, is mapped to.

    Yields: the temporary folder. After an exception nothing is left of it.
    Raises: ``error`` if the folder cannot be written there, or has files in it.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".posewarp-{secrets.token_hex(6)}")
    try:
        _check_free(path, target, error)
        temporary.mkdir()
        yield temporary
        os.replace(temporary, target)  # which may be there, if it is empty
    except OSError as exc:
        raise _cannot_write(path, exc, error) from exc
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_folder(path: str | os.PathLike[str], error: type[PosewarpError] = DataError) -> None:
    """Fail now if ``atomic_folder`` would fail after the work.

    Raises: ``error`` if no folder can be written there, or it has files in it.
    """
    target = Path(os.path.realpath(path))
    probe = target.with_name(f".posewarp-{secrets.token_hex(6)}")
    try:
        _check_free(path, target, error)
        probe.mkdir()
        probe.rmdir()
    except OSError as exc:
        raise _cannot_write(path, exc, error) from exc


def check_writable(path: str | os.PathLike[str], error: type[PosewarpError] = DataError) -> None:
    """Fail now if ``atomic_write`` would fail after the work.

    Raises: ``error`` if no file can be written there.
    """
    # Tried, not asked: to root, os.access says yes even on a read-only mount.
    probe = _checked(path, error).with_name(f".posewarp-{secrets.token_hex(6)}")
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as exc:
        raise _cannot_write(path, exc, error) from exc


def check_outputs(
    outputs: Mapping[str, str | os.PathLike[str] | None],
    inputs: Iterable[str | os.PathLike[str] | None] = (),
    error: type[PosewarpError] = DataError,
) -> None:
    """Fail now if a command could not write an output, or would overwrite by it what it reads or also writes.

    Args:
        outputs: paths by what names them to the user, such as ``--json``; None where none is asked for.
        inputs: what is read; what is no file, such as ``random``, does no harm.

    Raises: ``error`` that names both.
    """
    taken = [(f"the input {path}", path) for path in inputs if path is not None]
    for name, path in outputs.items():
        if path is None:
            continue
        check_writable(path, error)
        for other, used in taken:
            if _is_same(path, used):
                raise error(f"{name} {path} would overwrite {other}; give another path")
        taken.append((f"{name} {path}", path))


def _is_same(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> bool:
    if os.path.realpath(a) == os.path.realpath(b):
        return True
    return os.path.exists(a) and os.path.exists(b) and os.path.samefile(a, b)


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits.

    Raises: DataError if it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as exc:
        raise DataError(f"{path} cannot be read: {exc.strerror}") from exc
    return digest.hexdigest()


def _checked(path: str | os.PathLike[str], error: type[PosewarpError]) -> Path:
    """The file behind ``path``, if the folder is there and nothing but a plain file would be replaced."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise error(f"{path} cannot be written: it is a folder; name a file in it")
    if target.exists() and not target.is_file():  # os.replace on /dev/null would destroy the device
        raise error(f"{path} cannot be written: it is not a plain file")
    if not target.parent.is_dir():
        raise error(f"{path} cannot be written: the folder {target.parent} does not exist; create it first")
    return target


def _check_free(path: str | os.PathLike[str], target: Path, error: type[PosewarpError]) -> None:
    if target.exists() and not target.is_dir():
        raise error(f"{path} is a file; name a folder")
    if target.is_dir() and any(target.iterdir()):
        raise error(f"{path} has files in it, which would mix with the new ones; name another folder")
    if target.is_mount():  # to which no folder can be renamed
        raise error(f"{path} is a mount point; name a folder in it")


def _cannot_write(path: str | os.PathLike[str], exc: OSError, error: type[PosewarpError]) -> PosewarpError:
    return error(f"{path} cannot be written: {exc.strerror or exc}")
