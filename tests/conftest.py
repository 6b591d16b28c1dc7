"""What holds for every test: uninitialised memory is NaN, random examples are the same in every run."""

import atexit
import gc
import inspect
import sys
from collections.abc import Generator
from dataclasses import is_dataclass

import jaxtyping
import pytest
import torch
from hypothesis import settings

from seqconv.state import CarriedState

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

INSTALL = "install: builds and installs the package, which takes minutes and a network; only run by -m install"


# torch warns of its own code when it first imports its compiler.
TORCH_ITSELF = "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", INSTALL)
    config.addinivalue_line("filterwarnings", TORCH_ITSELF)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "install" in (config.option.markexpr or ""):
        return
    left_out = [item for item in items if item.get_closest_marker("install")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Take the imported modules and the collected tests, millions of objects, out of later garbage collections.

    With them each full collection takes more than a second; Trainer, accelerate and the benchmarks start many.
    """
    gc.disable()
    result = yield
    gc.enable()
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # or extensions report at the end what was never freed
    return result


@pytest.fixture(autouse=True)
def _poisoned_empty():
    """Make ``torch.empty`` and its relatives fill floating tensors with NaN and integers with their largest value.

    PyTorch does so in its deterministic mode; with a GPU that mode also rejects operations, so it stays off there.
    """
    torch.use_deterministic_algorithms(not torch.cuda.is_available())
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def unannotated(monkeypatch):
    """Calls without the run-time check of annotations: the library's own errors are reached, compilers see its code.

    The switch alone leaves two wrappings that a compiler cannot look through: of functions made inside functions,
    and of the constructors of dataclasses and of :class:`CarriedState`, which are called inside a graph.
    """
    monkeypatch.setattr(jaxtyping, "jaxtyped", lambda **_: lambda function: function)
    for made in (*_dataclasses("seqconv", "seqconv_kernels"), CarriedState):
        monkeypatch.setattr(made, "__init__", inspect.unwrap(made.__init__))
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def _dataclasses(*packages: str) -> set[type]:
    modules = [module for name, module in list(sys.modules.items()) if name.split(".")[0] in packages]
    found = {value for module in modules for value in vars(module).values() if isinstance(value, type)}
    made = {value for value in found if is_dataclass(value) and "__init__" in vars(value)}
    return {value for value in made if not getattr(value, "__no_type_check__", False)}
