"""Every Triton kernel compiles for compute capability 9.0, at the sizes that a GPU would get, without having one.

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


def meta(*shape, dtype=FLOAT):
    """A tensor without memory: compiling looks at dtypes, strides and sizes only."""
    return torch.empty(shape, dtype=dtype, device="meta")


def check(kernels, names, folder, *, most_stack=64, products=False):
    """The kernels by name, their resources, and whether products run on the matrix units."""
    assert [kernel.name for kernel in kernels] == names
    for kernel in kernels:
        assert kernel.metadata.shared <= SHARED, kernel.name
        assert spilled(kernel, folder) <= most_stack, kernel.name
        if products:
            assert "wgmma.mma_async" in kernel.asm["ptx"] or "mma.sync" in kernel.asm["ptx"], kernel.name


@pytest.mark.parametrize(
    ("dtype", "width", "decay", "delta"),
    [
        (BFLOAT, 64, "vector", True),
        (BFLOAT, 128, "vector", True),
        (HALF, 128, "scalar", False),
    ],
)
def test_linear_attention(compiled, tmp_path, dtype, width, decay, delta):
    from seqconv_kernels._linear_attention.triton_launch import Inputs, Launch

    tokens = (8, 4096, 16)
    activation, strength = meta(*tokens, width, dtype=dtype), meta(*tokens, 1) if delta else None
    decay_width = {"vector": width, "scalar": 1}.get(decay)
    log_decay, state = meta(*tokens, decay_width) if decay_width else None, meta(8, 16, width, width)
    launch = Launch(Inputs(activation, activation, activation, log_decay, strength, state, None, 1.0, delta))
    launch.forward(launch.intra_chunk(), activation, None, None)
    launch.backward(activation, state)
    forward = ["intra_chunk_kernel", "state_passing_kernel"]
    backward = [*forward, "state_passing_backward_kernel", "intra_chunk_backward_kernel"]
    check(compiled, [*forward, *backward], tmp_path, products=True)
    if delta:  # two programs share a multiprocessor, whose 228 KB also hold 1 KB for each
        shared = [kernel.metadata.shared for kernel in compiled if kernel.name.startswith("state_passing")]
        assert max(shared) <= 113 * 1024


@pytest.mark.parametrize(("dtype", "batch", "chunked"), [(BFLOAT, 8, True), (FLOAT, 64, False)])
def test_selective_scan(compiled, tmp_path, dtype, batch, chunked):
    """In chunks that are scanned twice, or whole sequences at once; an exponential is one instruction."""
    from seqconv_kernels.selective_scan import triton as scan
    from seqconv_kernels.selective_scan.spec import Inputs

    u, B = meta(batch, 2048, 1536, dtype=dtype), meta(batch, 2048, 16, dtype=dtype)
    A, D = meta(1536, 16), meta(1536)
    inputs = Inputs(u, u, A, B, B, D, u, D, True, None, None)
    _, _, checkpoints = scan._forward.run(inputs, True)
    scan._backward.run(inputs, checkpoints, u, None)
    names = ["chunk_state_kernel", "_state_passing_kernel"] * chunked + ["chunk_scan_kernel"]
    names += ["chunk_state_backward_kernel", "_state_passing_kernel"] * chunked + ["chunk_scan_backward_kernel"]
    check(compiled, names, tmp_path)
    for kernel in compiled:
        exponentials = re.findall(r"ex2\.approx\.(?:ftz\.)?f32", kernel.asm["ptx"])
        fast = exponentials.count("ex2.approx.ftz.f32")
        assert kernel.name == "_state_passing_kernel" or fast > len(exponentials) / 2, kernel.name


@pytest.mark.parametrize("activation", ["silu", None])
def test_causal_conv1d(compiled, tmp_path, activation):
    from seqconv_kernels.causal_conv1d import triton as conv
    from seqconv_kernels.causal_conv1d.spec import Inputs

    x, weight, bias, state = meta(8, 2048, 1536, dtype=BFLOAT), meta(1536, 4), meta(1536), meta(8, 3, 1536)
    inputs = Inputs(x, weight, bias, activation, state, None)
    conv._forward.run(inputs)
    conv._backward.run(inputs, x)
    backward = ["_weight_gradient_kernel", "_input_gradient_kernel", "_state_gradient_kernel"]
    check(compiled, ["_forward_kernel", *backward], tmp_path)


def test_linear_scan(compiled, tmp_path):
    from seqconv_kernels.linear_scan import triton as scan

    x = meta(8, 2048, 1536)
    scan._forward.run(x, x, meta(8, 1536))
    scan._adjoint.run(x, x)
    check(compiled, ["_chunk_state_kernel", "_state_passing_kernel", "_chunk_scan_kernel"] * 2, tmp_path)


@pytest.mark.parametrize(("dtype", "width", "low_rank"), [(BFLOAT, 64, True), (FLOAT, 128, False)])
def test_dplr_delta_rule(compiled, tmp_path, dtype, width, low_rank):
    from seqconv_kernels.dplr_delta_rule.spec import Inputs
    from seqconv_kernels.dplr_delta_rule.triton import _backward, _forward

    q, k, v, a, b = (meta(8, 2048, 32, width, dtype=dtype) for _ in range(5))
    inputs = Inputs(q, k, v, a, b if low_rank else None, meta(8, 2048, 32, width), 1.0, None)
    o, final, states = _forward(inputs, True)
    _backward(inputs, states, o, final)
    check(compiled, ["_forward_kernel", "_backward_kernel"], tmp_path)


@pytest.mark.parametrize("cell", ["lstm", "gru", "slstm"])
@pytest.mark.parametrize("dtype", [FLOAT, BFLOAT])
def test_rnn(compiled, tmp_path, cell, dtype):
    from seqconv_kernels.rnn import triton as cells
    from seqconv_kernels.rnn.cells import CELLS
    from seqconv_kernels.rnn.spec import Inputs

    gates, states, _ = CELLS[cell]
    x, weight = meta(16, 1024, gates, 4, 64, dtype=dtype), meta(gates, 4, 64, 64, dtype=dtype)
    first = meta(16, states, 4, 64)
    inputs = Inputs(x, weight, meta(gates, 4, 64, dtype=dtype), cell, first)
    h, _, saved = cells._forward(inputs, True)
    cells._backward(inputs, h, saved, h, first)
    # The adjoint of sLSTM has a few more numbers in flight than there are registers.
    spills = 128 if cell == "slstm" else 64
    check(compiled, ["_forward_kernel", "_backward_kernel"], tmp_path, products=True, most_stack=spills)


@pytest.mark.parametrize("parts", [1, 2])
def test_vandermonde(compiled, tmp_path, parts):
    from seqconv_kernels.ssm_kernel import triton as products

    residues, poles = meta(1, 256, 32, parts), meta(256, 32, parts)
    taps = products._vandermonde.run(residues, poles, 16384)
    products._vandermonde_backward.run(residues, poles, taps)
    check(compiled, ["taps_kernel", "poles_kernel"], tmp_path, products=True)


def test_cauchy(compiled, tmp_path):
    from seqconv_kernels.ssm_kernel import triton as products

    v, poles = meta(1, 256, 32, 2), meta(256, 32, 2)
    r = products._cauchy.run(v, poles, 16384)
    products._cauchy_backward.run(v, poles, 16384, r)
    check(compiled, ["resolvents_kernel", "pairs_kernel"], tmp_path)


@pytest.mark.parametrize(("dtype", "length", "outer"), [(BFLOAT, 1024, 1), (BFLOAT, 16384, 16), (FLOAT, 300, 1)])
def test_fft_conv(compiled, tmp_path, dtype, length, outer):
    """One program holds the transform, or 16 outer points are split off; the backward runs the spectrum again."""
    from seqconv_kernels.fft_conv import triton as conv
    from seqconv_kernels.fft_conv.plan import Plan
    from seqconv_kernels.fft_conv.spec import Inputs

    u, h, skip = meta(64, length, 768, dtype=dtype), meta(768, length), meta(768)
    assert Plan.make(length, length, dtype, None).outer == outer
    inputs = Inputs(u, h, skip, u, u, None, None)
    conv._forward.run(inputs)
    conv._backward.run(inputs, u)
    if outer == 1:
        names = ["spectrum_kernel", "convolve_kernel"] * 2 + ["convolve_kernel", "correlate_kernel", "response_kernel"]
    else:
        convolve = ["outer_kernel", "convolve_kernel", "outer_inverse_kernel"]
        names = ["outer_kernel", "spectrum_kernel", *convolve] * 2 + convolve
        names += ["outer_kernel"] * 2 + ["correlate_kernel", "response_kernel", "outer_inverse_kernel"]
    # Three passes of tf32 take more registers than there are.
    check(compiled, names, tmp_path, products=True, most_stack=64 if dtype == BFLOAT else 256)
