"""The compiled extension: how it is found, what it rejects, and that every op runs without it."""

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from seqconv_kernels._core import native

ROOT = Path(__file__).parents[2]
compiled = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))


def test_the_folder_kernels_is_no_package():
    # transformers imports a package named "kernels"; one at the root of the repository would shadow it.
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_import_loads_neither_the_extension_nor_optional_packages():
    code = (
        "import sys; sys.path.insert(0, 'kernels'); import seqconv_kernels; "
        "print([m for m in ('seqconv_kernels._native', 'triton', 'transformers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_without_the_extension_every_op_runs_on_its_reference():
    code = """
import sys
sys.path.insert(0, "kernels")
sys.modules["seqconv_kernels._native"] = None  # as if it had not been compiled
import torch
import seqconv_kernels as K
from seqconv_kernels._core import native
from seqconv_kernels.selective_scan.cases import SHAPES, example_inputs
assert "missing" in native.unavailable() and "compiler" in native.unavailable()
inputs = example_inputs(SHAPES["tiny"])
assert torch.equal(K.selective_scan(**inputs), K.selective_scan(**inputs, implementation="reference"))
try:
    K.selective_scan(**inputs, implementation="cpu")
except ValueError as error:
    assert "extension is missing" in str(error), error
else:
    raise AssertionError("a named implementation that cannot run must raise")
try:
    native.library()
except ImportError as error:
    assert "extension is missing" in str(error), error
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@compiled
def test_unknown_instruction_set():
    with pytest.raises(ValueError, match="neon9 is unknown or not supported"):
        native.library().set_isa("neon9")
    assert native.library().isa() in native.library().isas()
    arm = platform.machine() in ("aarch64", "arm64")
    assert native.library().isas()[-1] == ("neon" if arm else "plain")


@compiled
def test_the_extension_checks_what_it_is_told():
    x = torch.zeros(1, 4, 8)
    A, B = torch.zeros(8, 2), torch.zeros(1, 4, 1, 2)
    state, none = torch.zeros(1, 8, 2), ()

    def scan(u=x, delta=x, A=A, B=B, y=x, state=state, bounds=None):
        views = [native.view(t) for t in (u, delta, A, B, B)]
        tail = [native.view(bounds), False, native.view(y), native.view(state), none, 1]
        return native.library().selective_scan_forward(*views, none, none, none, none, *tail)

    assert scan(y=x.clone(), state=state.clone()) == 0
    with pytest.raises(ValueError, match=r"received delta of dtype code 1; wanted code 0"):
        scan(delta=x.double())
    with pytest.raises(ValueError, match=r"received A of shape \(8, 3\); wanted \(8, 2\)"):
        scan(A=torch.zeros(8, 3))
    with pytest.raises(ValueError, match=r"received delta of strides .* wanted a dense last axis"):
        scan(delta=torch.zeros(1, 8, 4).mT)
    with pytest.raises(ValueError, match=r"received y of strides .* wanted a dense last axis"):
        scan(y=torch.zeros(1, 8, 4).mT)
    with pytest.raises(ValueError, match=r"received A of strides .* wanted row-major order"):
        scan(A=torch.zeros(2, 8).mT)
    with pytest.raises(ValueError, match="received final_state of shape"):
        scan(state=torch.zeros(1, 4, 2))
    with pytest.raises(ValueError, match=r"cu_seqlens .*bounds that rise from 0 to the length"):
        scan(bounds=torch.tensor([0, 3, 9]))
    with pytest.raises(TypeError):
        native.library().selective_scan_forward((1, 2), *[none] * 9, False, none, none, none, 1)


def test_the_module_and_the_build_name_no_op():
    # Each op's bind.cpp registers its functions: adding an op touches its folder alone.
    package = ROOT / "kernels" / "seqconv_kernels"
    folders = {source.parents[1].name for source in package.glob("*/cpu/bind.cpp")}
    assert len(folders) >= 10
    for path in (package / "_cpp" / "module.cpp", package / "_cpp" / "bind.hpp", ROOT / "CMakeLists.txt"):
        assert [name for name in folders if name.strip("_") in path.read_text()] == []


@compiled
def test_every_function_of_a_binding_is_registered():
    defined = set()
    for source in (ROOT / "kernels" / "seqconv_kernels").glob("*/cpu/bind.cpp"):
        names = re.findall(r'm\.def\("(\w+)"', source.read_text())
        assert names, f"{source} registers nothing"
        assert not defined & set(names), f"{source} registers a function twice"
        defined |= set(names)
    public = {name for name in dir(native.library()) if not name.startswith("_")}
    assert public - {"isa", "isas", "set_isa"} == defined


def test_views():
    assert native.view(None) == ()
    assert native.view(torch.zeros(2, 3).mT)[1:] == (0, (3, 2), (1, 3))
    x = torch.zeros(2, 3)
    assert native.dense_rows(x) is x
    assert native.dense_rows(x.mT).is_contiguous()
