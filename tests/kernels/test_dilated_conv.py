"""dilated_conv: the definition, the digit product of the tree, histories, rings, gradients and errors."""

from functools import partial
from itertools import product

import pytest
import torch
from torch.autograd import gradcheck
from torch.utils.checkpoint import checkpoint

from seqconv_kernels._core import native
from seqconv_kernels.dilated_conv import dilated_conv, dilated_conv_step, unroll_rings
from seqconv_kernels.dilated_conv.cases import SHAPES, Shape, example_inputs
from tolerances import assert_near

CASES = {
    "tree": Shape(2, 33, 3, 3, 3, 3),
    "overlapping": Shape(2, 20, 3, 4, 3, 2),
    "one level": Shape(1, 9, 2, 5, 1, 1),
    "one tap": Shape(1, 5, 2, 1, 2, 3),
    "longer than the input": Shape(2, 4, 2, 4, 3, 4),
    "one token": Shape(2, 1, 2, 2, 2, 2),
}
each_case = pytest.mark.parametrize("shape", CASES.values(), ids=CASES)
CPU = pytest.param("cpu", marks=pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable())))
each_implementation = pytest.mark.parametrize("implementation", [CPU, "reference"])
each_activation = pytest.mark.parametrize("activation", [None, "relu", "silu", "tanh"])


def by_definition(x, weight, dilations, activation):
    functions = {None: lambda a: a, "relu": torch.relu, "silu": torch.nn.functional.silu, "tanh": torch.tanh}
    a = x
    for i, d in enumerate(dilations):
        a = a if i == 0 else functions[activation](a)
        b = torch.zeros_like(a)
        for t in range(a.shape[1]):
            for k in range(weight.shape[2]):
                if t - k * d >= 0:
                    b[:, t] += weight[i, :, k] * a[:, t - k * d]
        a = b
    return a


@each_case
@each_activation
@each_implementation
def test_outputs_are_the_definition(shape, activation, implementation):
    given = example_inputs(shape, dtype=torch.float64)
    assert_near(
        dilated_conv(**given, activation=activation, implementation=implementation),
        by_definition(*given.values(), activation),
    )


def test_a_tree_reaches_every_lag_by_one_path():
    width, levels = 3, 4
    weight = torch.randn(levels, 1, width, dtype=torch.float64)
    impulse = torch.zeros(1, 100, 1, dtype=torch.float64)
    impulse[:, 0] = 1
    h = dilated_conv(impulse, weight, [width**i for i in range(levels)])[0, :, 0]
    want = torch.zeros(100, dtype=torch.float64)
    for digits in product(range(width), repeat=levels):
        lag = sum(k * width**i for i, k in enumerate(digits))
        want[lag] = torch.stack([weight[i, 0, k] for i, k in enumerate(digits)]).prod()
    assert_near(h, want)
    assert (h[: width**levels] != 0).all()


@each_case
@each_activation
@each_implementation
def test_pieces_behind_their_histories_equal_the_whole(shape, activation, implementation):
    given = example_inputs(shape, dtype=torch.float64)
    x, weight, dilations = given.values()
    options = {"activation": activation, "implementation": implementation}
    want, history = dilated_conv(**given, **options), None
    pieces = []
    for piece in x.split([1, 2, x.shape[1] - 3] if x.shape[1] > 3 else 1, dim=1):
        y, history = dilated_conv(piece, weight, dilations, **options, history=history, return_history=True)
        pieces.append(y)
    assert_near(torch.cat(pieces, dim=1), want)
    assert [past.shape[1] for past in history] == [(shape.width - 1) * d for d in dilations]


@each_case
@each_activation
@pytest.mark.parametrize("grad", [False, True])
def test_steps_equal_the_whole(shape, activation, grad):
    given = example_inputs(shape, dtype=torch.float64)
    x, weight, dilations = given.values()
    weight.requires_grad_(grad)
    rings = [torch.zeros(x.shape[0], (shape.width - 1) * d, x.shape[2], dtype=torch.float64) for d in dilations]
    position, outputs = torch.zeros(x.shape[0], dtype=torch.int64), []
    for x_t in x.unbind(1):
        y, rings = dilated_conv_step(x_t, weight, dilations, rings=rings, position=position, activation=activation)
        position = position + 1
        outputs.append(y)
    want, history = dilated_conv(**given, activation=activation, return_history=True)
    assert_near(torch.stack(outputs, dim=1), want)
    for got, past in zip(unroll_rings(rings, position), history, strict=True):
        assert_near(got, past)
    if grad:
        (a,) = torch.autograd.grad(sum((y**2).sum() for y in outputs), weight)
        (b,) = torch.autograd.grad((want**2).sum(), weight)
        assert_near(a, b)


def test_steps_write_in_place_where_no_gradient_is_needed():
    x, weight, dilations = example_inputs(SHAPES["tiny"]).values()
    rings = [torch.zeros(2, 2 * d, 6) for d in dilations]
    _, after = dilated_conv_step(x[:, 0], weight, dilations, rings=rings, position=torch.zeros(2, dtype=torch.int64))
    assert all(a is b for a, b in zip(rings, after, strict=True))
    assert torch.equal(rings[0][:, 0], x[:, 0])


def test_rows_may_stand_at_different_positions():
    x, weight, dilations = example_inputs(SHAPES["tiny"], dtype=torch.float64).values()
    _, history = dilated_conv(x[:, :20], weight, dilations, return_history=True)
    position = torch.tensor([3, 7])
    rings = [torch.stack([row.roll(int(p), 0) for row, p in zip(past, position, strict=True)]) for past in history]
    y, _ = dilated_conv_step(x[:, 20], weight, dilations, rings=rings, position=position)
    assert_near(y, dilated_conv(x, weight, dilations)[:, 20])


