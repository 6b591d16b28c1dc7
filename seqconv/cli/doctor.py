"""What this machine offers, and which implementation each op takes on it: the facts behind ``seqconv doctor``."""

import inspect
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import Any

import torch
from torch import Tensor

import seqconv_kernels
from seqconv_kernels._core import native
from seqconv_kernels._core.dispatch import Call, Op
from seqconv_kernels._core.errors import argument_error

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


def ops() -> dict[str, tuple[str, Op]]:
    """Every op by name, with the package below ``seqconv_kernels`` that holds it; what only decoding needs left out."""
    folders = [f"seqconv_kernels.{m.name}" for m in iter_modules(seqconv_kernels.__path__) if m.ispkg]
    packages = [folder for folder in folders if find_spec(f"{folder}.cases")]  # parts of decoding have none
    held = [(package, value) for package in packages for value in vars(import_module(package)).values()]
    found = {op.name: (package, op) for package, op in held if isinstance(op, Op) and not op.name.endswith("_step")}
    return dict(sorted(found.items()))


def choices(device: str, dtype: torch.dtype) -> list[OpChoice]:
    """For every op what it would take for its smallest example call on ``device`` in ``dtype``.

    Raises:
        ValueError: tensors cannot be made on the device.
    """
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise argument_error(
            "doctor", f"device {device!r} ({error})", "a device of this machine", "leave it out"
        ) from error
    found = []
    for name, (_, op) in ops().items():
        report = op.report(example_call(name, device, dtype))
        taken = next(implementation for implementation, why in report.items() if why is None)
        found.append(OpChoice(name, taken, {i: why for i, why in report.items() if why is not None}))
    return found


def example_call(op: str, device: str, dtype: torch.dtype) -> Call:
    """A small call of the op, as its implementations see it: the first shape in its package's ``shapes.py``."""
    package = import_module(ops()[op][0])
    given = example_arguments(op, device, dtype)
    bound = inspect.signature(getattr(package, op)).bind(**given)
    bound.apply_defaults()
    tensors = {k: v for k, v in bound.arguments.items() if v is None or isinstance(v, Tensor)}
    return Call(tensors, {k: v for k, v in bound.arguments.items() if not isinstance(v, Tensor)})


def example_arguments(op: str, device: str, dtype: torch.dtype) -> Mapping[str, Any]:
    """Keyword arguments of that call, from ``example_inputs``, or ``<op>_inputs`` where a package holds several ops."""
    shapes = import_module(f"{ops()[op][0]}.cases")
    make = getattr(shapes, f"{op}_inputs", None) or shapes.example_inputs
    return dict(make(next(iter(shapes.SHAPES.values())), dtype=dtype, device=device))


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
