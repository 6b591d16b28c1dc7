"""S4: the impulse response of a diagonal plus low-rank state space (Gu et al., 2022, arXiv 2111.00396).

``A = diag(Lambda) - P P*``. Under the bilinear transform ``Ad = (I - dt A / 2)^-1 (I + dt A / 2)``,
``Bd = (I - dt A / 2)^-1 dt B``, the response ``C Ad^l Bd`` cut after L taps has at the L-th roots of unity
``omega_f = exp(-2 pi i f / L)`` the spectrum ``C~ (I - Ad omega_f)^-1 Bd`` with ``C~ = C (I - Ad^L)``, a few Cauchy
products and, for every rank of P, one Sherman-Morrison update. ``C~`` is the parameter where a length to tune for is
given, so that no power of Ad is needed in training; longer responses take ``C~ (I + Ad^L)``. Without a length C itself
is the parameter, and powers of the dense Ad make the response; so does the zero-order hold ``Ad = exp(dt A)``.
"""

from typing import Annotated, TypedDict, Unpack

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from seqconv_kernels import cauchy
from seqconv_kernels._core.checks import readable
from seqconv_kernels._core.errors import argument_error, unknown_name
from seqconv_kernels._core.operator.composed import Composed, leading
from seqconv_kernels._core.operator.sizes import known
from seqconv_kernels._core.portable import solve
from seqconv_kernels.ssm_kernel import half_angle_nodes

from ...options import Default, select_options, with_defaults
from ..base import Recurrence
from ..explicit.dense import DenseSSM, apply_power, binary_powers, dense_response
from .state_space import StateSpace, StateSpaceFilter, StateSpaceOptions

DISCRETISATIONS = ("bilinear", "zoh")


class _LowRankOptions(TypedDict, total=False):
    disc: Annotated[str, Default("bilinear")]
    l_max: Annotated[int | None, Default(None)]
    rank: Annotated[int, Default(1)]
    P_scale: Annotated[float, Default(1.0)]


class S4FilterOptions(_LowRankOptions, StateSpaceOptions, total=False):
    """Options of :class:`S4Filter`.

    Attributes:
        disc: ``"bilinear"`` or ``"zoh"``.
        l_max: length at rate 1 that the parameter C~ is tuned for (bilinear only); longer responses remain exact.
            ``None``: C itself is the parameter.
        rank: of the low-rank part, at least that of the measure (``legt`` needs 2).
        P_scale: factor of a random low-rank part.
        d_state ... B_clip: see :class:`~seqconv.filters.state_space.state_space.StateSpaceOptions`.
    """


