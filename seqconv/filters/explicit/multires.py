"""Multiresolution filter: a wavelet tree whose two short filters are shared by all levels.

With taps h0 (low pass) and h1 (high pass) of ``kernel_size`` lags, levels j = 1 .. J and ``a_0`` the input::

    a_j[t] = sum_k h0[k] a_{j-1}[t - 2^(j-1) k],    b_j[t] = sum_k h1[k] a_{j-1}[t - 2^(j-1) k]

    fading:   y = w_0 a_J + sum_j w_{J+1-j} b_j + w_x x
    uniform:  y = w_0 a_J + sum_j sum_i w_{j,i} b_j[t - 2^j i] + w_x x,    deepest level first

where ``uniform`` has 1 coefficient at the deepest level, then at every finer one ``2 (n - 1) + kernel_size`` for the n
of the level below, until ``memory_size`` are used up. The whole tree is linear, hence one impulse response of
``1 + (kernel_size - 1) (2^J - 1)`` taps (``uniform``: some more): it is run once on an impulse and not on every
sequence.

Source: Shi et al. 2023, "Sequence Modeling with Multiresolution Convolutional Memory" (arXiv 2305.01638), and
layers/multireslayer.py of thjashin/multires-conv (commit 828089f2).
"""

import math
from typing import Annotated, Any, TypedDict, Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.complex import as_complex
from seqconv_kernels._core.errors import argument_error, unknown_name
from seqconv_kernels._core.operator.composed import Composed
from seqconv_kernels._core.precision import accumulation_dtype

from ...options import Default, with_defaults
from ...parameters import wide_default_dtype
from ..base import Recurrence, WideFilter

TREES = ("fading", "uniform")


class MultiresFilterOptions(TypedDict, total=False):
    """Options of a :class:`MultiresFilter` that a mixer hands on.

    Attributes:
        kernel_size: lags of h0 and h1; at least 2.
        levels: levels J of the tree; ``None``: as many as make it reach ``l_max``.
        tree: ``"fading"`` or ``"uniform"``.
        memory_size: coefficients of the uniform tree, at least 2.
        wavelet: start from the Daubechies wavelet of this name, ``"db1"``, ``"db2"`` and so on, of ``kernel_size / 2``
            vanishing moments; ``None``: h0, h1 ~ U(±1) / √kernel_size.
        independent_skip: draw w_x from U(±1) instead of as the other weights, U(±1) / √(number of weights).
    """

    kernel_size: Annotated[int, Default(2)]
    levels: Annotated[int | None, Default(None)]
    tree: Annotated[str, Default("fading")]
    memory_size: Annotated[int | None, Default(None)]
    wavelet: Annotated[str | None, Default(None)]
    independent_skip: Annotated[bool, Default(False)]


