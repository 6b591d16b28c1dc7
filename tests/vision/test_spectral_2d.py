"""FNO over images: the numbers of the original, its rule of kept frequencies, finer grids, errors."""

import math

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_case
from seqconv.vision import FNO2d, SpectralConvolution2d

RTOL, ATOL = 1e-8, 1e-9


def test_outputs_and_gradients_of_the_original():
    case = load_case("fno_spectral_conv_2d")
    imported = Imported(case.meta["original"], case.group("param"), case.hyper)
    x = case.tensors["in.x"].clone().requires_grad_()
    y = imported(x.movedim(1, -1)).movedim(-1, 1)
    assert_close(y, case.tensors["out.y"], RTOL, ATOL, "output")
    (y * case.tensors["cot.y"]).sum().backward()
    want = case.group("grad")
    assert_close(x.grad, want.pop("in.x"), RTOL, ATOL, "gradient of the input")
    check_gradients(imported, want, RTOL, ATOL)


@pytest.mark.parametrize("size", [(8, 7), (5, 6), (3, 3), (2, 9), (1, 1)])
@pytest.mark.parametrize("n_modes", [(4, 4), (5, 3), (1, 1)])
@pytest.mark.parametrize("separable", [False, True])
def test_frequencies_are_those_that_the_original_keeps(size, n_modes, separable):
    """Written out over frequencies: the original's slices of the shifted spectrum and of the weight."""
    torch.manual_seed(0)
    layer = SpectralConvolution2d(3, 3, n_modes=n_modes, separable=separable, bias=False).double()
    x = torch.randn(2, *size, 3, dtype=torch.float64)
    weight = torch.view_as_complex(layer.weight)
    spectrum = torch.fft.fftshift(torch.fft.rfft2(x, dim=(1, 2), norm="forward"), dim=1)
    out = torch.zeros_like(spectrum)
    start = n_modes[0] - min(size[0], n_modes[0])
    rows = weight[..., slice(start // 2, -start // 2) if start else slice(None), :]
    kept = rows.shape[-2]
    for i in range(kept):
        row = size[0] // 2 - kept // 2 + i
        for j in range(min(weight.shape[-1], spectrum.shape[2])):
            w = rows[..., i, j]
            out[:, row, j] = spectrum[:, row, j] * w if separable else spectrum[:, row, j] @ w
    want = torch.fft.irfft2(torch.fft.ifftshift(out, dim=1), s=size, dim=(1, 2), norm="forward")
    assert_close(layer(x), want, RTOL, ATOL)


def test_the_same_function_on_a_finer_grid():
    torch.manual_seed(0)
    mixer = FNO2d(2, n_modes=(5, 4)).double()

    def image(height, width):
        rows, columns = (torch.arange(n).double() / n * 2 * math.pi for n in (height, width))
        waves = torch.sin(rows[:, None] + 2 * columns), torch.cos(2 * rows[:, None] - columns) + 0.5
        return torch.stack(waves, dim=-1)[None]

    assert_close(mixer(image(24, 16))[:, ::3, ::2], mixer(image(8, 8)), RTOL, ATOL)


def test_errors_say_what_to_do():
    for options in ({"n_modes": (4,)}, {"n_modes": (0, 4)}):
        with pytest.raises(ValueError, match=r"at least one frequency of each axis.*Remedy"):
            FNO2d(4, **options)
    with pytest.raises(ValueError, match=r"did you mean 'forward'"):
        FNO2d(4, fft_norm="forwrd")
