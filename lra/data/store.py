"""Folders of prepared data: written whole or not at all, by one process at a time, verified when opened.

A folder holds data files and ``manifest.json``: what was asked for (``parameters``), how many examples each split
has (``sizes``), and the size and SHA-256 of every file. It appears under its name only when complete.
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from seqconv_kernels._core.errors import argument_error

MANIFEST = "manifest.json"
logger = logging.getLogger(__name__)
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class Manifest:
    """What a prepared folder contains.

    Attributes:
        task: name of the task.
        parameters: everything the content depends on, the seed included.
        sizes: examples of each split.
        files: for each data file its ``bytes`` and ``sha256``.
        fingerprint: SHA-256 over the names and hashes of all files.
    """

    task: str
    parameters: dict[str, Any]
    sizes: dict[str, int]
    files: dict[str, dict[str, Any]]
    fingerprint: str


def default_root() -> Path:
    """Where prepared data goes: ``$LRA_DATA``, or ``seqconv-lra`` in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("LRA_DATA") or Path(cache) / "seqconv-lra").expanduser()


def folder_name(task: str, parameters: Mapping[str, Any]) -> str:
    """A folder name that differs for different parameters."""
    digest = hashlib.sha256(json.dumps(dict(parameters), sort_keys=True).encode()).hexdigest()
    return f"{task}-{digest[:10]}"


@contextmanager
def exclusive(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Exclude other processes from the block until it ends.

    The lock is a file next to the folder, held by ``flock``: the system releases it when the process dies.

    Args:
        folder: what must be used by one process at a time; need not exist.
        wait: wait for the process that holds the lock.

    Raises:
        BlockingIOError: another process holds the lock, and ``wait`` is off.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_name(f".{folder.name}.lock")
    lock = _acquire(path, wait)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)


def _acquire(path: Path, wait: bool) -> int:
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                os.close(lock)
                raise
            logger.warning("waiting for another process that prepares %s", path.name[1:].removesuffix(".lock"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            if os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        except FileNotFoundError:
            pass
        os.close(lock)  # its last holder removed the file: others lock the new one


@contextmanager
def full_disk_named(operation: str, place: Path) -> Iterator[None]:
    """Turn a full disk (or quota) in the block into an error that names the place.

    Raises:
        ValueError: there was no space left.
    """
    try:
        yield
    except OSError as error:
        short = error.errno is None and "written" in str(error)  # what NumPy makes of a write that was cut short
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) and not short:
            raise
        remedy = "free some space, or name another folder with --data; nothing half-written was left"
        raise argument_error(operation, f"no space left at {place} ({error})", "space for all files", remedy) from error


def allocate(path: Path, kind: type[Scalar], shape: tuple[int, ...]) -> NDArray[Scalar]:
    """A new array in a file, its space reserved: without that, writing to a full disk would kill the process.

    Raises:
        OSError: there is no space.
    """
    array: NDArray[Scalar] = open_memmap(path, "w+", kind, shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A working folder that takes the name ``folder`` when the block ends, and vanishes if it is left early."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    partial.mkdir()
    try:
        yield partial
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        ValueError: no space left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with full_disk_named(f"write {path.name}", path.parent):
            partial.write_bytes(content.encode() if isinstance(content, str) else content)
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_json(operation: str, path: Path, remedy: str) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ValueError: missing, or no JSON object; the message says what to do.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        got = f"no {path.name} in {path.parent}" if not path.exists() else f"an unreadable {path} ({error})"
        raise argument_error(operation, got, "a JSON file", remedy) from error
    if not isinstance(content, dict):
        raise argument_error(operation, f"{path} with a {type(content).__name__}", "a JSON object", remedy)
    return content


def need_space(folder: Path, wanted: int) -> None:
    """Raise before work that the free disk space is too small for.

    Args:
        folder: where the files will go.
        wanted: bytes.

    Raises:
        ValueError: less is free.
    """
    existing = next(parent for parent in [folder, *folder.absolute().parents] if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < wanted:
        remedy = "free some space, or name another folder with --data"
        raise argument_error("prepare", f"{free / 1e6:.0f} MB free at {existing}", f"{wanted / 1e6:.0f} MB", remedy)


def write_data(
    folder: Path, task: str, parameters: Mapping[str, Any], fill: Callable[[Path], Mapping[str, int]]
) -> Manifest:
    """Fill a folder and describe it.

    Args:
        folder: its final name; an existing folder is replaced.
        task: name of the task.
        parameters: everything the content depends on.
        fill: writes the data files into the folder it is given and returns the size of each split.

    Raises:
        ValueError: no space left; nothing half-written stays.
    """
    with full_disk_named(f"prepare {task}", folder.parent), atomic_folder(folder) as partial:
        sizes = dict(fill(partial))
        files = {path.name: describe_file(path) for path in sorted(partial.iterdir())}
        manifest = Manifest(task, dict(parameters), sizes, files, _fingerprint(files))
        (partial / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2, sort_keys=True) + "\n")
    return manifest


def open_data(folder: Path, task: str, parameters: Mapping[str, Any]) -> Manifest:
    """Read a folder's manifest after comparing every file with it.

    Raises:
        ValueError: the folder, its manifest or a file is missing, truncated or changed, or was made for something
            else; the message says how to repair it.
    """
    remedy = f"rebuild it with 'python -m lra prepare {task} --force' and the same options"
    if not (folder / MANIFEST).is_file():
        make = f"make it with 'python -m lra prepare {task}' and the same options"
        raise argument_error(f"open {task}", f"no {MANIFEST} in {folder}", "a prepared folder", make)
    try:
        manifest = Manifest(**json.loads((folder / MANIFEST).read_text()))
    except (ValueError, TypeError, UnicodeDecodeError) as error:
        raise argument_error(
            f"open {task}", f"an unreadable {folder / MANIFEST} ({error})", "a manifest", remedy
        ) from error
    if manifest.task != task or manifest.parameters != dict(parameters):
        got = f"{folder} made for {manifest.task} with {manifest.parameters}"
        raise argument_error(f"open {task}", got, f"{dict(parameters)}", remedy)
    for name, record in manifest.files.items():
        _verify(folder / name, record, task, remedy)
    if _fingerprint(manifest.files) != manifest.fingerprint:
        raise argument_error(
            f"open {task}", f"a changed {folder / MANIFEST}", f"fingerprint {manifest.fingerprint}", remedy
        )
    return manifest


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_file(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, JSON-able."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def _fingerprint(files: Mapping[str, Mapping[str, Any]]) -> str:
    return hashlib.sha256("".join(f"{name} {files[name]['sha256']}\n" for name in sorted(files)).encode()).hexdigest()


def _verify(path: Path, record: Mapping[str, Any], task: str, remedy: str) -> None:
    if not path.is_file():
        raise argument_error(f"open {task}", f"no file {path}", f"{record['bytes']} bytes", remedy)
    if path.stat().st_size != record["bytes"]:
        got = f"{path} of {path.stat().st_size} bytes"
        raise argument_error(f"open {task}", got, f"{record['bytes']} bytes", remedy)
    if sha256(path) != record["sha256"]:
        raise argument_error(f"open {task}", f"{path} with another SHA-256", str(record["sha256"]), remedy)


def _sweep(folder: Path) -> None:
    """Remove the partial folders of killed processes."""
    for left in [*folder.parent.glob(f".{folder.name}.*.partial"), *folder.parent.glob(f".{folder.name}.*.old")]:
        try:
            os.kill(int(left.name.rsplit(".", 2)[1]), 0)
        except ProcessLookupError:
            shutil.rmtree(left, ignore_errors=True)
        except PermissionError:
            continue
