"""Prepared folders: made once by the first process, and whole or not at all on a full disk."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lra.data.store
from lra.data.store import allocate, atomic_write, exclusive, write_data
from lra.tasks import create_task
from lra.tasks.listops.task import ListOps
from lra.tasks.pathfinder.task import Pathfinder

TINY = ListOps(setting="small", train=400, val=50, test=50)
AT_ONCE = """
import sys, time
from pathlib import Path
from lra.tasks.listops.task import ListOps
from lra.tasks.base import Task

root, log = Path(sys.argv[1]), Path(sys.argv[2])
write = ListOps._write

def slowly(task, *arguments):
    with log.open("a") as file:
        file.write("wrote\\n")
    time.sleep(1)
    return write(task, *arguments)

ListOps._write = slowly
log.with_name(sys.argv[3]).touch()
while not all(log.with_name(name).exists() for name in "ab"):
    time.sleep(0.01)
task = ListOps(setting="small", train=400, val=50, test=50)
print(task.prepare(root, workers=1, quiet=True).fingerprint, len(task.load(root).splits["train"]))
"""


def start(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    (tmp_path / "prepare.py").write_text(AT_ONCE)
    paths = [str(Path(__file__).parents[3] / part) for part in ("", "kernels")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, str(tmp_path / "prepare.py"), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_at_once_make_the_data_once(tmp_path):
    log = tmp_path / "log"
    both = [start(tmp_path, str(tmp_path / "data"), str(log), name) for name in "ab"]
    output = [process.communicate(timeout=600) for process in both]
    assert [process.returncode for process in both] == [0, 0], output
    assert output[0][0] == output[1][0]
    assert output[0][0].endswith(" 400\n")
    assert log.read_text() == "wrote\n"
    assert sum("waiting for another process that prepares listops-small" in error for _, error in output) == 1
    assert [path.name for path in (tmp_path / "data").iterdir()] == [TINY.folder(tmp_path).name]


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    folder = TINY.folder(tmp_path)
    script = "import sys, time; from pathlib import Path; from lra.data.store import exclusive\n"
    script += f"with exclusive(Path({str(folder)!r})): print('held', flush=True); time.sleep(60)"
    paths = [str(Path(__file__).parents[3] / part) for part in ("", "kernels")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    with subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert folder.with_name(f".{folder.name}.lock").exists()
        holder.kill()
        holder.wait()
    with exclusive(folder):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_whose_file_was_removed_is_taken_again(tmp_path, monkeypatch):
    """A waiter that gets the lock of a file that its holder removed must not let a second process in."""
    path = tmp_path / ".data.lock"
    flock, calls = lra.data.store.fcntl.flock, []

    def remove_once(lock: int, kind: int) -> None:
        flock(lock, kind)
        if not calls:
            path.unlink()
        calls.append(lock)

    monkeypatch.setattr(lra.data.store.fcntl, "flock", remove_once)
    with exclusive(tmp_path / "data"):
        assert len(calls) == 2
        assert path.exists()
        with pytest.raises(BlockingIOError), path.open() as other:
            flock(other, lra.data.store.fcntl.LOCK_EX | lra.data.store.fcntl.LOCK_NB)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
def test_a_full_disk_is_rejected_and_leaves_what_was_there(tmp_path):
    """The system's own error, from a file that is always full, through NumPy and through plain writes."""
    TINY.prepare(tmp_path, workers=1, quiet=True)
    for write in (
        lambda path: np.save(path, np.zeros(100_000)),
        lambda path: path.write_bytes(b"0" * 100_000),
    ):

        def fill(folder: Path, write=write) -> dict[str, int]:
            (folder / "first.npy").write_bytes(b"whole")
            (folder / "second.npy").symlink_to("/dev/full")
            write(folder / "second.npy")
            return {}

        with pytest.raises(
            ValueError, match=r"prepare listops-small: received no space left at .*nothing half-written"
        ):
            write_data(TINY.folder(tmp_path), "listops-small", TINY.parameters(), fill)
        assert [path.name for path in tmp_path.iterdir()] == [TINY.folder(tmp_path).name]
    assert len(TINY.load(tmp_path).splits["train"]) == 400


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("name", ["recall", "listops-small", "pathfinder"])
def test_a_disk_that_fills_up_while_preparing_is_rejected(tmp_path, monkeypatch, name, code):
    options = {"images": 20} if name == "pathfinder" else {"train": 20, "val": 10, "test": 10}
    owner, function = (os, "posix_fallocate") if name == "recall" else (np, "save")
    write, written = getattr(owner, function), []

    def full(place: object, *arguments: object, **options: object) -> None:
        if written:
            raise OSError(code, os.strerror(code))
        written.append(place)
        write(place, *arguments, **options)

    monkeypatch.setattr(owner, function, full)
    with pytest.raises(ValueError, match=rf"prepare {name}: received no space left at .*{os.strerror(code)}.*--data"):
        create_task(name, options).prepare(tmp_path, workers=1, quiet=True)
    assert written
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_the_system_pass(tmp_path):
    def fill(folder: Path) -> dict[str, int]:
        raise PermissionError(errno.EACCES, "not yours")

    with pytest.raises(PermissionError, match="not yours"):
        write_data(tmp_path / "data", "listops", {}, fill)
    assert list(tmp_path.iterdir()) == []


def test_space_is_reserved_before_it_is_mapped(tmp_path, monkeypatch):
    array = allocate(tmp_path / "a.npy", np.uint8, (1000, 4096))
    assert array.shape == (1000, 4096)
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= 1000 * 4096

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ValueError, match=r"prepare pathfinder: received no space left"):
        Pathfinder(images=20).prepare(tmp_path / "data", workers=1, quiet=True)
    assert list((tmp_path / "data").iterdir()) == []


def test_a_full_disk_keeps_the_file_that_was_there(tmp_path, monkeypatch):
    atomic_write(tmp_path / "page.md", "first")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ValueError, match=r"write page.md: received no space left at .*free some space"):
        atomic_write(tmp_path / "page.md", "second")
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"]
    assert (tmp_path / "page.md").read_text() == "first"
