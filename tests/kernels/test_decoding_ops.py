"""Ops of single tokens and tiles: every instruction set against the reference and the equations; errors; autograd."""

import pytest
import torch
from torch import Tensor

from seqconv_kernels import diagonal_step, direct_conv_step
from seqconv_kernels._core import native
from seqconv_kernels.direct_conv import direct_conv_tile
from seqconv_kernels.fft_tile import fft_tile, fft_tile_spectrum
from tolerances import assert_near

ISAS = native.library().isas() if native.unavailable() is None else []
compiled = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(params=ISAS)
def isa(request):
    native.library().set_isa(request.param)
    yield request.param
    native.library().set_isa(ISAS[0])


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=wide).to(dtype)


def diagonal_inputs(batch, channels, modes, taps, *, complex=True, dtype=torch.float64):
    """Keyword arguments whose states and parameters are as wide as the sums."""
    real = torch.float64 if dtype == torch.float64 else torch.float32
    inner = real.to_complex() if complex else real
    inputs = {
        "u": normal(batch, channels, seed=0, dtype=dtype),
        "offsets": -0.2 * normal(channels, modes, seed=1, dtype=inner).abs().to(inner),
        "residues": normal(channels, modes, seed=2, dtype=inner),
        "hidden": normal(batch, channels, modes, seed=3, dtype=inner),
        "skip": normal(channels, seed=4, dtype=real),
    }
    if complex:
        inputs["offsets"] = inputs["offsets"] + 0.3j * normal(channels, modes, seed=7, dtype=real)
    if taps:
        inputs["head"] = normal(channels, taps, seed=5, dtype=real)
        inputs["past"] = normal(batch, taps, channels, seed=6, dtype=real)
    return inputs


def stepped(inputs, implementation):
    copies = {k: v.clone() for k, v in inputs.items()}
    outputs = diagonal_step(**copies, implementation=implementation)
    return {name: t for name, t in zip(("y", "hidden", "past"), outputs, strict=True) if t is not None}


def test_a_diagonal_step_is_its_equation():
    inputs = diagonal_inputs(2, 3, 4, 2)
    u, past, poles = inputs["u"], inputs["past"], 1 + inputs["offsets"]
    hidden = poles * inputs["hidden"] + past[:, 0, :, None]
    y = (inputs["residues"] * hidden).sum(-1).real + inputs["skip"] * u
    y = y + inputs["head"][:, 0] * u + inputs["head"][:, 1] * past[:, 1]
    got = stepped(inputs, "reference")
    assert_near(got["y"], y)
    assert_near(got["hidden"], hidden)
    assert_near(got["past"], torch.stack([past[:, 1], u], 1))


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("complex", [False, True])
@pytest.mark.parametrize(("batch", "channels", "modes", "taps"), [(1, 33, 8, 0), (2, 16, 15, 1), (3, 5, 1, 4)])
def test_a_diagonal_step_on_every_instruction_set(batch, channels, modes, taps, complex, dtype, isa):
    inputs = diagonal_inputs(batch, channels, modes, taps, complex=complex, dtype=dtype)
    wide = {
        k: v.to(torch.complex128 if v.is_complex() else torch.float64) if k != "u" else v.double()
        for k, v in inputs.items()
    }
    want, got = stepped(wide, "reference"), stepped(inputs, "cpu")
    assert got["y"].dtype == dtype
    for name, tensor in want.items():
        assert_near(got[name], tensor, dtype=dtype if name == "y" else got[name].real.dtype, what=name)


@compiled
def test_strides_and_lazy_conjugates_change_nothing():
    inputs = diagonal_inputs(2, 20, 5, 3)
    want = stepped(inputs, "reference")
    inputs["head"] = inputs["head"].T.contiguous().T
    inputs["residues"] = inputs["residues"].conj().resolve_conj().conj()
    inputs["u"] = torch.stack([inputs["u"]] * 2, 1)[:, 0]
    assert inputs["residues"].is_conj()
    got = diagonal_step(**inputs, implementation="cpu")
    for name, tensor in zip(want, got, strict=True):
        assert_near(tensor, want[name], what=name)


@compiled
def test_without_gradients_the_states_are_overwritten_and_with_them_they_are_not():
    inputs = diagonal_inputs(1, 4, 3, 2)
    _, hidden, past = diagonal_step(**inputs)
    assert hidden.data_ptr() == inputs["hidden"].data_ptr()
    assert past.data_ptr() == inputs["past"].data_ptr()
    inputs["residues"].requires_grad_()
    before = inputs["hidden"].clone()
    y, hidden, _ = diagonal_step(**inputs)
    assert torch.equal(inputs["hidden"], before)
    with torch.no_grad():
        diagonal_step(**{**inputs, "hidden": hidden})
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_gradients_of_a_diagonal_step():
    inputs = diagonal_inputs(2, 3, 2, 2)
    leaves = {k: v.requires_grad_() for k, v in inputs.items()}

    def step(*tensors):
        return diagonal_step(**dict(zip(leaves, tensors, strict=True)))

    assert torch.autograd.gradcheck(step, tuple(leaves.values()))


