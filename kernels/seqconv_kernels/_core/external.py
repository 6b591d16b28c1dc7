"""Other projects' kernels as further implementations, where they are installed: when they do not support a call.

They are compiled for NVIDIA GPUs by their own installers (``pip install seqconv[cuda]``). Nothing of them is imported
before the first call that they support.
"""

from functools import cache
from importlib.util import find_spec
from typing import Any

import torch

from .dispatch import device_type
from .native import transformed
from .operator.inputs import given_tensors

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@cache
def _found(module: str) -> bool:
    return find_spec(module) is not None


# What torch.compiler.assume_constant_result sets; calling that would import the whole compiler here.
_found._dynamo_marked_constant = True  # type: ignore[attr-defined]


def unsupported_reason(inputs: tuple[Any, ...], module: str, *, without: tuple[str, ...] = ()) -> str | None:
    """Why ``module`` does not support the inputs, or ``None``.

    Args:
        module: top-level module of the package.
        without: names of the tensors that its functions don't take.
    """
    package = module.replace("_", "-")
    if (device := device_type(inputs)) != "cuda":
        return f"{package} runs on NVIDIA GPUs, the tensors are on {device}"
    if not _found(module):
        return f"{package} is not installed; install seqconv[cuda]"
    tensors = given_tensors(inputs)
    for name in without:
        if name in tensors:
            return f"{package} takes no {name}"
    wrong = [f"{n} has dtype {t.dtype}" for n, t in tensors.items() if t.is_floating_point() and t.dtype not in DTYPES]
    if wrong:
        return f"{wrong[0]}, {package} wants float32, bfloat16 or float16"
    if not torch.compiler.is_compiling() and transformed():
        return "under torch.func or forward-mode differentiation, for which it has no rule"
    return None