@each_implementation
@pytest.mark.parametrize("activation", ["tanh", "silu"])
def test_gradients(activation, implementation):
    given = example_inputs(Shape(2, 7, 2, 3, 2, 3), dtype=torch.float64)
    x, weight = given["x"].requires_grad_(), given["weight"].requires_grad_()
    history = [torch.randn(2, 2 * d, 2, dtype=torch.float64, requires_grad=True) for d in given["dilations"]]

    def run(x, weight, *history):
        y, after = dilated_conv(
            x, weight, given["dilations"],
            activation=activation, history=history, return_history=True, implementation=implementation,
        )  # fmt: skip
        return y, *after

    assert gradcheck(run, (x, weight, *history))


@each_activation
@pytest.mark.parametrize("implementation", [CPU])
@pytest.mark.parametrize("remembers", [False, True])
@pytest.mark.parametrize(
    "shape",
    [Shape(3, 40, 37, 11, 2, 2), Shape(2, 300, 70, 8, 3, 8), Shape(1, 6, 5, 4, 3, 5)],
    ids=["many taps", "wide", "short"],
)
def test_values_and_gradients_are_those_of_the_reference(shape, activation, implementation, remembers):
    given = example_inputs(shape, dtype=torch.float64)
    sizes = [(shape.batch, (shape.width - 1) * d, shape.channels) for d in given["dilations"]]
    past = [torch.randn(size, dtype=torch.float64) for size in sizes] if remembers else []
    results = []
    for form in (implementation, "reference"):
        x, weight, *history = (t.clone().requires_grad_() for t in (given["x"], given["weight"], *past))
        outputs = dilated_conv(
            x, weight, given["dilations"],
            activation=activation, history=history or None, return_history=True, implementation=form,
        )  # fmt: skip
        outputs = [outputs[0], *outputs[1]]
        cotangents = [torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y) for y in outputs]
        results.append([*outputs, *torch.autograd.grad(outputs, [x, weight, *history], cotangents)])
    for got, want in zip(*results, strict=True):
        assert_near(got, want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_stays_close_with_float32_levels(dtype):
    given = example_inputs(SHAPES["tiny"], dtype=dtype)
    y, history = dilated_conv(**given, return_history=True)
    wide = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in given.items()}
    assert y.dtype == dtype
    assert all(past.dtype == torch.float32 for past in history)
    assert_near(y, dilated_conv(**wide))


@each_implementation
def test_strided_and_empty_batches(implementation):
    x, weight, dilations = example_inputs(SHAPES["tiny"], dtype=torch.float64).values()
    strided = x.transpose(0, 1).contiguous().transpose(0, 1)
    want = dilated_conv(x, weight, dilations, implementation=implementation)
    assert_near(dilated_conv(strided, weight, dilations, implementation=implementation), want)
    assert dilated_conv(x[:0], weight, dilations, implementation=implementation).shape == (0, 33, 6)


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize("compiled", ["compile", "export", "checkpoint"])
def test_compiled_exported_and_recomputed(compiled):
    x, weight, dilations = example_inputs(SHAPES["tiny"], dtype=torch.float64).values()

    class Tree(torch.nn.Module):
        def forward(self, x, weight):
            return dilated_conv(x, weight, dilations, activation="silu")

    run = Tree()
    if compiled == "compile":
        torch.compiler.reset()
        run = torch.compile(run, fullgraph=True, backend="aot_eager")
    elif compiled == "export":
        run = torch.export.export(run, (x, weight)).module()
    else:
        run = partial(checkpoint, run, use_reentrant=False)
    leaves, others = ([x.clone().requires_grad_(), weight.clone().requires_grad_()] for _ in range(2))
    got, want = run(*leaves), Tree()(*others)
    assert_near(got, want)
    for a, b in zip(
        torch.autograd.grad((got**2).sum(), leaves), torch.autograd.grad((want**2).sum(), others), strict=True
    ):
        assert_near(a, b)


def test_errors_say_what_to_do(unannotated):
    x, w = torch.randn(2, 5, 3), torch.randn(2, 3, 2)
    past = [torch.zeros(2, 1, 3), torch.zeros(2, 2, 3)]
    at = torch.zeros(2, dtype=torch.int64)
    cases = {
        r"dilated_conv: received x of shape \(5, 3\).*add the axes": lambda: dilated_conv(x[0], w, [1, 2]),
        r"x of shape \(2, 0, 3\)": lambda: dilated_conv(x[:, :0], w, [1, 2]),
        r"weight of shape \(2, 4, 2\).*\(levels, 3": lambda: dilated_conv(x, torch.randn(2, 4, 2), [1, 2]),
        r"dilations=\(1,\).*2 dilations.*one for each level": lambda: dilated_conv(x, w, [1]),
        r"dilations=\(1, 0\).*at least 1": lambda: dilated_conv(x, w, [1, 0]),
        r"activation 'rel'.*did you mean 'relu'": lambda: dilated_conv(x, w, [1, 2], activation="rel"),
        r"1 histories.*2 levels": lambda: dilated_conv(x, w, [1, 2], history=past[:1]),
        r"history\[1\] of shape \(2, 1, 3\).*\(2, 2, 3\)": lambda: dilated_conv(x, w, [1, 2], history=[past[0]] * 2),
        r"x of dtype torch.int64": lambda: dilated_conv(x.long(), w, [1, 2]),
        r"implementation 'cuda'.*one of cpu, reference": lambda: dilated_conv(x, w, [1, 2], implementation="cuda"),
        r"dilated_conv_step: received x of shape": lambda: dilated_conv_step(x, w, [1, 2], rings=past, position=at),
        r"position of shape \(1,\)": lambda: dilated_conv_step(x[:, 0], w, [1, 2], rings=past, position=at[:1]),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
