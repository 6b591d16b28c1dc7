"""Complex numbers as pairs of real tensors: the operations of an exported graph, each by its equation.

A value of the graph that was complex is a :class:`Pair`; what takes or makes one is looked up in ``OPERATIONS``, which
holds the operations of PyTorch's core set that filters and scans of this library come to.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from seqconv_kernels._core.errors import argument_error

aten = torch.ops.aten
OPERATIONS: dict[Any, Callable[..., Any]] = {}
"""By the overload in the graph; each takes its arguments, complex ones as pairs."""


class Pair(NamedTuple):
    """Real and imaginary part, of one shape."""

    re: Any
    im: Any


class PairInterpreter(fx.Interpreter):
    """Runs an exported graph with a :class:`Pair` for every complex tensor."""

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One operation.

        Raises:
            ValueError: one on complex numbers that is not known.
        """
        given = [*args, *kwargs.values(), *(x for a in args if isinstance(a, list | tuple) for x in a)]
        if any(isinstance(x, Pair | complex) for x in given) or target in MAKES or kwargs.get("dtype") in REAL:
            if target not in OPERATIONS:
                got, wanted = f"{target} on complex numbers", "an operation with an equation for pairs of real numbers"
                raise argument_error("export_onnx", got, wanted, "report the model's configuration")
            return OPERATIONS[target](*args, **kwargs)
        return super().call_function(target, args, kwargs)

    def get_attr(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A parameter or a constant."""
        value = super().get_attr(target, args, kwargs)
        is_complex = isinstance(value, Tensor) and value.is_complex()
        return Pair(*torch.view_as_real(value.resolve_conj()).unbind(-1)) if is_complex else value


REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}
"""Dtype of the parts."""

MAKES = (aten.complex.default, aten.view_as_complex.default, aten._fft_r2c.default, aten._fft_c2c.default)
"""Operations that make complex numbers of real ones."""


def parts(x: Any) -> Pair:
    """A number or tensor of any kind as a pair."""
    if isinstance(x, Pair):
        return x
    return Pair(x.real, x.imag) if isinstance(x, complex) else Pair(x, 0.0)


def multiply(x: Any, y: Any) -> Pair:
    """``(a + ib)(c + id)``."""
    if isinstance(x, Pair | complex) and isinstance(y, Pair | complex):
        (a, b), (c, d) = parts(x), parts(y)
        return Pair(a * c - b * d, a * d + b * c)
    (a, b), c = (parts(x), y) if isinstance(x, Pair | complex) else (parts(y), x)
    return Pair(a * c, b * c)


def divide(x: Any, y: Any) -> Pair:
    """``x / y``."""
    if not isinstance(y, Pair | complex):
        a, b = parts(x)
        return Pair(a / y, b / y)
    c, d = parts(y)
    over = multiply(x, Pair(c, -d))
    square = c * c + d * d
    return Pair(over.re / square, over.im / square)


def add(x: Any, y: Any, alpha: Any = 1) -> Pair:
    """``x + alpha y``."""
    (a, b), (c, d) = parts(x), parts(y)
    return _broadcast(a + alpha * c, b + alpha * d)


def exponential(x: Pair) -> Pair:
    """``e^a (cos b + i sin b)``."""
    size = torch.exp(x.re)
    return Pair(size * torch.cos(x.im), size * torch.sin(x.im))


def exponential_minus_one(x: Pair) -> Pair:
    """``e^x - 1`` without cancellation: its real part is ``(e^a - 1) cos b - 2 sin²(b/2)``."""
    grown, half = torch.expm1(x.re), torch.sin(x.im / 2)
    return Pair(grown * torch.cos(x.im) - 2 * half * half, (grown + 1) * torch.sin(x.im))


def logarithm(x: Pair) -> Pair:
    """``ln |x| + i arg x``."""
    return Pair(0.5 * torch.log(x.re * x.re + x.im * x.im), torch.atan2(x.im, x.re))


def matrix_product(x: Any, y: Any) -> Pair:
    """Of batches of matrices, one or both complex."""
    if not isinstance(y, Pair):
        return Pair(torch.bmm(x.re, y), torch.bmm(x.im, y))
    if not isinstance(x, Pair):
        return Pair(torch.bmm(x, y.re), torch.bmm(x, y.im))
    (a, b), (c, d) = x, y
    return Pair(torch.bmm(a, c) - torch.bmm(b, d), torch.bmm(a, d) + torch.bmm(b, c))


def choose(condition: Tensor, x: Any, y: Any) -> Pair:
    """``x`` where the condition holds, else ``y``."""
    (a, b), (c, d) = parts(x), parts(y)
    like = next(t for t in (a, c) if isinstance(t, Tensor))
    return Pair(*(torch.where(condition, _tensor(u, like), _tensor(v, like)) for u, v in ((a, c), (b, d))))


def is_equal(x: Any, y: Any) -> Tensor:
    """Whether both parts are."""
    (a, b), (c, d) = parts(x), parts(y)
    same: Tensor = (a == c) & (b == d)
    return same


def constant(value: Any, dtype: torch.dtype, **options: Any) -> Pair:
    """A scalar tensor."""
    options.pop("pin_memory", None)
    return Pair(*(torch.tensor(part, dtype=REAL[dtype], device=options.get("device")) for part in parts(value)))


def filled(x: Any, value: Any, **_: Any) -> Pair:
    """A tensor of that shape with one value."""
    a = parts(x).re
    return Pair(*(torch.full_like(a, part) for part in parts(value)))


def convert(x: Any, *, dtype: torch.dtype | None = None, **_: Any) -> Pair:
    """To a complex dtype."""
    (a, b), real = parts(x), None if dtype is None else REAL[dtype]
    a = a if real is None else a.to(real)
    return Pair(a, _tensor(b, a).to(a.dtype))


def spectrum(transform: Callable[..., Tensor]) -> Callable[..., Pair]:
    """A Fourier transform with complex results, which an exporter keeps as parts on the last axis."""

    def run(x: Any, *args: Any) -> Pair:
        x = torch.complex(*x) if isinstance(x, Pair) else x
        return Pair(*torch.view_as_real(transform(x, *args)).unbind(-1))

    return run


def each(operation: Callable[..., Tensor]) -> Callable[..., Pair]:
    """An operation that does the same to both parts, or lists of them."""

    def run(x: Any, *args: Any, **options: Any) -> Pair:
        columns = zip(*map(parts, x), strict=True) if isinstance(x, list | tuple) and not isinstance(x, Pair) else x
        return Pair(*(operation(part, *args, **options) for part in columns))

    return run


def _listed(operation: Callable[..., Tensor]) -> Callable[..., Pair]:
    """As :func:`each`, of a list of tensors."""

    def run(tensors: Any, *args: Any) -> Pair:
        pairs = [convert(x) for x in tensors]
        return Pair(operation([p.re for p in pairs], *args), operation([p.im for p in pairs], *args))

    return run


def _tensor(x: Any, like: Tensor) -> Tensor:
    return x if isinstance(x, Tensor) else torch.full_like(like, x)


def _broadcast(a: Tensor, b: Any) -> Pair:
    b = b if isinstance(b, Tensor) else torch.full_like(a, b)
    return Pair(*torch.broadcast_tensors(a, b))


OPERATIONS |= {
    aten.complex.default: _broadcast,
    aten.view_as_complex.default: lambda x: Pair(*x.unbind(-1)),
    aten.view_as_real.default: lambda x: torch.stack(x, dim=-1),
    aten.add.Tensor: add,
    aten.add.Scalar: add,
    aten.sub.Tensor: lambda x, y, alpha=1: add(x, y, -alpha),
    aten.sub.Scalar: lambda x, y, alpha=1: add(x, y, -alpha),
    aten.mul.Tensor: multiply,
    aten.mul.Scalar: multiply,
    aten.div.Tensor: divide,
    aten.div.Scalar: divide,
    aten.reciprocal.default: lambda x: divide(1.0, x),
    aten._conj.default: lambda x: Pair(x.re, -x.im),
    aten._conj_physical.default: lambda x: Pair(x.re, -x.im),
    aten.abs.default: lambda x: torch.sqrt(x.re * x.re + x.im * x.im),
    aten.angle.default: lambda x: torch.atan2(x.im, x.re),
    aten.exp.default: exponential,
    aten.expm1.default: exponential_minus_one,
    aten.log.default: logarithm,
    aten.bmm.default: matrix_product,
    aten.where.self: choose,
    aten.eq.Scalar: is_equal,
    aten.eq.Tensor: is_equal,
    aten.scalar_tensor.default: constant,
    aten.full_like.default: filled,
    aten._to_copy.default: convert,
    aten._fft_r2c.default: spectrum(aten._fft_r2c.default),
    aten._fft_c2c.default: spectrum(aten._fft_c2c.default),
    aten._fft_c2r.default: lambda x, *args: aten._fft_c2r.default(torch.complex(*x), *args),
    aten._assert_tensor_metadata.default: lambda *_, **__: None,
    aten.cat.default: _listed(torch.cat),
    **{
        operation: each(operation)
        for operation in (
            *(aten.alias.default, aten.clone.default, aten.detach.default, aten.neg.default, aten.flip.default),
            *(aten.view.default, aten.permute.default, aten.expand.default, aten.select.int, aten.slice.Tensor),
            *(aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default, aten.sum.dim_IntList),
            *(aten.index.Tensor, aten.constant_pad_nd.default, aten.cumsum.default),
        )
    },
}
