"""Reading mLSTM layers: that of NX-AI/xlstm, and the block of xLSTM-7B in transformers.

Read in NX-AI/xlstm at 032a6fb (``xlstm/blocks/mlstm/layer.py``, ``cell.py``, ``xlstm/utils.py``), where the weights of
norms are stored less one, and in transformers 5.23.0 (``models/xlstm/modeling_xlstm.py``).
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...blocks import Block
from ...mixers.linear_attention.mlstm import MLSTM
from ...mixers.linear_attention.xlstm_large import XLSTMLarge
from ..importer import Weights, add_importer, options

LAYER = "NX-AI/xlstm:mLSTMLayer"
LAYER_NAMES = (
    LAYER,
    "NX-AI/xlstm:xlstm/blocks/mlstm/layer.py:mLSTMLayer",
    "NX-AI/xlstm:xlstm.blocks.mlstm.mLSTMLayer",
)
LAYER_DEFAULTS = {
    "embedding_dim": ..., "num_heads": 4, "conv1d_kernel_size": 4, "qkv_proj_blocksize": 4, "proj_factor": 2.0,
    "bias": False, "dropout": 0.0, "round_proj_up_dim_up": True, "round_proj_up_to_multiple_of": 64,
}  # fmt: skip
LAYER_IGNORED = ("context_length", "_num_blocks", "_inner_embedding_dim", "_proj_up_dim", "seed")
PARTS = ("q", "k", "v")

BLOCK = "huggingface/transformers:xLSTMBlock"
BLOCK_DEFAULTS = {
    "hidden_size": 4096, "num_heads": 8, "qk_dim_factor": 0.5, "v_dim_factor": 1.0, "use_bias": False,
    "weight_mode": "single", "ffn_proj_factor": 2.667, "ffn_round_up_to_multiple_of": 64, "norm_eps": 1e-6, "eps": 1e-6,
    "gate_soft_cap": 15.0,
}  # fmt: skip
BLOCK_IGNORED = (
    "chunk_size", "prefill_length", "seed", "chunkwise_kernel", "sequence_kernel", "step_kernel", "mode",
    "return_last_states", "autocast_kernel_dtype", "inference_state_dtype", "norm_reduction_force_float32",
    "max_inference_chunksize",
)  # fmt: skip
"""Speed, dtypes of intermediate results, and sizes of test inputs."""


def _inner(o: Any) -> int:
    """Inner channels: rounded to whole multiples, as the original's configuration does."""
    parts = o.proj_factor * o.embedding_dim / o.round_proj_up_to_multiple_of
    return int((math.ceil if o.round_proj_up_dim_up else math.floor)(parts) * o.round_proj_up_to_multiple_of)


def build_layer(**hyper: Any) -> MLSTM:
    """The module for the original's configuration."""
    o = options(LAYER, hyper, LAYER_DEFAULTS, LAYER_IGNORED)
    if o.bias:
        got, remedy = "bias=True", "its projections of queries, keys and values have no biases here"
        raise argument_error(f"from_original({LAYER!r})", got, "bias=False", remedy)
    # Half a channel more, so that rounding down gives exactly as many.
    inner = _inner(o)
    expand = inner // o.embedding_dim if inner % o.embedding_dim == 0 else (inner + 0.5) / o.embedding_dim
    sizes = {"num_heads": o.num_heads, "qkv_block": o.qkv_proj_blocksize, "d_conv": o.conv1d_kernel_size}
    return MLSTM(o.embedding_dim, expand=expand, dropout=o.dropout, **sizes)


def convert_layer(weights: Weights, _: Mapping[str, Any]) -> dict[str, Tensor]:
    """The original's tensors."""
    found = {f"{n}_proj.weight": weights.take(f"{n}_proj.weight") for n in PARTS}
    for gate in ("i", "f"):
        for tensor in ("weight", "bias"):
            found[f"{gate}_proj.{tensor}"] = weights.take(f"mlstm_cell.{gate}gate.{tensor}")
    return found | {
        "up_proj.weight": weights.take("proj_up.weight"),
        "down_proj.weight": weights.take("proj_down.weight"),
        "conv1d.weight": weights.take("conv1d.conv.weight").squeeze(1),
        "conv1d.bias": weights.take("conv1d.conv.bias"),
        "skip": weights.take("learnable_skip"),
        "norm.weight": 1 + weights.take("mlstm_cell.outnorm.weight"),
    }


