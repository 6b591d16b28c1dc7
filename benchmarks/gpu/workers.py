"""Work in processes of its own: compiling runs side by side, and a kernel that breaks its process breaks no other.

After an illegal access every later call in the same process fails. So a worker does its items one after the other,
says after each what came out, and is replaced from the next item on where it breaks or hangs.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).parents[2]
ROW, DONE = "seqconv row ", "seqconv done"
LOST = 75
"""Exit status of a worker that did its items so far but lost the GPU over the last one."""
TOO_LATE = {"passed": None, "note": "not run: the time was up"}
Row = dict[str, Any]


class Item(NamedTuple):
    """One unit of work.

    Attributes:
        name: which one it is, for the row about a worker that broke.
        rows: does it.
    """

    name: Row
    rows: Callable[[], Iterable[Row]]


def serve(items: Iterable[Item]) -> None:
    """In a worker: do the items and print their rows, each on a line; end where the GPU is lost."""
    for item in items:
        for row in rows_of(item):
            print(ROW + json.dumps(row), flush=True)
        print(DONE, flush=True)
        if not _sound():
            sys.exit(LOST)


def rows_of(item: Item, patience: float = 20) -> Iterator[Row]:
    """The rows of an item, and one about an exception; where memory is short, what others hold is waited for."""
    for attempt in (1, 2, 3):
        began = short = False
        try:
            for row in item.rows():
                began = True
                yield row
        except torch.OutOfMemoryError as error:
            short = attempt < 3 and not began
            if not short:
                yield item.name | failure(error)
        except Exception as error:  # a kernel that doesn't compile is a finding, not the end of the report
            yield item.name | failure(error)
        if not short:
            return
        torch.cuda.empty_cache()
        time.sleep(patience)


def _sound() -> bool:
    """Whether the GPU still answers this process: not after an illegal access."""
    if not torch.cuda.is_available():
        return True
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True


def failure(error: BaseException) -> Row:
    """What a row says of an exception: the head and the tail of its message, which compilers make long."""
    text = f"{type(error).__name__}: {error}".strip()
    return {"passed": False, "note": text if len(text) <= 700 else f"{text[:350]} ... {text[-350:]}"}


@dataclass
class Job:
    """The items of one worker.

    Attributes:
        kind: of the items.
        places: of the items among all of the kind.
        names: of the items, as their rows begin.
        patience: seconds for one item.
    """

    kind: str
    places: list[int]
    names: list[Row]
    patience: float


def work(jobs: list[Job], workers: int, deadline: float) -> Iterator[tuple[str, Row]]:
    """The rows of all jobs and their kinds as they come, ``workers`` at a time; what is cut off counts as not run."""
    waiting, running = [(job, 0) for job in jobs], list[_Worker]()
    while waiting or running:
        late = time.monotonic() > deadline
        while waiting and (late or len(running) < workers):
            job, first = waiting.pop(0)
            if late:
                yield from ((job.kind, name | TOO_LATE) for name in job.names[first:])
            else:
                running.append(_Worker(job, first))
        for worker in list(running):
            ended = worker.ended()  # asked first: nothing is printed after the end
            rows = [*worker.rows()]
            if ended or late:
                running.remove(worker)
                rows += worker.close()
                if worker.done < len(worker.job.names):
                    waiting.insert(0, (worker.job, worker.done))
            yield from ((worker.job.kind, row) for row in rows)
        time.sleep(0.02)


def command(kind: str, places: str) -> list[str]:
    """What starts a worker."""
    return [sys.executable, "-m", "benchmarks.gpu", "--serve", kind, "--items", places]


class _Worker:
    """A process at the items of a job; ``done`` counts those that are finished or given up."""

    def __init__(self, job: Job, first: int) -> None:
        self.job, self.done, self._since = job, first, time.monotonic()
        self._lines, self._said = Queue[str](), deque[str](maxlen=8)
        arguments = command(job.kind, ",".join(map(str, job.places[first:])))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(
            arguments, cwd=ROOT, env=environment, text=True, errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line.rstrip())

    def rows(self) -> Iterator[Row]:
        """Those that came since the last call."""
        while not self._lines.empty():
            line = self._lines.get()
            if line.startswith(ROW):
                yield json.loads(line.removeprefix(ROW))
            elif line == DONE:
                self.done, self._since = self.done + 1, time.monotonic()
            elif line:
                self._said.append(line)

    def ended(self) -> bool:
        """Whether the process ended by itself, or must: its item takes too long."""
        return self._process.poll() is not None or time.monotonic() - self._since > self.job.patience

    def close(self) -> Iterator[Row]:
        """Make an end of the process; the last rows, and one about the item that it broke at."""
        status = self._process.poll()
        self._process.kill()
        self._process.wait()
        self._reader.join(timeout=5)
        yield from self.rows()
        if self.done == len(self.job.names) or status == LOST:
            return
        name, self.done = self.job.names[self.done], self.done + 1
        if status is not None:
            yield name | {"passed": False, "note": f"the process ended with {status}: {' / '.join(self._said)[-500:]}"}
        elif time.monotonic() - self._since > self.job.patience:
            yield name | {"passed": False, "note": f"nothing came within {self.job.patience:.0f} seconds"}
        else:
            yield name | TOO_LATE
