"""Rules that every implementation of every op keeps: accuracy of half precision, isolation of NaN, memory, batches of
none, derivatives by transforms."""

from functools import cache, partial
from itertools import pairwise

import pytest
import torch
from op_cases import CASES, STEPS
from torch import Tensor

from seqconv_kernels._core import native
from seqconv_kernels._core.registry import ops

# torch warns of its own code when it first differentiates in forward mode.
TORCH_ITSELF = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
pytestmark = [pytest.mark.usefixtures("unannotated"), TORCH_ITSELF]

TOKENS = ("a", "b", "x", "u", "delta", "dt", "B", "C", "z", "q", "k", "v", "beta", "log_decay", "pre_gate", "post_gate")
"""Arguments with a time axis."""
STATES = ("initial_state", "state", "history", "hidden", "past", "sums", "ring0", "ring1")
"""Arguments that keep the dtype of the sums."""
BY_FFT = ("fft_conv",)
"""Ops whose earlier outputs round otherwise where a value has changed: each is a sum over all inputs."""
NO_HALF = ("vandermonde", "cauchy", "linear_scan, complex", "diagonal_step")
"""Calls with complex tensors."""


NO_TIME = ("vandermonde", "cauchy", "fft_conv2d", "cross_selective_scan")
"""Ops whose inputs have no single axis of time."""


def forms(names) -> list[pytest.param]:
    """Every call with every implementation that computes on CPU tensors."""
    found = []
    for name in names:
        op = ops()[name.split(",")[0]].op
        for implementation in (i.name for i in op.implementations):
            if implementation in ("triton", "mamba-ssm", "causal-conv1d"):
                continue
            missing = implementation == "cpu" and native.unavailable() is not None
            marks = [pytest.mark.skip(reason=str(native.unavailable()))] if missing else []
            found.append(pytest.param(name, implementation, marks=marks, id=f"{name}-{implementation}"))
    return found


