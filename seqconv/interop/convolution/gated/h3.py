"""HazyResearch/safari: the layers ``H3`` and ``H3Conv`` (src/models/sequence/h3.py, h3_conv.py at commit 02220c69).

Their state spaces are those of src/models/sequence/ssm/. The outputs of heads are laid out entry by entry and not head
by head, so the columns of the output projection are reordered. ``H3Conv`` makes ``d_model`` kernels whatever
``head_dim`` is, and fails in its forward where that is not 1. The kernels are cast to float32 there.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error, unknown_name

from ....mixers.convolution.gated.h3 import H3, H3Conv
from ...importer import Weights, add_importer, options
from ..longconv import KERNEL, filter_options

SSM = "HazyResearch/safari:H3"
CONV = "HazyResearch/safari:H3Conv"
MEASURES: Mapping[str, str] = {"diag-lin": "lin", "diag-inv": "inv", "diag-legs": "legs"}
COMMON: dict[str, Any] = {"d_model": ..., "l_max": None, "head_dim": 1}
SSM_DEFAULTS: Mapping[str, Any] = {
    **COMMON,
    "d_state": 64,
    "measure": "diag-lin",
    "dt_min": 0.001,
    "dt_max": 0.1,
    "deterministic": False,
    "n_ssm": None,
    "lr": None,
    "mode": "diag",
    "disc": "bilinear",
    "real_type": "exp",
}
IGNORED = ("use_fast_fftconv", "dropout", "layer_idx", "verbose", "device", "dtype")


def build(**hyper: Any) -> H3:
    """The mixer with the options of the original."""
    o = options(SSM, hyper, SSM_DEFAULTS, IGNORED)
    operation = f"from_original({SSM!r})"
    for name, known in (("measure", tuple(MEASURES)), ("mode", ("diag",)), ("real_type", ("exp",))):
        if getattr(o, name) not in known:
            raise unknown_name(operation, name, str(getattr(o, name)), known)
    if o.disc not in ("bilinear", "zoh"):
        raise unknown_name(operation, "disc", o.disc, ("bilinear", "zoh"))
    if o.l_max is not None:
        remedy = "drop l_max: sequences of up to l_max tokens give the same outputs without it"
        raise argument_error(operation, f"l_max={o.l_max}", "l_max=None, kernels as long as the sequence", remedy)
    return H3(
        o.d_model,
        head_dim=o.head_dim,
        d_state=o.d_state,
        disc=o.disc,
        init=MEASURES[o.measure],
        n_ssm=o.n_ssm,
        deterministic=o.deterministic,
        dt_min=o.dt_min,
        dt_max=o.dt_max,
        lr=o.lr,
    )


def build_conv(**hyper: Any) -> H3Conv:
    """The mixer with the options of the original."""
    o = options(CONV, hyper, COMMON | KERNEL, IGNORED)
    operation = f"from_original({CONV!r})"
    if o.head_dim != 1:
        wanted = "head_dim=1 (the original fails in its forward otherwise)"
        raise argument_error(operation, f"head_dim={o.head_dim}", wanted, "drop head_dim")
    if o.l_max is None or o.kernel_dropout:
        got = f"l_max={o.l_max}, kernel_dropout={o.kernel_dropout}"
        remedy = "pass l_max, and kernel_dropout=0, which is the same in evaluation"
        raise argument_error(operation, got, "a number of taps and no dropout of taps", remedy)
    return H3Conv(o.d_model, l_max=o.l_max, **filter_options(CONV, o))


def _projections(weights: Weights, heads: int) -> dict[str, Tensor]:
    names = [f"{name}_proj.{part}" for name in "qkv" for part in ("weight", "bias")]
    out = weights.take("output_linear.weight").unflatten(1, (-1, heads)).transpose(1, 2).flatten(1)
    return {
        **{name: weights.take(name) for name in names},
        "out_proj.weight": out,
        "out_proj.bias": weights.take("output_linear.bias"),
        "D": weights.take("D"),
    }


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the mixer from that of the original."""
    o = options(SSM, hyper, SSM_DEFAULTS, IGNORED)
    shift, diagonal = weights.part("ssm_k_kernel.kernel."), weights.part("kernel.kernel.")
    filter = {
        "inv_dt": diagonal.take("log_dt")[:, None],
        "A_real": diagonal.take("inv_A_real"),
        "A_imag": -diagonal.take("A_imag"),
        "B": diagonal.take("B"),
        "C": diagonal.take("C"),
    }
    return {
        **_projections(weights, o.d_model // o.head_dim),
        "D_k": weights.take("ssm_k_D"),
        "key_convolution.filter.B": shift.take("B"),
        "key_convolution.filter.C": shift.take("C")[0],
        **{f"convolution.filter.{name}": tensor for name, tensor in filter.items()},
    }


def convert_conv(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the mixer from that of the original."""
    o = options(CONV, hyper, COMMON | KERNEL, IGNORED)
    return {
        **_projections(weights, o.d_model),
        "D_k": weights.take("k_D"),
        "key_convolution.filter.kernel": weights.take("k_kernel.kernel")[0],
        "convolution.filter.kernel": weights.take("kernel.kernel")[0],
    }


add_importer(SSM, build=build, convert=convert)
add_importer(CONV, build=build_conv, convert=convert_conv)
