"""Work spread over processes, its results in the order of the tasks."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from signal import SIG_IGN, SIGINT, signal
from typing import Any, TypeVar

T = TypeVar("T")


def in_order(work: Callable[..., T], tasks: Iterable[tuple[Any, ...]], workers: int) -> Iterator[T]:
    """``work(*task)`` for each task, in their order; a few tasks run ahead of the one that is asked for.

    Args:
        work: a function of a module, so that other processes find it.
        tasks: arguments; may be endless.
        workers: processes; 1 works in this one.
    """
    if workers <= 1:
        yield from (work(*task) for task in tasks)
        return
    waiting = iter(tasks)
    pool = ProcessPoolExecutor(workers, get_context("spawn"), signal, (SIGINT, SIG_IGN))
    try:
        pending: deque[Future[T]] = deque(pool.submit(work, *task) for task in islice(waiting, 2 * workers))
        while pending:
            yield pending.popleft().result()
            pending.extend(pool.submit(work, *task) for task in islice(waiting, 1))
    finally:
        pool.shutdown(cancel_futures=True)
