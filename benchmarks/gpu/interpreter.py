"""Triton's interpreter rounds as a GPU does, so that a rehearsal without one passes the same tolerances."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from seqconv_kernels._core.triton.support import interpreted


@contextmanager
def rounds_to_nearest() -> Iterator[None]:
    """The interpreter cuts float32 off to bfloat16; a GPU rounds to nearest: half the error, and no bias."""
    if not interpreted():
        yield
        return
    import triton.language as tl
    from triton.runtime import interpreter

    convert = interpreter._convert_float

    def rounded(values: Any, source: Any, target: Any, mode: Any) -> Any:
        if (source, target) != (tl.float32, tl.bfloat16):
            return convert(values, source, target, mode)
        nearest = torch.from_numpy(np.ascontiguousarray(values)).to(torch.bfloat16)
        return nearest.view(torch.uint16).numpy()

    with patch.object(interpreter, "_convert_float", rounded):
        yield