class MultiresFilter(WideFilter):
    """Impulse responses of the tree, one per channel.

    Args:
        channels: number of impulse responses.
        l_max: lags that the tree reaches at least, where ``levels`` are not given.
        **options: see :class:`MultiresFilterOptions`.

    Raises:
        ValueError: an unknown tree or wavelet, sizes that are too small, a wavelet of another length than
            ``kernel_size``, ``memory_size`` without a uniform tree or the other way round.
    """

    def __init__(self, channels: int, *, l_max: int, **options: Unpack[MultiresFilterOptions]) -> None:
        o = with_defaults(MultiresFilterOptions, options, "MultiresFilter")
        _check(l_max, o)
        width, levels = o["kernel_size"], o["levels"]
        depth = math.ceil(math.log2((l_max - 1) / (width - 1) + 1)) if levels is None else levels
        counts = _coefficients(o["tree"], max(1, depth), width, o["memory_size"])
        super().__init__(channels, max_length=max(_reach(level, width, count) for level, count in counts))
        self.options, self.levels, self.counts = o, max(1, depth), counts
        dtype = wide_default_dtype()
        self.h0, self.h1 = (nn.Parameter(torch.empty(channels, width, dtype=dtype)) for _ in range(2))
        self.w = nn.Parameter(torch.empty(channels, 2 + sum(count for _, count in counts), dtype=dtype))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the filters of the tree, or take those of the wavelet, and draw the weights of the coefficients."""
        o, width = self.options, self.h0.shape[1]
        if o["wavelet"] is None:
            for h in (self.h0, self.h1):
                h.uniform_(-1, 1).mul_(width**-0.5)
        else:
            low = daubechies(int(o["wavelet"][2:])).to(self.h0)
            signs = torch.where(torch.arange(width, device=low.device) % 2 == 0, -1.0, 1.0)
            self.h0.copy_(low.flip(0).expand_as(self.h0))
            self.h1.copy_((signs * low).expand_as(self.h1))
        self.w.uniform_(-1, 1).mul_(self.w.shape[1] ** -0.5)
        if o["independent_skip"]:
            self.w[:, -1].uniform_(-1, 1)

    def _taps(self, length: int) -> Float[Tensor, "channels length"]:
        dtype = accumulation_dtype(self.w)
        h0, h1, w = (p.to(dtype) for p in (self.h0, self.h1, self.w))
        levels, counts = (list(numbers) for numbers in zip(*self.counts, strict=True))
        uniform = self.options["tree"] == "uniform"
        return _TREE(h0, h1, w, self.levels, levels, counts, uniform, length)  # type: ignore[no-any-return]

    def _recurrence(self) -> Recurrence | None:
        """There is none: the tree ends."""
        return None


def _tree(
    h0: Tensor, h1: Tensor, w: Tensor, depth: int, levels: list[int], counts: list[int], uniform: bool, length: int
) -> Tensor:
    """The tree run on an impulse; ``levels``, deepest first, and how many coefficients of each are used."""
    a = F.pad(torch.ones_like(w[:, :1]), (0, length - 1))
    b: list[Tensor] = []
    for level in range(depth):
        b.append(_dilated(a, h1, 2**level))
        a = _dilated(a, h0, 2**level)
    taps, used = w[:, :1] * a, 1
    for level, count in zip(levels, counts, strict=True):
        dilation = 2 ** (level if uniform else 0)
        taps = taps + _dilated(b[level - 1], w[:, used : used + count], dilation)
        used += count
    return torch.cat([taps[:, :1] + w[:, -1:], taps[:, 1:]], dim=1)


def _empty_taps(h0: Tensor, h1: Tensor, w: Tensor, *sizes: Any) -> Tensor:
    return w.new_empty(w.shape[0], sizes[-1])


_TREE = Composed("multires_tree", _tree, _empty_taps)


def daubechies(moments: int) -> Float[Tensor, " taps"]:
    """The scaling filter of 2 · ``moments`` taps, of minimal phase, with sum √2, in float64.

    Its transform is ``((1 + z)/2)^N Q(z)``, and ``|Q|²`` the polynomial ``sum_k C(N-1+k, k) y^k`` in
    ``y = (2 - z - 1/z)/4``: Q has those roots that lie inside the unit circle (Daubechies 1988).
    """
    taps = torch.ones(1, dtype=torch.complex128)
    if moments > 1:
        coefficients = [float(math.comb(moments - 1 + k, k)) for k in range(moments)]
        companion = torch.diag(torch.ones(moments - 2, dtype=torch.float64), -1)
        companion[:, -1] = -torch.tensor(coefficients[:-1], dtype=torch.float64) / coefficients[-1]
        middle = 1 - 2 * torch.linalg.eigvals(companion)
        root = torch.sqrt(middle * middle - 1)
        inside = torch.where((middle - root).abs() < 1, middle - root, middle + root)
        factors = [torch.stack([torch.ones_like(z), -z]) for z in inside]
        taps = _product([taps, *factors])
    half = torch.full((2,), 0.5, dtype=torch.complex128)
    real = _product([taps, *[half] * moments]).real
    return real * (math.sqrt(2) / real.sum())


def _product(factors: list[Tensor]) -> Tensor:
    """The coefficients of a product of polynomials."""
    total = factors[0]
    for factor in factors[1:]:
        padded = F.pad(torch.view_as_real(total).T, (1, 1)).T.contiguous()
        total = factor[0] * as_complex(padded[1:])
        total = total + factor[1] * as_complex(padded[:-1])
    return total


def _dilated(a: Tensor, h: Tensor, dilation: int) -> Tensor:
    """``sum_k h[k] a[t - dilation k]``."""
    length, y = a.shape[1], h[:, :1] * a
    for k in range(1, h.shape[1]):
        lag = dilation * k
        if lag >= length:
            break
        y = y + F.pad(h[:, k : k + 1] * a[:, : length - lag], (lag, 0))
    return y


def _coefficients(tree: str, levels: int, width: int, memory_size: int | None) -> list[tuple[int, int]]:
    """Levels, and how many coefficients of each are used, in the order of their weights: deepest first."""
    if tree == "fading":
        return [(level, 1) for level in range(levels, 0, -1)]
    counts, count, left = [], 1, (memory_size or 0) - 1
    for level in range(levels, 0, -1):
        if left == 0:
            break
        counts.append((level, min(count, left)))
        left -= counts[-1][1]
        count = 2 * (count - 1) + width
    return counts


def _reach(level: int, width: int, count: int) -> int:
    """Taps of the impulse response of all coefficients of a level."""
    span: int = 2**level
    return 1 + (width - 1) * (span - 1) + (count - 1) * span


def _check(l_max: int, o: MultiresFilterOptions) -> None:
    width, levels, memory, wavelet = o["kernel_size"], o["levels"], o["memory_size"], o["wavelet"]
    if l_max < 1 or width < 2 or (levels is not None and levels < 1):
        got = f"l_max={l_max}, kernel_size={width}, levels={levels}"
        wanted = "l_max and levels of at least 1, kernel_size of at least 2"
        raise argument_error("MultiresFilter", got, wanted, "correct the sizes")
    if o["tree"] not in TREES:
        raise unknown_name("MultiresFilter", "tree", o["tree"], TREES)
    if (memory is None) != (o["tree"] == "fading") or (memory is not None and memory < 2):
        got = f"tree={o['tree']!r}, memory_size={memory}"
        wanted = "memory_size of at least 2 for a uniform tree, none for a fading one"
        raise argument_error("MultiresFilter", got, wanted, "set or drop memory_size")
    if wavelet is not None and (not wavelet.startswith("db") or wavelet[2:] != str(width // 2) or width % 2):
        wanted = f"'db{width // 2}', whose filters have kernel_size={width} taps"
        raise argument_error("MultiresFilter", f"wavelet={wavelet!r}", wanted, "set kernel_size to twice its number")
