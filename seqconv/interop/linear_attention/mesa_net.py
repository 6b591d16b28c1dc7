"""Reading the MesaNet layer of fla-org/flash-linear-attention at bc3b101d, fla/layers/mesa_net.py.

Its systems are solved by conjugate gradients there and exactly here: the numbers of steps are read and change nothing.
Its exact form (``fla/ops/mesa_net/naive.py``) stores the matrices of all tokens in float32, whatever the dtype.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...mixers.linear_attention.mesa_net import MesaNet
from ..importer import Weights, add_importer, options

ORIGINAL = "fla-org/flash-linear-attention:MesaNet"
DEFAULTS: dict[str, Any] = {
    "hidden_size": 2048, "num_heads": 16, "head_dim": 128, "use_output_gate": False, "conv_size": 4,
    "conv_bias": False, "norm_eps": 1e-5, "lambda_lower_bound": 0.25,
}  # fmt: skip
IGNORED = ("mode", "layer_idx", "seed", "use_short_conv", "max_cg_step_training", "max_cg_step_decoding")


def _build(**hyper: Any) -> MesaNet:
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    return MesaNet(
        o.hidden_size,
        num_heads=o.num_heads,
        head_dim=o.head_dim,
        use_output_gate=o.use_output_gate,
        d_conv=o.conv_size,
        conv_bias=o.conv_bias,
        norm_eps=float(o.norm_eps),
        lambda_lower_bound=float(o.lambda_lower_bound),
        float32_matrices=True,
    )


def _convert(w: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """Names are kept; the two short convolutions become one."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    same = [f"{n}_proj.weight" for n in "qkvabo"] + ["a_proj.bias", "b_proj.bias", "lambda_params", "o_norm.weight"]
    found = {name: w.take(name) for name in same + ["g_proj.weight"] * o.use_output_gate}
    found["conv1d.weight"] = torch.cat([w.take(f"{n}_conv1d.weight").squeeze(1) for n in "qk"])
    if o.conv_bias:
        found["conv1d.bias"] = torch.cat([w.take(f"{n}_conv1d.bias") for n in "qk"])
    return found


add_importer(ORIGINAL, build=_build, convert=_convert)
