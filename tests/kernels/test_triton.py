"""Runs the tests of the Triton implementations: inside Triton's interpreter, or on the GPU where there is one.

They live in files ``interpreted_*.py`` and run in a process of their own, because Triton looks at
``TRITON_INTERPRET`` once, when it is first imported, and other tests want it as a compiler.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import seqconv_kernels as K

HERE = Path(__file__).parent
FILES = {file.stem.removeprefix("interpreted_"): file for file in sorted(HERE.glob("interpreted_*.py"))}
ALONE = ("gpu_report", "linear_attention", "dplr_delta_rule", "rnn")
"""Files that take longest; the others share a process, since a start costs as much as the tests of one of them."""
REST = [name for name in FILES if name not in ALONE]

pytestmark = pytest.mark.timeout(900)  # a minute of processor time; more on a busy machine
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")


def each(groups):
    return pytest.mark.parametrize("names", groups, ids=lambda names: names[0] if len(names) == 1 else "the rest")


@needs_triton
@each([REST, *([name] for name in ALONE)])
def test_triton(names):
    run(names, "not slow")


@pytest.mark.slow
@needs_triton
@each([[name] for name, file in FILES.items() if "mark.slow" in file.read_text()])
def test_triton_slow(names):
    run(names, "slow")


def run(names, marks):
    environment = os.environ | ({} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"})
    files = [str(FILES[name]) for name in names]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", marks, *files]
    done = subprocess.run(command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="CPU tensors are served by the interpreter")
def test_cpu_tensors_raise_outside_the_interpreter():
    with pytest.raises(ValueError, match=r"Triton kernels run on GPUs, or on CPU tensors under TRITON_INTERPRET=1"):
        K.causal_conv1d(torch.zeros(1, 5, 3), torch.zeros(3, 4), implementation="triton")
