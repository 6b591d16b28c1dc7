"""LMU against LMUFormer: outputs, memory, steps, gradients, the discretised matrices; the window that it holds."""

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_case, load_variant
from seqconv import create_mixer
from seqconv.filters.state_space.matrix_powers import matrix_powers
from seqconv.interop import from_original
from seqconv.interop.state_space.lmu import ORIGINAL
from seqconv.mixers.state_space.lmu import LegendreMemoryUnit
from tolerances import assert_near


def case_and_module():
    case = load_case("lmu")
    return case, Imported(ORIGINAL, case.group("param"), case.hyper)


def test_golden_outputs_memory_and_gradients():
    case, imported = case_and_module()
    x = case.tensors["in.x"].requires_grad_()
    y, memory = imported(x)
    assert_close(y, case.tensors["out.y"], 1e-8, 1e-10, "output")
    assert_close(memory, case.tensors["out.m_final"], 1e-8, 1e-10, "memory")
    assert_close(y[:, -1], case.tensors["out.h_n"], 1e-8, 1e-10, "last output")
    (y * case.tensors["cot.y"]).sum().backward()
    want = case.group("grad")
    assert_close(x.grad, want.pop("in.x"), 1e-8, 1e-10, "gradient of the input")
    check_gradients(imported, want, 1e-8, 1e-10)


def test_golden_steps_and_continued_sequences():
    case, imported = case_and_module()
    cell, x = imported.module, case.tensors["in.x"]
    cell.load_state_dict(imported.weights)
    with torch.no_grad():
        y, memory = cell(x[:, :11])
        rest, _ = cell(x[:, 11:], memory)
        assert_close(torch.cat([y, rest], 1), case.tensors["out.y"], 1e-8, 1e-10, "two parts")
        memory = cell.init_state(2, x.device, x.dtype)
        for t in range(x.shape[1]):
            y, memory = cell.step(x[:, t], memory)
            assert_close(y, case.tensors["out.y_step"][:, t], 1e-8, 1e-10, f"step {t}")


def test_the_matrices_are_those_of_the_original():
    case, imported = case_and_module()
    built = imported.module
    fresh = LegendreMemoryUnit(4, 5, d_state=case.hyper["memory_size"], window=case.hyper["theta"])
    assert_near(fresh.A, case.tensors["param.A"])
    assert_near(fresh.B, case.tensors["param.B"].flatten())
    taps = matrix_powers(imported.weights["A"], imported.weights["B"][:, None], case.hyper["seq_len"])[..., 0]
    assert_close(taps.T, case.tensors["param.H"], 1e-9, 1e-12, "impulse response")
    assert built.window == case.hyper["theta"]


def test_golden_cell_in_float32():
    case = load_variant("scan/lmu", "lmu_fft_cell")
    names = ("input_size", "hidden_size", "memory_size", "seq_len", "theta")
    params = case.group("param")
    imported = Imported(ORIGINAL, params, {name: case.meta[name] for name in names}, torch.float32)
    x = case.tensors["in.x"].requires_grad_()
    y, _ = imported(x)
    assert_near(y, case.tensors["out.y0"])
    ((y * case.tensors["cot.y0"]).sum() + (y[:, -1] * case.tensors["cot.y1"]).sum()).backward()
    assert_near(x.grad, case.tensors["grad.in.x"])
    for name, want in case.group("grad.param").items():
        assert_near(imported.gradients()[name], want, what=name)


def test_the_mixer_inside_the_golden_block():
    """The block adds a convolution of width one and a batch norm."""
    case = load_variant("scan/lmu", "lmu_block_seq128_theta128")
    params = {k: v for k, v in case.group("param").items() if k.startswith("lmu.")}
    hyper = {"input_size": 4, "hidden_size": 4, "memory_size": 4, "seq_len": 128, "theta": 128}
    mixer = from_original(ORIGINAL, {k.removeprefix("lmu."): v for k, v in params.items()}, **hyper)
    p, x = case.group("param"), case.tensors["in.x"]
    h = mixer(x.mT).mT
    h = torch.nn.functional.conv1d(h, p["proj_conv.weight"], p["proj_conv.bias"])
    statistics = (p["proj_bn.running_mean"], p["proj_bn.running_var"])
    y = torch.nn.functional.batch_norm(h, *statistics, p["proj_bn.weight"], p["proj_bn.bias"])
    assert_near(y, case.tensors["out.y"])


def test_the_memory_holds_the_window():
    """Legendre polynomials at the coefficients give back a smooth signal of the last θ tokens."""
    cell = LegendreMemoryUnit(1, 1, d_state=12, window=50).double()
    cell.reset_parameters()
    with torch.no_grad():
        cell.u_proj.weight.fill_(1.0)
        cell.u_proj.bias.fill_(0.0)
    t = torch.arange(400, dtype=torch.float64)
    signal = 2 + torch.sin(t / 15)
    _, memory = cell(signal[None, :, None])
    delay = torch.linspace(0, 1, 41, dtype=torch.float64)
    basis = [torch.special.legendre_polynomial_p(2 * delay - 1, i) for i in range(12)]
    got = sum(memory[0, i] * b for i, b in enumerate(basis))
    want = 2 + torch.sin((t[-1] - 50 * delay) / 15)
    assert (got - want)[2:-2].abs().max() < 0.05


@pytest.mark.parametrize("length", [1, 2, 7, 8])
def test_powers_and_their_gradient(length):
    rng = torch.Generator().manual_seed(0)
    A, v = (torch.randn(*size, generator=rng, dtype=torch.float64) / 2 for size in ((3, 3), (3, 2)))
    want = torch.stack([torch.linalg.matrix_power(A, t) @ v for t in range(length)])
    assert_near(matrix_powers(A, v, length), want)
    assert torch.autograd.gradcheck(lambda v: matrix_powers(A, v, length), v.requires_grad_())


def test_sizes_that_do_not_fit_raise():
    for options in ({"d_state": 0}, {"window": 0}):
        with pytest.raises(ValueError, match=r"lmu mixer: received .*Remedy: correct the sizes"):
            create_mixer("lmu", 8, **options)
    with pytest.raises(ValueError, match=r"no theta.*Remedy"):
        from_original(ORIGINAL, {}, input_size=4, hidden_size=4, memory_size=3)
