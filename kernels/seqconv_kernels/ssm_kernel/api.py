"""Structured matrix products for the impulse responses of state spaces (S4: Gu et al., 2022; S4D: Gu et al., 2022).

Vandermonde: ``k[j, c, l] = Re(sum_n residues[j, c, n] exp(log_poles[c, n] l))``, the impulse response of a
diagonal state space; ``j`` runs over heads that share their poles.

Cauchy: ``r[j, c, f] = sum_n v[j, c, n] / (2i sin(pi f / L) - cos(pi f / L) poles[c, n])`` plus the same with
``v`` and ``poles`` conjugated, f = 0 .. floor(L / 2): the resolvent of a diagonal matrix under the bilinear
transform at the L-th roots of unity. With ``omega = exp(-2 pi i f / L)`` and ``g = 2 (1 - omega) / (1 + omega)``
it is ``sum_n v_n / (g - poles_n)`` divided by ``cos(pi f / L)``, which stays finite where g does not (omega = -1).
"""

from jaxtyping import Complex, Float, Inexact
from torch import Tensor

from .._core.errors import argument_error
from .spec import CAUCHY, VANDERMONDE, CauchyInputs, VandermondeInputs


def vandermonde(
    residues: Inexact[Tensor, "heads channels d_state"],
    log_poles: Inexact[Tensor, "channels d_state"],
    length: int,
    *,
    implementation: str | None = None,
) -> Float[Tensor, "heads channels length"]:
    """Impulse responses of a diagonal state space; differentiable in both tensors.

    Args:
        residues: weights of the poles; a factor 2 for conjugate pairs is the caller's.
        log_poles: logarithms of the discrete poles, of the dtype of ``residues`` (both real or both complex).
        length: taps, at least 1.
        implementation: ``"triton"`` (GPUs), ``"cpu"`` (compiled; two levels of powers in cache), ``"chunked"`` (the
            same in matrix products, memory in the square root of the length), ``"reference"``, or ``None`` for the
            fastest that serves.

    Raises:
        ValueError: shapes, dtypes or devices that do not match; ``length < 1``.
    """
    return VANDERMONDE(VandermondeInputs(residues, log_poles, length), _check_vandermonde, implementation)


def cauchy(
    v: Complex[Tensor, "heads channels d_state"],
    poles: Complex[Tensor, "channels d_state"],
    length: int,
    *,
    implementation: str | None = None,
) -> Complex[Tensor, "heads channels frequencies"]:
    """Resolvent of conjugate pairs at the ``length``-th roots of unity; differentiable in both tensors.

    Args:
        v: numerators.
        poles: continuous poles times the time step, one of each conjugate pair, with negative real part.
        length: of the inverse real FFT to come, at least 1; there are ``length // 2 + 1`` frequencies.
        implementation: ``"triton"`` (GPUs), ``"cpu"`` (compiled; neither holds poles x frequencies), ``"chunked"``
            (matrix products over blocks of frequencies, computed again in backward), ``"reference"``, or ``None`` for
            the fastest that serves.

    Raises:
        ValueError: shapes, dtypes or devices that do not match; ``length < 1``.
    """
    return CAUCHY(CauchyInputs(v, poles, length), _check_cauchy, implementation)


def _check_vandermonde(operation: str, inputs: VandermondeInputs) -> None:
    _check(operation, "residues", inputs.residues, "log_poles", inputs.log_poles, inputs.length)


def _check_cauchy(operation: str, inputs: CauchyInputs) -> None:
    v = inputs.v
    if not v.is_complex():
        raise argument_error(operation, f"v of dtype {v.dtype}", "a complex dtype", "convert with torch.complex")
    _check(operation, "v", v, "poles", inputs.poles, inputs.length)


def _check(operation: str, weights_name: str, weights: Tensor, poles_name: str, poles: Tensor, length: int) -> None:
    if weights.dim() != 3 or tuple(poles.shape) != tuple(weights.shape[1:]):
        got = f"{weights_name} of shape {tuple(weights.shape)} and {poles_name} of shape {tuple(poles.shape)}"
        raise argument_error(
            operation, got, "(heads, channels, d_state) and (channels, d_state)", "add the missing axes"
        )
    if weights.dtype != poles.dtype or weights.device != poles.device:
        got = f"{weights_name} ({weights.dtype} on {weights.device}) and {poles_name} ({poles.dtype} on {poles.device})"
        raise argument_error(operation, got, "one dtype and one device", "convert one with .to()")
    if length < 1:
        raise argument_error(operation, f"length={length}", "at least 1", "ask for one tap or more")