class S4Filter(StateSpaceFilter):
    """Impulse response of a diagonal plus low-rank state space, with its recurrence.

    Args:
        features: independent inputs.
        heads: outputs per input, which share A, B, P and dt and have a C each.
        **options: see :class:`S4FilterOptions`.

    Attributes:
        l_kernel: the length that C~ belongs to, 0 where the parameter is C; saved with the parameters.

    Raises:
        ValueError: unknown discretisation, ``l_max`` with ``"zoh"``, a rank below the measure's, or as the base class.
    """

    l_kernel: Tensor

    def __init__(self, features: int, *, heads: int = 1, **options: Unpack[S4FilterOptions]) -> None:
        o = with_defaults(S4FilterOptions, options, "S4Filter")
        disc, l_max = o["disc"], o["l_max"]
        if disc not in DISCRETISATIONS:
            raise unknown_name("S4Filter", "disc", disc, DISCRETISATIONS)
        if l_max is not None and (l_max < 1 or disc == "zoh"):
            got = f"l_max={l_max} with disc={disc!r}"
            raise argument_error("S4Filter", got, "a positive length, for disc='bilinear'", "leave l_max out")
        shared = select_options(StateSpaceOptions, options)
        super().__init__(features, heads=heads, rank=o["rank"], P_scale=o["P_scale"], **shared)
        self.disc, self.l_max = disc, l_max
        self._tuned_length = l_max or 0
        self.register_buffer("l_kernel", torch.tensor(self._tuned_length))
        self.register_load_state_dict_post_hook(_read_length)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """As the base class; then C~ for the length to tune for."""
        super().reset_parameters()
        self._tuned_length = self.l_max or 0
        self.l_kernel.fill_(self._tuned_length)
        if self.l_max is not None and not self.C.is_meta:
            self.C.copy_(truncated_C(self, self.l_max))

    @property
    def tuned_length(self) -> int:
        """``l_kernel`` as a number, read from the buffer wherever that costs no synchronisation."""
        return int(self.l_kernel) if readable(self.l_kernel) else self._tuned_length

    def _taps(self, length: int) -> Float[Tensor, "channels length"]:
        if self.disc == "zoh" or self.tuned_length == 0:
            A, B = self.discretised()
            taps = dense_response(A, B, real_rows(self.state_space().C), length)
        else:
            taps = self._generated(length)
        return taps.reshape(self.channels, length)

    def _recurrence(self) -> Recurrence:
        """Dense real state spaces; the state is ``[Re x, Im x]`` of the pairs kept."""
        A, B = self.discretised()
        C = real_rows(self.state_space().C)
        if self.tuned_length:
            C = _untruncated(A, C, self._discrete_length())
        return DenseSSM(A.repeat(self.heads, 1, 1), B.repeat(self.heads, 1), C.flatten(0, 1))

    def discretised(
        self, rate: float | None = None
    ) -> tuple[Float[Tensor, "features d_state d_state"], Float[Tensor, "features d_state"]]:
        """``(Ad, Bd)`` acting on ``[Re x, Im x]``, at a sampling rate (this filter's own)."""
        space, P = self.state_space(rate), self._low_rank()
        A, B = real_matrix(space, P), real_columns(space.dt * space.B)
        n = A.shape[-1]
        if self.disc == "zoh":
            joint = torch.cat([torch.cat([A, B[..., None]], dim=-1), A.new_zeros(len(A), 1, n + 1)], dim=-2)
            exponential = torch.linalg.matrix_exp(joint)
            return exponential[:, :n, :n], exponential[:, :n, n]
        eye = torch.eye(n, dtype=A.dtype, device=A.device)
        both = solve(eye - A / 2, torch.cat([eye + A / 2, B[..., None]], dim=-1))
        return both[..., :n], both[..., n]

    def _discrete_length(self) -> int:
        """Taps that C~ belongs to at this filter's sampling rate."""
        return max(1, round(self.tuned_length / self.rate))

    def _low_rank(self) -> Complex[Tensor, "rank features pairs"]:
        return self._tile(self.weights("P"))

    def _generated(self, length: int) -> Float[Tensor, "heads features length"]:
        """Taps by the truncated generating function."""
        space, P, size = self.state_space(), self._low_rank(), self._discrete_length()
        if known(length <= size):
            return leading(generated_taps(space, P, size), length)  # type: ignore[no-any-return]
        A, _ = self.discretised()
        return _LONGER_TAPS(*space, P, A, size, length)  # type: ignore[no-any-return]


def generated_taps(
    space: StateSpace, P: Complex[Tensor, "rank features pairs"], length: int
) -> Float[Tensor, "heads features length"]:
    """All taps of a response of ``length``, whose C~ is the C of ``space``."""
    taps: Tensor = torch.fft.irfft(generating_function(space, P, length), n=length)
    return taps


def _longer_taps(dt: Tensor, A: Tensor, B: Tensor, C: Tensor, P: Tensor, Ad: Tensor, size: int, length: int) -> Tensor:
    """The first ``length`` taps of a response whose C~ belongs to ``size`` taps: doubled as often as needed."""
    rows = real_rows(C)
    while size < length:
        rows = rows + _rows_times_power(Ad, rows, size)
        size *= 2
    return generated_taps(StateSpace(dt, A, B, complex_rows(rows)), P, size)[..., :length]


_LONGER_TAPS = Composed(
    "s4_longer_taps",
    _longer_taps,
    lambda dt, A, B, C, P, Ad, size, length: Ad.new_empty(*C.shape[:2], length),
)


