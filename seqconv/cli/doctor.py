"""What this machine offers, and which implementation each op takes on it: the facts behind ``seqconv doctor``."""

import inspect
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import torch

from seqconv_kernels._core import native, registry
from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.registry import Entry

PACKAGES = ("seqconv", "torch", "transformers", "triton", "mamba-ssm", "causal-conv1d", "flash-linear-attention")


@dataclass(frozen=True)
class OpChoice:
    """What one op does with its example call.

    Attributes:
        op: its name.
        taken: the implementation that ``implementation=None`` takes.
        unsupported: the implementations that cannot serve the call, and why.
    """

    op: str
    taken: str
    unsupported: dict[str, str]


def machine() -> dict[str, str]:
    """Interpreter, processor, threads, accelerator, compiler and native extension, in words."""
    return {
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "CPU": f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "threads": str(torch.get_num_threads()),
        "accelerator": _accelerator(),
        "compiler": _compiler() or "none found (needed only to build the native extension)",
        "native kernels": native.unavailable() or f"{native.library().isa()}, {native.library().__file__}",
    }


def versions() -> dict[str, str]:
    """Installed versions of the packages that matter here."""
    return {name: _version(name) for name in PACKAGES}


def ops() -> dict[str, Entry]:
    """Every op by name; what only decoding needs (steps, parts without example inputs) is left out."""
    entries = sorted(registry.ops().items())
    return {n: e for n, e in entries if not n.endswith("_step") and find_spec(f"{e.folder}.cases") is not None}


def check_device(command: str, device: str) -> None:
    """Raise for a device on which no tensor can be made.

    Raises:
        ValueError: always then.
    """
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        got = f"device {device!r} ({error})"
        raise argument_error(command, got, "a device of this machine", "leave it out") from error


def choices(device: str, dtype: torch.dtype) -> list[OpChoice]:
    """For every op what it would take for its smallest example call on ``device`` in ``dtype``.

    Raises:
        ValueError: as :func:`check_device`.
    """
    check_device("seqconv doctor", device)
    found = []
    for name, entry in ops().items():
        report = entry.op.report(example_inputs(name, device, dtype))
        taken = next(implementation for implementation, why in report.items() if why is None)
        found.append(OpChoice(name, taken, {i: why for i, why in report.items() if why is not None}))
    return found


def example_inputs(op: str, device: str, dtype: torch.dtype) -> Any:
    """A small call of the op, as its implementations see it: the first shape of its ``cases.py``."""
    entry = ops()[op]
    bound = inspect.signature(entry.function).bind(**example_arguments(op, device, dtype))
    bound.apply_defaults()
    inputs: Any = entry.op.inputs
    return inputs(*(bound.arguments[name] for name in inputs._fields))


def example_arguments(op: str, device: str, dtype: torch.dtype) -> Mapping[str, Any]:
    """Keyword arguments of that call, from ``example_inputs``, or ``<op>_inputs`` where a package holds several ops."""
    cases = ops()[op].module("cases")
    make = getattr(cases, f"{op}_inputs", None) or cases.example_inputs
    return dict(make(next(iter(cases.SHAPES.values())), dtype=dtype, device=device))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _accelerator() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()} (cuda)"
    return "mps" if torch.backends.mps.is_available() else "none"


def _compiler() -> str | None:
    candidates = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    return next((path for name in candidates if name and (path := shutil.which(name))), None)
