"""Windows over running text: each predicts the tokens that no window before it has, after at most as many as it holds.

With a length n and a stride s, the first window predicts tokens 1 to n; every other the s after those, from the n
tokens before its last one, so that each has at least n - s before it. With a stride of n, chunks do not overlap.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

IGNORED = -100


class Windows(Dataset[dict[str, Any]]):
    """Rows ``{"input_ids": length + 1 tokens, "labels": the same, -100 where they are no target}``.

    Args:
        tokens: of the whole text, possibly a memory map.
        length: tokens that a prediction may read.
        stride: tokens that a window predicts.
        partial: keep the last window, which may predict fewer.
    """

    def __init__(self, tokens: NDArray[Any], length: int, stride: int, partial: bool) -> None:
        self.tokens, self.length, self.stride = tokens, min(length, len(tokens) - 1), stride
        rest = len(tokens) - 1 - self.length
        self.count = 1 + (-(-rest // stride) if partial else rest // stride)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        end = min(self.length + index * self.stride, len(self.tokens) - 1)
        before = 0 if index == 0 else self.length + (index - 1) * self.stride
        ids = self.tokens[end - self.length : end + 1].astype(np.int64)
        labels = ids.copy()
        labels[: len(ids) - (end - before)] = IGNORED
        return {"input_ids": ids, "labels": labels}
