"""Bad input: every op raises under its name, with what came, what was wanted and a remedy, before anything is done."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from op_cases import CASES, STEPS, Case
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import seqconv_kernels as K
from seqconv_kernels._core.registry import ops

ALL = CASES | STEPS
COMPLEX = ("linear_scan", "vandermonde", "cauchy", "diagonal_step", "linear_scan_step")
"""Ops of complex numbers too."""
pytestmark = pytest.mark.usefixtures("unannotated")
each = pytest.mark.parametrize("name", ALL)
each_packed = pytest.mark.parametrize("name", [name for name in CASES if name.endswith("packed")])


class NoKernels(TorchDispatchMode):
    """Lets no operator of this project run."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function.namespace != "seqconv", f"{function} ran"
        return function(*args, **kwargs or {})


def op_of(name: str) -> str:
    return name.split(",")[0]


def spoilt(name: str, inputs: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every tensor with an axis too many, one row too long, of a wrong dtype, on another device."""
    for key, tensor in inputs.items():
        if not isinstance(tensor, Tensor) or key in ("cu_seqlens", "position"):
            continue
        bad = {
            "an axis too many": tensor[None],
            "a row too long": torch.cat([tensor, tensor[:1]]),
            "integers": tensor.real.to(torch.int64),
            "another device": tensor.to("meta"),
        }
        if op_of(name) not in COMPLEX:
            bad["complex numbers"] = tensor.to(torch.complex128)
        if key in ALL[name].free:
            del bad["a row too long"]
        yield from ((f"{key}: {what}", {**inputs, key: changed}) for what, changed in bad.items())


def why_not_rejected(name: str, case: Case, inputs: dict[str, Any], run: Any = None) -> str | None:
    """What is wrong with the error for ``inputs``; ``None`` for nothing."""
    before = {k: v.clone() for k, v in inputs.items() if isinstance(v, Tensor)}
    try:
        with torch.no_grad(), NoKernels():
            (run or case.run)(**inputs)
    except ValueError as error:
        if not re.fullmatch(rf"{op_of(name)}: received .+; wanted .+\. Remedy: .+", str(error), re.DOTALL):
            return f"said {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    else:
        return "no error"
    same = (torch.equal(inputs[k], v) for k, v in before.items() if not v.is_meta)
    return None if all(same) else "wrote into its inputs"


@each
def test_shapes_dtypes_and_devices_that_do_not_match(name):
    case = ALL[name]
    found = {what: why_not_rejected(name, case, inputs) for what, inputs in spoilt(name, case.inputs(2, 5))}
    assert found
    assert not {what: why for what, why in found.items() if why is not None}


BOUNDS = {
    "not increasing": [0, 3, 3, 5],
    "falling": [0, 4, 2, 5],
    "not from 0": [1, 3, 5],
    "not to the length": [0, 2, 4],
    "beyond the length": [0, 2, 6],
    "one entry": [0],
    "floats": [0.0, 2.0, 5.0],
    "two axes": [[0, 2, 5]],
}


@each_packed
def test_bounds_of_packed_sequences(name):
    inputs = CASES[name].inputs(2, 5)
    changes = {what: {"cu_seqlens": torch.tensor(bounds)} for what, bounds in BOUNDS.items()}
    changes["int16"] = {"cu_seqlens": torch.tensor([0, 2, 5], dtype=torch.int16)}
    changes["as many states as another number of segments has"] = {"cu_seqlens": torch.tensor([0, 1, 2, 5])}
    found = {what: why_not_rejected(name, CASES[name], inputs | change) for what, change in changes.items()}
    assert not {what: why for what, why in found.items() if why is not None}


NAMED = [name for name in ALL if "implementation" in inspect.signature(getattr(K, op_of(name))).parameters]


@pytest.mark.parametrize("name", NAMED)
def test_implementations_that_are_unknown_or_cannot_run(name):
    case = ALL[name]
    inputs = case.inputs(2, 5)
    assert why_not_rejected(name, case, inputs | {"implementation": "referense"}) is None
    if "cpu" not in {i.name for i in ops()[op_of(name)].op.implementations}:  # what it has runs everywhere
        return
    elsewhere = {k: v.to("meta") if isinstance(v, Tensor) and k != "cu_seqlens" else v for k, v in inputs.items()}
    assert why_not_rejected(name, case, elsewhere | {"implementation": "cpu"}) is None
    if "triton" in {i.name for i in ops()[op_of(name)].op.implementations}:
        assert why_not_rejected(name, case, inputs | {"implementation": "triton"}) is None
