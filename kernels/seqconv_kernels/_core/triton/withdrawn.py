"""Implementations that failed a check on real hardware: they leave the order of dispatch, and raise if named.

``python -m benchmarks.gpu`` prints an entry for every op and dtype whose kernel failed; it is written here until the
kernel is fixed, so that a default call takes the next implementation and never returns a wrong number.
"""

from typing import Any

import torch

from ..operator.inputs import given_tensors

WITHDRAWN: dict[tuple[str, torch.dtype], str] = {}
"""By path of the implementation and real dtype of the op's first tensor: what failed, and where it was reported."""


def withdrawn_reason(path: str, inputs: tuple[Any, ...]) -> str | None:
    """Why the implementation at this path is withdrawn for the inputs, or ``None``."""
    if not WITHDRAWN:
        return None
    dtype = next(iter(given_tensors(inputs).values())).dtype
    return WITHDRAWN.get((path, dtype.to_real() if dtype.is_complex else dtype))
