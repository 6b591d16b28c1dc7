"""Channels a few at a time, so that what a step reads stays in the cache, and side by side on all threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

Result = TypeVar("Result")


def in_blocks(
    function: Callable[[Int[Tensor, " rows"]], Result], channels: int, per_channel: int, *, numbers: int
) -> list[Result]:
    """``function`` of the indices of one block of channels after the other.

    As many blocks at once as torch has threads, each computing alone: several threads inside every one of many small
    products would mostly wait for each other.

    Args:
        per_channel: numbers in the largest tensor of one channel.
        numbers: in those of a block, about.
    """
    threads = torch.get_num_threads()
    blocks = torch.arange(channels).split(max(1, min(numbers // per_channel, -(-channels // threads))))
    if threads == 1 or len(blocks) == 1:
        return [function(rows) for rows in blocks]
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, blocks))
    finally:
        torch.set_num_threads(threads)  # what threads started from now on find