def generating_function(
    space: StateSpace, P: Complex[Tensor, "rank features pairs"], length: int
) -> Complex[Tensor, "heads features frequencies"]:
    """``C (I - Ad omega)^-1 Bd`` at the ``length``-th roots of unity, under the bilinear transform.

    The rows of the table of Cauchy products belong to B and the columns of P, its columns to C and the rows of P*;
    every rank takes the last of both away. In half angles, ``omega = exp(-2i t)``, it is
    ``exp(i t) C (2i sin t - dt A cos t)^-1 dt B``, finite at ``omega = -1`` where the bilinear transform itself is not.
    """
    left, right = torch.cat([space.B[None], P]) * space.dt, torch.cat([space.C, P.conj()])
    v = left[:, None] * right
    resolvent = cauchy(v.flatten(0, 1), space.dt * space.A, length).unflatten(0, v.shape[:2])
    sine, cosine = half_angle_nodes(length, v)
    for _ in P:
        column, row, pivot = resolvent[:-1, -1:], resolvent[-1:, :-1], 1 + cosine * resolvent[-1, -1]
        resolvent = resolvent[:-1, :-1] - column * (row * (cosine / pivot))
    turned: Tensor = resolvent[0] * torch.complex(cosine, sine)
    return turned


def truncated_C(filter: S4Filter, length: int) -> Float[Tensor, "heads features pairs 2"]:
    """``C~ = C (I - Ad^length)`` of a filter whose parameter is C, in the form of the parameter, at rate 1."""
    A, _ = filter.discretised(rate=1.0)
    rows = real_rows(filter.weights("C"))
    return torch.view_as_real(complex_rows(rows - _rows_times_power(A, rows, length)))


def real_matrix(space: StateSpace, P: Complex[Tensor, "rank features pairs"]) -> Float[Tensor, "features n n"]:
    """``dt (diag(A) - P P*)`` with all conjugates, acting on ``[Re x, Im x]``: ``x' = X x + Y conj(x)``."""
    scaled = space.dt * P
    X = torch.diag_embed(space.dt * space.A) - torch.einsum("rfm,rfn->fmn", scaled, P.conj())
    Y = -torch.einsum("rfm,rfn->fmn", scaled, P)
    upper = torch.cat([(X + Y).real, (Y - X).imag], dim=-1)
    return torch.cat([upper, torch.cat([(X + Y).imag, (X - Y).real], dim=-1)], dim=-2)


def real_columns(x: Complex[Tensor, "*batch pairs"]) -> Float[Tensor, "*batch n"]:
    """``[Re x, Im x]``."""
    return torch.cat([x.real, x.imag], dim=-1)


def real_rows(C: Complex[Tensor, "*batch pairs"]) -> Float[Tensor, "*batch n"]:
    """The row that maps ``[Re x, Im x]`` to ``2 Re(C x)``."""
    return torch.cat([2 * C.real, -2 * C.imag], dim=-1)


def complex_rows(rows: Float[Tensor, "*batch n"]) -> Complex[Tensor, "*batch pairs"]:
    """Inverse of :func:`real_rows`."""
    real, imaginary = rows.chunk(2, dim=-1)
    return torch.complex(real / 2, -imaginary / 2)


def _rows_times_power(A: Tensor, rows: Tensor, exponent: int) -> Tensor:
    """``rows A^exponent`` for rows (heads, features, n)."""
    columns = apply_power(binary_powers(A.mT, exponent), exponent, rows.permute(1, 2, 0))
    return columns.permute(2, 0, 1)


def _untruncated(A: Tensor, rows: Tensor, length: int) -> Tensor:
    """C from ``C~ = C (I - A^length)``, solved in float64: slow modes make it ill-conditioned."""
    wide = A.double()
    eye = torch.eye(A.shape[-1], dtype=wide.dtype, device=A.device)
    power = apply_power(binary_powers(wide, length), length, eye.expand_as(wide))
    solved: Tensor = torch.linalg.solve((eye - power).mT, rows.permute(1, 2, 0).double())
    return solved.permute(2, 0, 1).to(rows.dtype)


def _read_length(filter: S4Filter, _: object) -> None:
    """After loading: the number used in place of the buffer where reading it would synchronise."""
    if filter.l_kernel.device.type != "meta":
        filter._tuned_length = int(filter.l_kernel)
