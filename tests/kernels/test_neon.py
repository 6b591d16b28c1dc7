"""The kernels for aarch64, where a cross compiler is found: every source compiles, and to vector instructions."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

COMPILER = shutil.which("aarch64-linux-gnu-g++")
KERNELS = Path(__file__).parents[2] / "kernels" / "seqconv_kernels"
SOURCES = sorted(p for p in KERNELS.rglob("*.cpp") if "namespace seqconv::SEQCONV_ISA" in p.read_text())

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no aarch64-linux-gnu-g++, as Debian's g++-aarch64-linux-gnu")


def compile_for_arm(source: Path, *options: str) -> str:
    """What the compiler writes to its output."""
    flags = ("-std=c++17", "-fopenmp", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-DSEQCONV_ISA=neon")
    done = subprocess.run([str(COMPILER), *flags, *options, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("source", SOURCES, ids=[f"{p.parent.name}/{p.stem}" for p in SOURCES])
def test_every_kernel_compiles(source):
    assert compile_for_arm(source, "-fsyntax-only") == ""


def test_products_are_contracted_and_halves_converted_in_vectors():
    options = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-S", "-o", "-")
    code = compile_for_arm(KERNELS / "direct_conv" / "cpu" / "kernel.cpp", *options)
    found = {i: len(re.findall(rf"\t{i}\tv\d+\.4s, ", code)) for i in ("fmla", "fmul", "fcvtl")}
    assert found["fmla"] > 100
    assert found["fmul"] == 0
    assert found["fcvtl"] > 0
    assert re.search(r"\tfcvtn\tv\d+\.4h, ", code)
    assert not re.search(r"\tfn?m(add|sub|ul)\t[sdh]\d", code)
