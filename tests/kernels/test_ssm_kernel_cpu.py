"""The compiled Vandermonde and Cauchy products: every instruction set against float64, operators, threads, extremes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from seqconv_kernels import cauchy, vandermonde
from seqconv_kernels._core import native
from seqconv_kernels.ssm_kernel import half_angle_nodes
from seqconv_kernels.ssm_kernel.cases import Shape, example_poles
from tolerances import assert_near

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
ISAS = native.library().isas() if native.unavailable() is None else ["plain"]
PRODUCTS = pytest.mark.parametrize("product", [vandermonde, cauchy])
WIDE = {torch.float32: torch.float64, torch.complex64: torch.complex128}


@pytest.fixture(params=ISAS)
def isa(request):
    native.library().set_isa(request.param)
    yield request.param
    native.library().set_isa(ISAS[0])


def with_gradients(product, weights, poles, length, implementation="cpu"):
    leaves = [t.detach().clone().requires_grad_() for t in (weights, poles)]
    y = product(*leaves, length, implementation=implementation)
    wide = WIDE.get(y.dtype, y.dtype)
    cotangent = torch.randn(y.shape, dtype=wide, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return [y.detach(), *torch.autograd.grad((y * cotangent).real.sum(), leaves)]


def exact(product, weights, poles, length):
    wide = (t.to(WIDE.get(t.dtype, t.dtype)) for t in (weights, poles))
    return with_gradients(product, *wide, length, "reference")


def strided(numbers, layout):
    if layout == "transposed":
        return numbers.mT.contiguous().mT
    return torch.stack([numbers, numbers], -1)[..., 0] if layout == "every other" else numbers


@settings(max_examples=80)
@given(
    isa=st.sampled_from(ISAS),
    product=st.sampled_from((vandermonde, cauchy)),
    length=st.sampled_from((1, 2, 3, 63, 64, 65, 1000)),
    heads=st.integers(0, 5),
    channels=st.integers(0, 3),
    d_state=st.sampled_from((0, 1, 2, 7, 8, 17, 32)),
    dtype=st.sampled_from((torch.float32, torch.float64, torch.complex64, torch.complex128)),
    layout=st.sampled_from(("contiguous", "transposed", "every other")),
)
def test_agrees_with_the_reference(isa, product, length, heads, channels, d_state, dtype, layout):
    weights, poles = example_poles(Shape(heads, channels, d_state, length), dtype=dtype.to_complex())
    if not dtype.is_complex:
        weights, poles = weights.real, poles.real - poles.imag
    weights, poles = strided(weights, layout), strided(poles, layout)
    product = product if dtype.is_complex else vandermonde
    native.library().set_isa(isa)
    try:
        got, want = with_gradients(product, weights, poles, length), exact(product, weights, poles, length)
    finally:
        native.library().set_isa(ISAS[0])
    for mine, true in zip(got, want, strict=True):
        assert mine.dtype == (dtype if true.dtype == torch.promote_types(dtype, torch.float64) else mine.dtype)
        assert_near(mine, true)


@PRODUCTS
def test_rounds_once_in_float32(isa, product):
    """Long responses and sharp resonances keep single precision: the phase of a power is not rounded on the way."""
    shape = Shape(1, 4, 32, 4096)
    inputs = example_poles(shape, dtype=torch.complex64)
    for mine, true in zip(
        with_gradients(product, *inputs, shape.length), exact(product, *inputs, shape.length), strict=True
    ):
        assert (mine - true).abs().max() <= 2e-6 * true.abs().max()


@PRODUCTS
@pytest.mark.parametrize("length", [1, 6, 40])
def test_gradients_of_both_orders_by_finite_differences(product, length):
    weights, _ = example_poles(Shape(2, 2, 2, length), dtype=torch.complex128)
    poles = torch.tensor([[-0.5 + 0.3j, -0.2 - 1.1j], [-0.1 + 2.0j, -0.4 + 0.9j]], dtype=torch.complex128)
    leaves = [t.requires_grad_() for t in (weights, poles)]

    def real(*values):
        return torch.view_as_real(product(*values, length, implementation="cpu") + 0j)

    assert torch.autograd.gradcheck(real, leaves)
    if length < 40:
        assert torch.autograd.gradgradcheck(real, leaves)


@pytest.mark.parametrize("parts", [1, 2])
def test_opcheck(parts):
    residues, log_poles = torch.randn(2, 3, 4, parts), -torch.rand(3, 4, parts)
    leaves = [t.requires_grad_() for t in (residues, log_poles)]
    vandermonde(torch.ones(1, 1, 1), -torch.ones(1, 1), 1, implementation="cpu")
    torch.library.opcheck(torch.ops.seqconv.vandermonde.default, (*leaves, 33))
    if parts == 2:
        for length in (32, 33):
            torch.library.opcheck(torch.ops.seqconv.cauchy_pairs.default, (*leaves, length))


@pytest.mark.usefixtures("unannotated")
@pytest.mark.filterwarnings("ignore")
@PRODUCTS
def test_compile_export_and_checkpointing(product):
    inputs, length = example_poles(Shape(2, 3, 4, 65), dtype=torch.complex64), 65
    want = with_gradients(product, *inputs, length)

    def loss(weights, poles):
        y = product(weights, poles.conj().resolve_conj().conj(), length)
        return (torch.view_as_real(y + 0j) ** 2).sum()

    results = []
    for wrapped in (
        loss,
        torch.compile(loss, fullgraph=True),
        torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager"),
        lambda *x: checkpoint(loss, *x, use_reentrant=False),
    ):
        leaves = [t.clone().requires_grad_() for t in inputs]
        value = wrapped(*leaves)
        results.append([value.detach(), *torch.autograd.grad(value, leaves)])
    for result in results[1:]:
        for got, plain in zip(result, results[0], strict=True):
            assert_near(got, plain)

    class Product(torch.nn.Module):
        def forward(self, weights, poles):
            return product(weights, poles, length)

    program = torch.export.export(Product(), inputs)
    assert_near(program.module()(*inputs), want[0])
    assert any("seqconv." in str(node.target) for node in program.graph.nodes)


@PRODUCTS
def test_transforms_without_a_rule_go_elsewhere(product):
    weights, poles = example_poles(Shape(2, 3, 4, 9), dtype=torch.complex128)
    both = torch.func.vmap(lambda w: product(w, poles, 9, implementation="reference"))(torch.stack([weights, weights]))
    assert_near(both[1], product(weights, poles, 9, implementation="cpu"))
    with pytest.raises(ValueError, match=r"torch\.func or forward-mode"):
        torch.func.vmap(lambda w: product(w, poles, 9, implementation="cpu"))(torch.stack([weights, weights]))


@PRODUCTS
def test_threads_do_not_change_a_bit(product):
    shape = Shape(2, 8, 16, 4096)
    inputs, before, results = example_poles(shape, dtype=torch.complex64), torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(with_gradients(product, *inputs, shape.length))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, three) for one, three in zip(*results, strict=True))


def test_extreme_poles(isa):
    """Poles that forget at once, that do not forget, and a million taps."""
    ones = torch.ones(1, 1, 4, dtype=torch.complex64)
    log_poles = torch.tensor([[-float("inf") + 0j, -1000.0, -30 + 3j, 30j]], dtype=torch.complex64)
    taps = vandermonde(ones, log_poles, 40, implementation="cpu")
    lags = torch.arange(40).double()
    assert_near(taps[0, 0], torch.cos(30 * lags) + torch.exp(-30 * lags) * torch.cos(3 * lags) + 2 * (lags == 0))

    length = 1_000_000
    log_poles = torch.tensor([[-1e-7 + 3.0j, -1e-5 - 0.1j]], dtype=torch.complex64)
    leaves = [t.requires_grad_() for t in (torch.ones(1, 1, 2, dtype=torch.complex64), log_poles)]
    taps = vandermonde(*leaves, length, implementation="cpu")
    lags = torch.tensor([0, 1, 777_777, length - 1])
    true = torch.exp(log_poles.detach().to(torch.complex128)[0, :, None] * lags).real.sum(0)
    assert_near(taps.detach()[0, 0, lags], true)
    assert all(g.abs().isfinite().all() for g in torch.autograd.grad(taps.sum(), leaves))


@pytest.mark.parametrize("length", [1_000_000, 1_000_001])
def test_a_resonance_among_a_million_frequencies(isa, length):
    """A pole at a root of unity: the response there is large, and right to single precision."""
    frequency = 123_457
    sine, cosine = half_angle_nodes(length, torch.ones(1, dtype=torch.float64))
    poles = torch.complex(torch.tensor([[-1e-6]]), (2 * sine[frequency] / cosine[frequency]).float()[None, None])
    v = torch.ones(1, 1, 1, dtype=torch.complex64)
    got = cauchy(v, poles, length, implementation="cpu")
    assert got.abs().isfinite().all()
    window = slice(frequency - 50, frequency + 50)
    for f in (slice(0, 50), window, slice(length // 2 - 49, length // 2 + 1)):
        p, s, c = poles[0, 0].to(torch.complex128), sine[f], cosine[f]
        true = 1 / (2j * s - c * p) + 1 / (2j * s - c * p.conj())
        assert_near(got[0, 0, f], true)


@pytest.mark.filterwarnings("ignore:ComplexHalf support:UserWarning")
@PRODUCTS
def test_other_dtypes_go_elsewhere(product, unannotated):
    weights, poles = (t.to(torch.complex32) for t in example_poles(Shape(1, 2, 3, 5)))
    with pytest.raises(ValueError, match=r"dtype torch.complex32, wanted float32, float64, complex64 or complex128"):
        product(weights, poles, 5, implementation="cpu")


def test_the_extension_checks_what_it_is_told():
    residues, log_poles, taps = torch.zeros(2, 3, 4, 2), torch.zeros(3, 4, 2), torch.zeros(2, 3, 5)
    nodes, r = torch.zeros(7, 16), torch.zeros(2, 3, 3, 2)
    library, view = native.library(), native.view
    assert library.vandermonde_forward(view(residues), view(log_poles), view(taps), 1) == 0
    assert library.cauchy_forward(view(residues), view(log_poles), view(nodes), 5, view(r), 1) == 0
    for pattern, wrong in {
        r"log_poles of dtype code 1; wanted code 0": (residues, log_poles.double(), taps),
        r"log_poles of shape \(3, 3, 2\); wanted \(3, 4, 2\)": (residues, log_poles[:, :3], taps),
        r"taps of strides .*row-major": (residues, log_poles, torch.zeros(2, 5, 3).mT),
        r"residues must be .* length at least 1": (residues, log_poles, taps[..., :0]),
        r"residues must be .*float32 or float64": (residues.long(), log_poles, taps),
    }.items():
        with pytest.raises(ValueError, match=pattern):
            library.vandermonde_forward(*map(view, wrong), 1)
    for pattern, wrong in {
        r"nodes of shape \(7, 8\); wanted \(7, 16\)": (residues, log_poles, nodes[:, :8], 5, r),
        r"r of shape \(2, 3, 3, 2\); wanted \(2, 3, 4, 2\)": (residues, log_poles, nodes, 6, r),
        r"v of shape \(2, 3, 4, 1\); wanted \(2, 3, 4, 2\)": (residues[..., :1].contiguous(), log_poles, nodes, 5, r),
        r"received nodes as \(\); wanted a tensor": (residues, log_poles, None, 5, r),
    }.items():
        *tensors, length, out = wrong
        with pytest.raises(ValueError, match=pattern):
            library.cauchy_forward(*map(view, tensors), length, view(out), 1)


@PRODUCTS
def test_third_gradients_raise(product):
    weights, poles = (t.requires_grad_() for t in example_poles(Shape(1, 1, 2, 3), dtype=torch.complex128))
    y = product(weights, poles, 3, implementation="cpu").abs().sum()
    (first,) = torch.autograd.grad(y, poles, create_graph=True)
    with pytest.raises(ValueError, match=r"received a third gradient; wanted at most second .*'reference'"):
        torch.autograd.grad(first.abs().sum(), poles, create_graph=True)
