"""The long convolution: every implementation against direct sums and the reference, in values and all gradients."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import seqconv_kernels as K
from seqconv_kernels._core import native
from seqconv_kernels.fft_conv.cases import Shape, example_inputs
from tolerances import assert_near

ISAS = native.library().isas() if native.unavailable() is None else ["plain"]
compiled = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
implementations = pytest.mark.parametrize("implementation", ["reference", pytest.param("cpu", marks=compiled)])


def with_history(inputs, past):
    u = inputs["u"]
    history = torch.randn(u.shape[0], past, u.shape[2], generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return inputs | {"history": history.to(u.dtype)}


def run(inputs, implementation, dtype=None):
    """Output and the gradients of every input under fixed weights, which every dtype holds exactly."""
    leaves = {k: v.detach().to(dtype or v.dtype).requires_grad_() for k, v in inputs.items()}
    y = K.fft_conv(**leaves, implementation=implementation)
    weights = ((7 * torch.arange(y.numel()) % 11 - 3) / 4).reshape(y.shape).to(y.dtype)
    gradients = torch.autograd.grad((y * weights).sum(), list(leaves.values()))
    return {"y": y.detach()} | dict(zip(leaves, gradients, strict=True))


@implementations
@pytest.mark.parametrize(("length", "taps", "past"), [(1, 1, 0), (7, 3, 0), (7, 20, 0), (8, 8, 5), (5, 4, 30)])
def test_equals_direct_sums(implementation, length, taps, past):
    inputs = example_inputs(Shape(2, length, 3, taps), dtype=torch.float64, gates=True)
    if past:
        inputs = with_history(inputs, past)
    v = inputs["pre_gate"] * inputs["u"]
    inputs_so_far = torch.cat([inputs["history"], v], 1) if past else v
    want = torch.zeros_like(v)
    for t in range(length):
        for s in range(min(taps, past + t + 1)):
            want[:, t] += inputs["h"][:, s] * inputs_so_far[:, past + t - s]
    want = inputs["post_gate"] * (want + inputs["skip"] * v)
    assert_near(K.fft_conv(**inputs, implementation=implementation), want)


@compiled
@settings(max_examples=40)
@example(ISAS[-1], 1000, 2, 18, 1.0, 0, torch.float32, True, True, "contiguous")
@example("avx512" if "avx512" in ISAS else ISAS[-1], 4096, 1, 17, 1.0, 0, torch.float32, True, True, "contiguous")
@example(ISAS[-1], 1500, 1, 5, 1.0, 0, torch.float32, True, True, "contiguous")
@example(ISAS[-1], 2049, 1, 3, 1.0, 0, torch.float64, False, True, "contiguous")
@given(
    isa=st.sampled_from(ISAS),
    length=st.sampled_from((1, 2, 3, 4, 5, 8, 18, 39, 46, 63, 64, 65, 129)),
    batch=st.integers(0, 3),
    channels=st.integers(1, 35),
    reach=st.sampled_from((0.3, 1.0, 1.7)),
    past=st.sampled_from((0, 1, 28)),
    dtype=st.sampled_from((torch.float32, torch.float64, torch.bfloat16, torch.float16)),
    gates=st.booleans(),
    skip=st.booleans(),
    layout=st.sampled_from(("contiguous", "sliced", "channels first")),
)
def test_cpu_agrees_with_the_reference(isa, length, batch, channels, reach, past, dtype, gates, skip, layout):
    taps = max(1, int(reach * length))
    inputs = example_inputs(Shape(batch, length, channels, taps), dtype=dtype, gates=gates)
    inputs = with_history(inputs, past) if past else inputs
    if not skip:
        del inputs["skip"]
    if layout == "sliced":
        inputs["u"] = torch.cat([inputs["u"], inputs["u"]], -1)[..., :channels]
    if layout == "channels first":
        inputs["u"] = inputs["u"].mT.contiguous().mT
    native.library().set_isa(isa)
    try:
        got = run(inputs, "cpu")
    finally:
        native.library().set_isa(ISAS[0])
    want = run(inputs, "reference", torch.float64)
    for name, value in got.items():
        assert_near(value, want[name], dtype=dtype, what=name)


@compiled
@pytest.mark.parametrize("length", [4096, 5000, 16384])
def test_long_sequences_keep_their_precision(length):
    inputs = example_inputs(Shape(1, length, 2, length))
    got, want = run(inputs, "cpu"), run(inputs, "reference", torch.float64)
    for name, value in got.items():
        error = (value.double() - want[name]).norm() / want[name].norm()
        assert error < 3e-6, f"{name}: {error:.2g}"


@compiled
def test_sizes_of_the_transform():
    from seqconv_kernels.fft_conv.cpu import transform_size

    assert [transform_size(n) for n in (1, 5, 9, 17, 21, 33, 41, 1025, 1500, 2048, 5000)] == [
        4, 8, 16, 20, 24, 40, 48, 1280, 1536, 2048, 5120
    ]  # fmt: skip


@compiled
def test_few_channels_of_a_large_batch():
    inputs = example_inputs(Shape(11, 9, 3, 9), dtype=torch.float64, gates=True)
    got, want = run(inputs, "cpu"), run(inputs, "reference")
    for name, value in got.items():
        assert_near(value, want[name], what=name)


@compiled
def test_a_million_steps():
    inputs = example_inputs(Shape(1, 1_000_000, 1, 1_000_000))
    got = K.fft_conv(**inputs, implementation="cpu").double()
    want = K.fft_conv(**{k: v.double() for k, v in inputs.items()}, implementation="reference")
    assert (got - want).norm() < 3e-6 * want.norm()


@compiled
@pytest.mark.usefixtures("unannotated")
@pytest.mark.filterwarnings("ignore")
def test_compiles_without_graph_breaks():
    inputs = example_inputs(Shape(2, 20, 3, 20), gates=True)
    conv = torch.compile(lambda u: K.fft_conv(**(inputs | {"u": u})), fullgraph=True)
    assert_near(conv(inputs["u"]), K.fft_conv(**inputs, implementation="reference"))


@compiled
def test_threads_do_not_change_a_bit():
    inputs = example_inputs(Shape(3, 300, 40, 300), gates=True)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        want = run(inputs, "cpu")
        torch.set_num_threads(3)
        got = run(inputs, "cpu")
    finally:
        torch.set_num_threads(before)
    for name, value in got.items():
        assert torch.equal(value, want[name]), name


@compiled
def test_what_the_kernel_leaves_to_the_reference():
    inputs = example_inputs(Shape(1, 6, 3, 6))
    with pytest.raises(ValueError, match=r"h of dtype torch.float64 is wider than the sums, torch.float32"):
        K.fft_conv(**(inputs | {"h": inputs["h"].double()}), implementation="cpu")
    with pytest.raises(ValueError, match=r"pre_gate has dtype torch.bfloat16, u has torch.float32"):
        K.fft_conv(**inputs, pre_gate=torch.ones(1, 6, 3, dtype=torch.bfloat16), implementation="cpu")
    with pytest.raises(ValueError, match="u has no time steps"):
        K.fft_conv(**(inputs | {"u": torch.zeros(1, 0, 3)}), implementation="cpu")
    assert K.fft_conv(**(inputs | {"u": torch.zeros(1, 0, 3)})).shape == (1, 0, 3)


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": torch.zeros(5, 3)}, r"u of shape \(5, 3\)"),
        ({"h": torch.zeros(5, 3)}, r"h of shape \(5, 3\); wanted .*h \(channels, taps\)"),
        ({"h": torch.zeros(3, 0)}, r"h of shape \(3, 0\)"),
        ({"skip": torch.zeros(5)}, r"skip of shape \(5,\); wanted \(channels\) = \(3,\)"),
        (
            {"post_gate": torch.zeros(2, 5, 1)},
            r"post_gate of shape \(2, 5, 1\); wanted \(batch, length, channels\) = \(2, 5, 3\)",
        ),
        ({"history": torch.zeros(1, 5, 3)}, r"history of shape \(1, 5, 3\); wanted \(2, past, 3\)"),
        ({"skip": torch.zeros(3, dtype=torch.int64)}, r"skip of dtype torch.int64 on cpu"),
        ({"frequency_limit": 1.5}, r"frequency_limit=1.5; wanted a fraction of the Nyquist frequency in \(0, 1\)"),
        ({"implementation": "cuda"}, "implementation 'cuda'; wanted one of .*cpu"),
    ],
)
def test_bad_input(change, message):
    inputs = {"u": torch.zeros(2, 5, 3), "h": torch.zeros(3, 4)}
    with pytest.raises(ValueError, match=f"^fft_conv: received .*{message}.*Remedy: "):
        K.fft_conv(**(inputs | change))


def test_a_part_of_the_spectrum_is_a_low_pass():
    """Tones below the limit pass as they were, those above vanish, away from the ends."""
    t = torch.arange(256, dtype=torch.float64)
    tones = torch.stack([torch.cos(torch.pi * f * t) for f in (0.1, 0.4, 0.6, 0.9)], dim=1)[None]
    window = torch.hann_window(256, dtype=torch.float64)[None, :, None]
    h = torch.ones(4, 1, dtype=torch.float64)
    y = K.fft_conv(tones * window, h, frequency_limit=0.5, implementation="reference")
    assert_near(y[..., :2], (tones * window)[..., :2], dtype=torch.float16)
    assert y[..., 2:].abs().max() < 1e-3
    assert_near(K.fft_conv(tones, h, frequency_limit=0.999999, implementation="reference"), tones, dtype=torch.bfloat16)


def test_a_part_of_the_spectrum_is_differentiable_and_has_a_skip():
    inputs = example_inputs(Shape(1, 5, 2, 7), dtype=torch.float64, gates=True)
    leaves = [inputs[k].requires_grad_() for k in ("u", "h", "skip")]
    assert torch.autograd.gradcheck(lambda u, h, skip: K.fft_conv(u, h, skip=skip, frequency_limit=0.3), leaves)
    folded = torch.cat([inputs["h"][:, :1] + inputs["skip"][:, None], inputs["h"][:, 1:]], dim=1)
    both = [
        K.fft_conv(leaves[0], h, skip=s, frequency_limit=0.3) for h, s in ((inputs["h"], leaves[2]), (folded, None))
    ]
    assert_near(*both)


@compiled
def test_the_native_kernel_multiplies_whole_spectra():
    inputs = example_inputs(Shape(1, 6, 3, 6))
    with pytest.raises(ValueError, match="frequency_limit is not None, and this kernel multiplies whole spectra"):
        K.fft_conv(**inputs, frequency_limit=0.5, implementation="cpu")