@compiled
@pytest.mark.parametrize("complex", [False, True])
def test_the_operator_for_the_compiler(complex):
    from seqconv_kernels.diagonal_step.cpu import _reals

    inputs = diagonal_inputs(2, 6, 3, 2, complex=complex, dtype=torch.float32)
    order = ("u", "offsets", "residues", "head", "skip", "hidden", "past")
    arguments = [_reals(inputs[name]) if name in ("offsets", "residues", "hidden") else inputs[name] for name in order]
    torch.library.opcheck(torch.ops.seqconv.diagonal_step.default, (*arguments, complex))
    y, hidden, past = torch.ops.seqconv.diagonal_step(*arguments, complex)
    want = stepped(inputs, "cpu")
    assert torch.equal(y, want["y"])
    assert torch.equal(hidden, _reals(want["hidden"]))
    assert torch.equal(past, want["past"])


@compiled
def test_a_compiled_diagonal_step_changes_no_input(unannotated):
    inputs = diagonal_inputs(1, 5, 2, 2, complex=False, dtype=torch.float32)
    kept = {k: v.clone() for k, v in inputs.items()}
    torch._dynamo.reset()
    got = torch.compile(diagonal_step, backend="aot_eager", fullgraph=True)(**inputs)
    assert all(torch.equal(inputs[k], v) for k, v in kept.items())
    for a, b in zip(got, diagonal_step(**inputs), strict=True):
        torch.testing.assert_close(a, b)


def ring_inputs(batch, width, ring, taps, dtype=torch.float64):
    inner = torch.float64 if dtype == torch.float64 else torch.float32
    return (
        normal(batch, width, seed=0, dtype=dtype),
        normal(taps, width, seed=1, dtype=inner),
        normal(batch, ring, width, seed=2, dtype=inner),
        normal(batch, ring, width, seed=3, dtype=inner),
    )


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("batch", "width", "row", "count"), [(1, 300, 5, 3), (2, 17, 1, 6), (3, 1, 0, 1), (1, 64, 7, 8)]
)
def test_a_direct_step_on_every_instruction_set(batch, width, row, count, dtype, isa):
    u, taps, past, sums = ring_inputs(batch, width, 8, 9, dtype)
    filled, waiting = past.double(), sums.double()
    filled[:, row] = u.double()
    want = waiting[:, row] + sum(taps[s].double() * filled[:, (row - s) % 8] for s in range(count))
    for implementation in ("cpu", "reference"):
        past_inputs, due = past.clone(), sums.clone()
        y = direct_conv_step(u, taps, past_inputs, due, row=row, count=count, implementation=implementation)
        assert_near(y, want, dtype=dtype, what=implementation)
        assert torch.equal(past_inputs.double(), filled)
        assert not due[:, row].any()
        assert torch.equal(due[:, :row], sums[:, :row])


def direct_tile(x: Tensor, taps: Tensor, due: int, lag: int) -> Tensor:
    """sum_j taps[lag + i - j] x[j]"""
    rows = [sum(taps[lag + i - j] * x[:, j] for j in range(x.shape[1])) for i in range(due)]
    return torch.stack(rows, dim=1)


@compiled
@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize(("past_inputs", "due", "lag"), [(16, 16, 16), (5, 11, 9), (1, 1, 0), (8, 3, 7)])
def test_a_direct_tile_on_every_instruction_set(past_inputs, due, lag, dtype, isa):
    block = normal(2, 40, 19, seed=0, dtype=dtype)
    taps, sums = normal(lag + due, 19, seed=1, dtype=dtype), normal(2, 40, 19, seed=2, dtype=dtype)
    x = block[:, 3 : 3 + past_inputs]
    want = sums.double().clone()
    want[:, 20 : 20 + due] += direct_tile(x.double(), taps.double(), due, lag)
    for implementation in ("cpu", "reference"):
        added = sums.clone()
        direct_conv_tile(x, taps, added[:, 20 : 20 + due], lag=lag, implementation=implementation)
        assert_near(added, want, dtype=dtype, what=implementation)


@compiled
@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize(
    ("size", "channels", "heads", "taps"), [(4, 5, 1, 8), (8, 17, 3, 20), (64, 3, 2, 90), (256, 2, 1, 512)]
)
def test_a_tile_by_fft_on_every_instruction_set(size, channels, heads, taps, dtype, isa):
    h = normal(channels, taps, seed=0, dtype=dtype)
    x, sums = (normal(2, size, heads * channels, seed=s, dtype=dtype) for s in (1, 2))
    padded = torch.nn.functional.pad(h, (0, max(0, 2 * size - taps))).double().T.repeat(1, heads)
    want = sums.double() + direct_tile(x.double(), padded, size, size)
    for implementation in ("cpu", "reference"):
        added = sums.clone()
        fft_tile(x, fft_tile_spectrum(h, size, implementation=implementation), added)
        assert_near(added, want, dtype=dtype, what=implementation)


