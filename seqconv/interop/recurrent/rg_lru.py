"""Reading the recurrent block of RecurrentGemma (``models/recurrent_gemma`` of transformers 5.23.0)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import unknown_name

from ...mixers.recurrent.rg_lru import RGLRUBlock
from ..importer import Weights, add_importer, options

ORIGINAL = "huggingface/transformers:RecurrentGemmaRecurrentBlock"
DEFAULTS = {
    "hidden_size": 2560, "lru_width": None, "num_attention_heads": 10, "conv1d_width": 4,
    "hidden_activation": "gelu_pytorch_tanh",
}  # fmt: skip
IGNORED = ("layer_idx", "resets", "prefill_length", "seed")
"""``resets`` says that a case has position ids that start again: what packed sequences are here."""
ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "silu": "silu", "relu": "relu"}


def build(**hyper: Any) -> RGLRUBlock:
    """The module for the values of the original's configuration."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    if o.hidden_activation not in ACTIVATIONS:
        raise unknown_name(f"from_original({ORIGINAL!r})", "hidden_activation", o.hidden_activation, ACTIVATIONS)
    width = o.hidden_size if o.lru_width is None else o.lru_width
    return RGLRUBlock(
        o.hidden_size,
        expand=width / o.hidden_size,
        num_heads=o.num_attention_heads,
        d_conv=o.conv1d_width,
        activation=ACTIVATIONS[o.hidden_activation],
    )


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """Names differ; tensors do not, but for an axis of one in the taps."""
    found: dict[str, Tensor] = {}
    for name, original in {"y_proj": "linear_y", "x_proj": "linear_x", "out_proj": "linear_out"}.items():
        found |= {f"{name}.{kind}": weights.take(f"{original}.{kind}") for kind in ("weight", "bias")}
    found |= {"conv1d.weight": weights.take("conv_1d.weight").squeeze(1), "conv1d.bias": weights.take("conv_1d.bias")}
    gates = [f"{gate}_gate_{kind}" for gate in ("input", "recurrent") for kind in ("weight", "bias")]
    return found | {f"rg_lru.{name}": weights.take(f"rg_lru.{name}") for name in [*gates, "recurrent_param"]}


add_importer(ORIGINAL, build=build, convert=convert)