def block_options(**hyper: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the mixer, and of the block around it, for the original's configuration.

    Raises:
        ValueError: biases, which the norms of the block do not have here; an unknown layout of the weights.
    """
    o = options(BLOCK, hyper, BLOCK_DEFAULTS, BLOCK_IGNORED)
    if o.use_bias or o.weight_mode not in ("single", "fused"):
        got = f"use_bias={o.use_bias}, weight_mode={o.weight_mode!r}"
        wanted = "use_bias=False, weight_mode 'single' or 'fused'"
        raise argument_error(f"from_original({BLOCK!r})", got, wanted, "this variant of the block was not checked")
    mixer = {
        "num_heads": o.num_heads, "expand_k": o.qk_dim_factor, "expand_v": o.v_dim_factor,
        "gate_soft_cap": o.gate_soft_cap, "norm_eps": o.norm_eps, "eps": o.eps,
    }  # fmt: skip
    multiple = o.ffn_round_up_to_multiple_of
    hidden = int((o.hidden_size * o.ffn_proj_factor + multiple - 1) // multiple * multiple)
    block = {"norm": "rms", "norm_options": {"eps": o.norm_eps}, "mlp": "swiglu", "mlp_hidden": hidden}
    return mixer, block | {"mlp_bias": False}


def build_block(**hyper: Any) -> Block:
    """Norm, mLSTM, norm and SwiGLU for the original's configuration."""
    mixer, block = block_options(**hyper)
    width = options(BLOCK, hyper, BLOCK_DEFAULTS, BLOCK_IGNORED).hidden_size
    return Block(XLSTMLarge(width, **mixer), **block)


def convert_block(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The original's tensors, in one matrix per projection or with several in one."""
    o = options(BLOCK, hyper, BLOCK_DEFAULTS, BLOCK_IGNORED)
    layer, ffn = weights.part("mlstm_layer."), weights.part("ffn.")
    if o.weight_mode == "fused":
        keys, values = int(o.hidden_size * o.qk_dim_factor), int(o.hidden_size * o.v_dim_factor)
        projections = layer.take("qkv_opreact.weight").split([keys, keys, values, values])
        gates = [layer.take(f"ifgate_preact.{tensor}").chunk(2) for tensor in ("weight", "bias")]
        up = ffn.take("proj_up_gate_z.weight")
    else:
        projections = tuple(layer.take(f"{name}.weight") for name in ("q", "k", "v", "ogate_preact"))
        gates = [tuple(layer.take(f"{g}gate_preact.{t}") for g in ("i", "f")) for t in ("weight", "bias")]
        up = torch.cat([ffn.take("proj_up_gate.weight"), ffn.take("proj_up.weight")])
    found = {f"mixer.{name}_proj.weight": tensor for name, tensor in zip("qkvo", projections, strict=True)}
    for tensor, pair in zip(("weight", "bias"), gates, strict=True):
        found |= {f"mixer.{gate}_proj.{tensor}": value for gate, value in zip("if", pair, strict=True)}
    return found | {
        "mixer.norm.weight": layer.take("multihead_norm.weight"),
        "mixer.out_proj.weight": layer.take("out_proj.weight"),
        "mixer_norm.weight": weights.take("norm_mlstm.weight"),
        "mlp_norm.weight": weights.take("norm_ffn.weight"),
        "mlp.up.weight": up,
        "mlp.down.weight": ffn.take("proj_down.weight"),
    }


add_importer(*LAYER_NAMES, build=build_layer, convert=convert_layer)
add_importer(BLOCK, build=build_block, convert=convert_block)
