"""The Triton kernels compile for compute capability 9.0, at the sizes that a GPU would get, without having one.

Products run on the matrix units, hardly anything spills, shared memory suffices. Triton brings the assembler.
"""

import re
import subprocess
from types import SimpleNamespace

import pytest
import torch

triton = pytest.importorskip("triton")
nvidia = pytest.importorskip("triton.knobs").nvidia
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="GPU tests compile for the GPU that is there")
SHARED = 227 * 1024
FLOAT, BFLOAT, HALF = torch.float32, torch.bfloat16, torch.float16


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """What would have been launched."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime.jit import JITFunction

    kernels, run = [], JITFunction.run
    hopper = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
    )

    def record(self, *args, grid, warmup, **options):
        kernels.append(run(self, *args, grid=grid, warmup=True, **options))

    monkeypatch.setattr(triton.runtime.driver, "_active", hopper)
    monkeypatch.setattr(JITFunction, "run", record)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # Triton warns where it is not said
    return kernels


def spilled(kernel, folder):
    """Bytes of stack per thread."""
    binary = folder / "kernel.cubin"
    binary.write_bytes(kernel.asm["cubin"])
    command = [nvidia.cuobjdump.path, "-res-usage", binary]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(re.search(r"STACK:(\d+)", report)[1])


@pytest.mark.parametrize(
    ("dtype", "width", "decay", "delta"),
    [
        (BFLOAT, 64, "vector", True),
        (HALF, 128, "scalar", False),
    ],
)
def test_linear_attention(compiled, tmp_path, dtype, width, decay, delta):
    from seqconv_kernels._linear_attention.triton import Inputs, _Launch

    def tensor(*shape, dtype=dtype):
        return torch.empty(shape, dtype=dtype, device="meta")

    tokens = (8, 4096, 16)
    activation, strength = tensor(*tokens, width), tensor(*tokens, 1, dtype=FLOAT) if delta else None
    fall = {"vector": width, "scalar": 1}.get(decay)
    log_decay = tensor(*tokens, fall, dtype=FLOAT) if fall else None
    state = tensor(8, 16, width, width, dtype=FLOAT)
    launch = _Launch(Inputs(activation, activation, activation, log_decay, strength, state, None, 1.0, delta))
    launch.forward(launch.products(), activation, None, None)
    launch.backward(activation, state)
    names = ["products_kernel", "forward_kernel", "products_kernel", "forward_kernel"]
    assert [kernel.name for kernel in compiled] == [*names, "returns_kernel", "gradients_kernel"]
    for kernel in compiled:
        assert kernel.metadata.shared <= SHARED, kernel.name
        assert "wgmma.mma_async" in kernel.asm["ptx"] or "mma.sync" in kernel.asm["ptx"], kernel.name
        assert spilled(kernel, tmp_path) <= 64, kernel.name


@pytest.mark.parametrize(("dtype", "batch", "walks"), [(BFLOAT, 8, 2), (FLOAT, 64, 1)])
def test_selective_scan(compiled, tmp_path, dtype, batch, walks):
    """Cut into pieces that are walked twice, or whole; an exponential is one instruction."""
    from seqconv_kernels.selective_scan import triton as scan

    def tensor(*shape, dtype=dtype):
        return torch.empty(shape, dtype=dtype, device="meta")

    u, B = tensor(batch, 2048, 1536), tensor(batch, 2048, 16)
    A, D = tensor(1536, 16, dtype=FLOAT), tensor(1536, dtype=FLOAT)
    _, _, kept = scan._forward.run(u, u, A, B, B, D, u, D, True, None, None, True)
    scan._backward.run(u, u, A, B, B, D, u, D, True, None, kept, u, None)
    twice = walks == 2
    names = ["_ends_kernel", "_join_kernel"] * twice + ["_outputs_kernel"]
    names += ["_returns_kernel", "_join_kernel"] * twice + ["_gradients_kernel"]
    assert [kernel.name for kernel in compiled] == names
    for kernel in compiled:
        assert spilled(kernel, tmp_path) <= 64, kernel.name
        exponentials = re.findall(r"ex2\.approx\.(?:ftz\.)?f32", kernel.asm["ptx"])
        assert kernel.name == "_join_kernel" or exponentials.count("ex2.approx.ftz.f32") > len(exponentials) / 2