@compiled
@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit(threads):
    x, taps, sums = normal(2, 64, 300, seed=0), normal(128, 300, seed=1), torch.zeros(2, 64, 300, dtype=torch.float64)
    wide = diagonal_inputs(5, 700, 48, 3)
    spectrum, before = fft_tile_spectrum(taps.T, 64), torch.get_num_threads()
    results = []
    for count in (1, threads):
        torch.set_num_threads(count)
        direct, fast = sums.clone(), sums.clone()
        direct_conv_tile(x, taps, direct, lag=64)
        fft_tile(x, spectrum, fast)
        results.append((direct, fast, stepped(wide, "cpu")["y"]))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@compiled
def test_a_real_spectrum_serves_no_gradient():
    x, taps = normal(1, 8, 2, seed=0).requires_grad_(), normal(2, 16, seed=1)
    with pytest.raises(ValueError, match=r"fft_tile: received implementation='cpu'.*x needs a gradient.*Remedy"):
        fft_tile(x, fft_tile_spectrum(taps, 8), torch.zeros(1, 8, 2, dtype=torch.float64))


def test_wrong_arguments_are_named(unannotated):
    inputs = diagonal_inputs(2, 3, 4, 2)
    cases = {
        r"u of shape \(2, 3\) and hidden of shape \(2, 4\)": {"hidden": normal(2, 4, seed=0)},
        r"residues of shape \(3, 1\)": {"residues": inputs["residues"][:, :1]},
        r"offsets of .*torch.complex64": {"offsets": inputs["offsets"].to(torch.complex64)},
        r"a head and no past.*Remedy: pass the last inputs": {"past": None},
        r"past of shape \(2, 1, 3\)": {"past": inputs["past"][:, :1]},
        r"skip of shape \(2,\)": {"skip": inputs["skip"][:2]},
    }
    for message, change in cases.items():
        with pytest.raises(ValueError, match=f"diagonal_step: received .*{message}"):
            diagonal_step(**{**inputs, **change})
    u, taps, past, sums = ring_inputs(2, 3, 4, 5)
    with pytest.raises(ValueError, match=r"direct_conv_step: received row=4 and count=1.*a row of the ring"):
        direct_conv_step(u, taps, past, sums, row=4, count=1)
    with pytest.raises(ValueError, match=r"direct_conv_step: received u \(2, 2\).*wanted u \(batch, width\)"):
        direct_conv_step(u[:, :2], taps, past, sums, row=0, count=1)
    with pytest.raises(ValueError, match=r"direct_conv_tile: received lag=1 for 4 inputs.*lags within the taps"):
        direct_conv_tile(past, taps, sums, lag=1)
    with pytest.raises(
        ValueError, match=r"direct_conv_tile: received x \(2, 4, 3\), taps \(5, 3\) and|sums \(2, 4, 2\)"
    ):
        direct_conv_tile(past, taps, sums[..., :2], lag=4)
    with pytest.raises(ValueError, match=r"fft_tile_spectrum: .*size=0.*at least 1"):
        fft_tile_spectrum(taps.T, 0)
    with pytest.raises(ValueError, match=r"fft_tile: received x of shape \(2, 4, 3\) for a spectrum.*this size"):
        fft_tile(past, fft_tile_spectrum(taps.T, 8), sums)


@compiled
@pytest.mark.parametrize("taps", [0, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_prepared_recurrence_steps_alike_and_leaves_to_others_what_it_does_not_serve(taps, dtype):
    from seqconv_kernels.diagonal_step import prepare

    inputs = diagonal_inputs(2, 9, 4, taps, dtype=dtype)
    want, hidden, skip = stepped(inputs, "cpu"), inputs["hidden"].clone(), inputs["skip"]
    past = inputs["past"].clone() if taps else inputs["hidden"].real.new_empty(2, 0, 9)
    ready = prepare(inputs["offsets"], inputs["residues"], inputs.get("head"))
    other = {"u": inputs["u"].half(), "hidden": hidden.mT.contiguous().mT, "past": past[:, :, :1], "skip": skip[:3]}
    for name, value in other.items():
        given = {"u": inputs["u"], "hidden": hidden, "past": past, "skip": skip} | {name: value}
        assert (name == "u" and dtype != torch.float64) or ready.step(**given) is None
    with_gradient = inputs["u"].clone().requires_grad_()
    assert ready.step(with_gradient, hidden, past, skip) is None
    hidden, past = inputs["hidden"].clone(), inputs["past"].clone() if taps else past
    assert torch.equal(ready.step(inputs["u"], hidden, past, skip), want["y"])
    assert torch.equal(hidden, want["hidden"])
    assert not taps or torch.equal(past, want["past"])