def outputs_of(name: str, implementation: str | None, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
    return (CASES | STEPS)[name].run(**inputs, implementation=implementation)


def gradients(name: str, implementation: str, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of a fixed combination of the outputs, in float64."""
    leaves = {k: v.clone().requires_grad_() if v.is_floating_point() else v for k, v in inputs.items()}
    outputs = outputs_of(name, implementation, leaves)
    rng = torch.Generator().manual_seed(1)
    # Of values that half precision holds, so that the cotangents are the same in every dtype.
    weights = [torch.randint(-8, 9, y.shape, generator=rng).double() / 8 for y in outputs]
    total = sum((y.double() * w).sum() for y, w in zip(outputs, weights, strict=True))
    wanted = {k: v for k, v in leaves.items() if v.requires_grad}
    found = torch.autograd.grad(total, list(wanted.values()), materialize_grads=True)
    return {k: g.double() for k, g in zip(wanted, found, strict=True)}


@cache
def half_precision(name: str, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs of 600 tokens in a dtype, and the gradients of the same numbers in float64 by the reference."""
    inputs = {k: v for k, v in CASES[name].inputs(1, 600).items() if isinstance(v, Tensor)}
    narrow = {
        k: v if not v.is_floating_point() else v.to(torch.float32 if k in STATES else dtype) for k, v in inputs.items()
    }
    wide = {k: v.double() if v.is_floating_point() else v for k, v in narrow.items()}
    return narrow, gradients(name, "reference", wide)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("name", "implementation"), forms([n for n in CASES if n not in NO_HALF]))
def test_gradients_of_half_precision_are_as_near_to_float64(name, implementation, dtype):
    """Sums over 600 tokens are in float32: the error of a gradient is that of its own rounding."""
    narrow, want = half_precision(name, dtype)
    got = gradients(name, implementation, narrow)
    for argument, gradient in want.items():
        error = (got[argument] - gradient).abs().max() / gradient.abs().max()
        bound = 1e-4 if narrow[argument].dtype == torch.float32 else torch.finfo(dtype).eps
        assert error <= bound, f"{argument}: {error:.1e}"


def spoil(tensor: Tensor, row: int, token: int | None) -> Tensor:
    spoilt = tensor.clone()
    spoilt[row if token is None else (row, token)] = torch.nan
    return spoilt


@pytest.mark.parametrize(
    ("name", "implementation"),
    forms([n for n in CASES if n.split(",")[0] not in NO_TIME and n.split(", ")[-1] not in ("complex", "packed")]),
)
def test_nan_reaches_its_own_row_from_its_token_on(name, implementation):
    length, token = 70, 67
    inputs = CASES[name].inputs(3, length)
    want = outputs_of(name, implementation, inputs)
    for argument in (k for k in inputs if k in TOKENS):
        got = outputs_of(name, implementation, inputs | {argument: spoil(inputs[argument], 1, token)})
        others = [0, 2]
        for after, before in zip(got, want, strict=True):
            assert torch.equal(after[others], before[others]), f"{argument}: another row"
        y, clean, at = got[0][1], want[0][1], token
        if name.endswith("in reverse"):
            y, clean, at = y.flip(0), clean.flip(0), length - 1 - token
        assert y[at:].isnan().any() or argument in ("log_decay", "beta"), f"{argument}: it vanished"
        if name.split(",")[0] in BY_FFT:
            torch.testing.assert_close(y[:at], clean[:at], rtol=1e-12, atol=1e-12)
        else:
            assert torch.equal(y[:at], clean[:at]), f"{argument}: an earlier token"


@pytest.mark.parametrize(("name", "implementation"), forms([n for n in CASES if n.endswith("packed")]))
def test_nan_stays_in_its_packed_sequence(name, implementation):
    inputs, token = CASES[name].inputs(3, 7), 2
    want = outputs_of(name, implementation, inputs)
    for argument in (k for k in inputs if k in TOKENS):
        got = outputs_of(name, implementation, inputs | {argument: spoil(inputs[argument], 0, token)})
        bounds = list(pairwise(inputs["cu_seqlens"].tolist()))
        for row, (start, stop) in enumerate(bounds):
            if not start <= token < stop:
                assert torch.equal(got[0][0, start:stop], want[0][0, start:stop]), argument
                assert torch.equal(got[1][row], want[1][row]), argument


@pytest.mark.parametrize("name", [n for n in STEPS if n != "direct_conv_step"])
@pytest.mark.parametrize("gradients", [False, True])
def test_nan_in_a_step_stays_in_its_row(name, gradients):
    inputs = STEPS[name].inputs(3, 1)
    with torch.set_grad_enabled(gradients):
        want = STEPS[name].run(
            **{k: v.clone().requires_grad_(gradients and v.is_floating_point()) for k, v in inputs.items()}
        )
        for argument in (k for k in inputs if k in TOKENS and inputs[k].shape[0] == 3):
            spoilt = {k: v.clone() for k, v in inputs.items()} | {argument: spoil(inputs[argument], 1, None)}
            got = STEPS[name].run(
                **{k: v.requires_grad_(gradients and v.is_floating_point()) for k, v in spoilt.items()}
            )
            for after, before in zip(got, want, strict=True):
                assert torch.equal(after[[0, 2]], before[[0, 2]]), argument


@pytest.mark.parametrize("value", [-0.5, torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("softplus", [False, True])
@pytest.mark.parametrize(
    ("name", "step"), [("selective_scan", "delta"), ("ssd", "dt"), ("selective_scan_step", "delta"), ("ssd_step", "dt")]
)
def test_time_steps_of_any_value_propagate(name, step, softplus, value):
    case = (CASES | STEPS)[name]
    run = partial(case.run, **{f"{step}_softplus": softplus})
    inputs = case.inputs(2, 5)
    inputs[step][1, -1] = value
    forms = [i.name for i in ops()[name].op.implementations if i.name in ("cpu", "chunked", "reference")]
    with torch.no_grad():
        found = [run(**{k: v.clone() for k, v in inputs.items()}, implementation=form) for form in forms]
    for got in found[:-1]:
        for y, want in zip(got, found[-1], strict=True):
            assert torch.equal(y.isfinite(), want.isfinite())
            torch.testing.assert_close(y.nan_to_num(0, 0, 0), want.nan_to_num(0, 0, 0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "implementation"), forms(CASES))
def test_final_states_own_their_memory(name, implementation):
    outputs = outputs_of(name, implementation, CASES[name].inputs(2, 5))
    addresses = [y.untyped_storage().data_ptr() for y in outputs]
    assert len(set(addresses)) == len(addresses)
    assert all(y.untyped_storage().nbytes() == y.numel() * y.element_size() for y in outputs[1:])


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("gradients", [False, True])
def test_steps_alias_neither_output_and_state_nor_their_inputs(name, gradients):
    inputs = {k: v.clone() for k, v in STEPS[name].inputs(2, 1).items()}
    with torch.set_grad_enabled(gradients):
        leaves = {
            k: v.requires_grad_(gradients and (v.is_floating_point() or v.is_complex())) for k, v in inputs.items()
        }
        outputs = [y for y in STEPS[name].run(**leaves) if y is not None]
    addresses = [y.untyped_storage().data_ptr() for y in outputs]
    assert len(set(addresses)) == len(addresses)
    others = {v.untyped_storage().data_ptr() for k, v in inputs.items() if k not in STATES}
    assert not others & set(addresses)


@pytest.mark.parametrize(("name", "implementation"), forms([n for n in CASES if not n.endswith("packed")]))
def test_a_batch_of_none(name, implementation):
    inputs = CASES[name].inputs(0, 5)
    leaves = {k: v.requires_grad_() if isinstance(v, Tensor) else v for k, v in inputs.items()}
    if (name, implementation) == ("fft_conv2d", "rows"):
        pytest.skip("it leaves empty feature maps to the reference")
    outputs = outputs_of(name, implementation, leaves)
    assert all(y.shape[0] == 0 for y in outputs)
    tensors = [v for v in leaves.values() if isinstance(v, Tensor)]
    total = sum(y.abs().sum() for y in outputs)
    for tensor, gradient in zip(tensors, torch.autograd.grad(total, tensors, materialize_grads=True), strict=True):
        assert gradient.shape == tensor.shape
        assert not gradient.any()


@pytest.mark.parametrize("name", STEPS)
def test_a_batch_of_none_takes_a_step(name):
    with torch.no_grad():
        outputs = STEPS[name].run(**STEPS[name].inputs(0, 1))
    assert all(y is None or y.shape[0] == 0 for y in outputs)


def function_of(name: str, implementation: str | None):
    """The first output as a real function of the tensors, and those."""
    case = (CASES | STEPS)[name]
    inputs = case.inputs(2, 5)
    tensors = {k: v for k, v in inputs.items() if isinstance(v, Tensor) and (v.is_floating_point() or v.is_complex())}
    rest = {k: v for k, v in inputs.items() if k not in tensors}
    options = {} if implementation is None else {"implementation": implementation}

    def function(*values: Tensor) -> Tensor:
        y = case.run(**dict(zip(tensors, (v.clone() for v in values), strict=True)), **rest, **options)[0]
        return torch.view_as_real(y) if y.is_complex() else y

    return function, tuple(tensors.values())


def directions(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    rng = torch.Generator().manual_seed(2)
    return tuple(torch.randn(t.shape, generator=rng, dtype=t.dtype) for t in tensors)


def difference(function, tensors: tuple[Tensor, ...], along: tuple[Tensor, ...]) -> Tensor:
    e = 1e-6
    with torch.no_grad():
        up, down = (function(*(t + s * e * d for t, d in zip(tensors, along, strict=True))) for s in (1, -1))
    return (up - down) / (2 * e)


EVERY = CASES | STEPS


@pytest.mark.parametrize("name", EVERY)
def test_forward_mode_gives_the_tangent_of_finite_differences(name):
    function, tensors = function_of(name, None)
    along = directions(tensors)
    want = difference(function, tensors, along)
    _, tangent = torch.func.jvp(function, tensors, along)
    torch.testing.assert_close(tangent, want, rtol=1e-5, atol=1e-6)
    with torch.autograd.forward_ad.dual_level():
        duals = [torch.autograd.forward_ad.make_dual(t, d) for t, d in zip(tensors, along, strict=True)]
        dual = torch.autograd.forward_ad.unpack_dual(function(*duals)).tangent
    torch.testing.assert_close(dual, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_transforms_give_the_gradient_of_autograd(name):
    function, tensors = function_of(name, None)

    def total(*values: Tensor) -> Tensor:
        return function(*values).square().sum()

    leaves = [t.clone().requires_grad_() for t in tensors]
    want = torch.autograd.grad(total(*leaves), leaves, materialize_grads=True)
    got = torch.func.grad(total, argnums=tuple(range(len(tensors))))(*tensors)
    for gradient, wanted in zip(got, want, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-7, atol=1e-9)
    if tensors[0].is_complex():  # of which torch.func has no Jacobians
        return
    jacobian = torch.func.jacrev(lambda first: function(first, *tensors[1:]).sum())(tensors[0])
    along = directions(tensors[:1])[0]
    rate = difference(lambda first: function(first, *tensors[1:]).sum(), tensors[:1], (along,))
    torch.testing.assert_close((jacobian * along).sum(), rate, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_vmap_equals_a_loop(name):
    function, tensors = function_of(name, None)
    stacked = tuple(torch.stack([t, 0.5 * t]) for t in tensors)
    with torch.no_grad():
        got = torch.func.vmap(function)(*stacked)
        want = torch.stack([function(*(t[i] for t in stacked)) for i in range(2)])
    torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("name", "implementation"), forms(CASES))
def test_a_named_implementation_has_the_right_tangent_or_raises(name, implementation):
    function, tensors = function_of(name, implementation)
    along = directions(tensors)
    if implementation == "cpu":
        with pytest.raises(ValueError, match="forward-mode"):
            torch.func.jvp(function, tensors, along)
        return
    try:
        _, tangent = torch.func.jvp(function, tensors, along)
    except ValueError as error:
        reason = str(error)
    else:
        reason = None
    if reason is not None:
        assert implementation == "chunked"
        assert "forward-mode" in reason
        return
    torch.testing.assert_close(tangent, difference(function, tensors, along), rtol=1e-5, atol=1e-6)
