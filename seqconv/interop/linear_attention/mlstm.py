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
from ...mixers.linear_attention.xlstm.mlstm import MLSTM
from ...mixers.linear_attention.xlstm.xlstm_large import XLSTMLarge
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
        ValueError: an unknown layout of the weights.
    """
    o = options(BLOCK, hyper, BLOCK_DEFAULTS, BLOCK_IGNORED)
    if o.weight_mode not in ("single", "fused"):
        got = f"weight_mode={o.weight_mode!r}"
        raise argument_error(f"from_original({BLOCK!r})", got, "'single' or 'fused'", "correct the configuration")
    mixer = {
        "num_heads": o.num_heads, "expand_k": o.qk_dim_factor, "expand_v": o.v_dim_factor,
        "gate_soft_cap": o.gate_soft_cap, "norm_eps": o.norm_eps, "eps": o.eps, "bias": o.use_bias,
    }  # fmt: skip
    multiple = o.ffn_round_up_to_multiple_of
    hidden = int((o.hidden_size * o.ffn_proj_factor + multiple - 1) // multiple * multiple)
    norm = {"eps": o.norm_eps} | ({"bias": True} if o.use_bias else {})
    return mixer, {
        "norm": "rms", "norm_options": norm, "mlp": "swiglu", "mlp_hidden": hidden, "mlp_bias": o.use_bias
    }  # fmt: skip


def build_block(**hyper: Any) -> Block:
    """Norm, mLSTM, norm and SwiGLU for the original's configuration."""
    mixer, block = block_options(**hyper)
    width = options(BLOCK, hyper, BLOCK_DEFAULTS, BLOCK_IGNORED).hidden_size
    return Block(XLSTMLarge(width, **mixer), **block)


def convert_block(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The original's tensors, in one matrix per projection or with several in one."""
    o = options(BLOCK, hyper, BLOCK_DEFAULTS, BLOCK_IGNORED)
    layer, ffn = weights.part("mlstm_layer."), weights.part("ffn.")
    found: dict[str, Tensor] = {}
    for tensor in ("weight", "bias"):
        gates = _gates(layer, tensor, o.weight_mode)
        found |= {f"mixer.{gate}_proj.{tensor}": value for gate, value in zip("if", gates, strict=True)}
    for tensor in ("weight", "bias") if o.use_bias else ("weight",):
        projections = _projections(layer, tensor, o)
        found |= {f"mixer.{name}_proj.{tensor}": value for name, value in zip("qkvo", projections, strict=True)}
        if o.weight_mode == "fused":
            found[f"mlp.up.{tensor}"] = ffn.take(f"proj_up_gate_z.{tensor}")
        else:
            found[f"mlp.up.{tensor}"] = torch.cat(
                [ffn.take(f"{name}.{tensor}") for name in ("proj_up_gate", "proj_up")]
            )
        found[f"mlp.down.{tensor}"] = ffn.take(f"proj_down.{tensor}")
        found[f"mixer.norm.{tensor}"] = layer.take(f"multihead_norm.{tensor}")
        found[f"mixer.out_proj.{tensor}"] = layer.take(f"out_proj.{tensor}")
        found[f"mixer_norm.{tensor}"] = weights.take(f"norm_mlstm.{tensor}")
        found[f"mlp_norm.{tensor}"] = weights.take(f"norm_ffn.{tensor}")
    return found


def _gates(layer: Weights, tensor: str, weight_mode: str) -> tuple[Tensor, ...]:
    """Input and forget gates, from one matrix or from two."""
    if weight_mode == "fused":
        return layer.take(f"ifgate_preact.{tensor}").chunk(2)
    return tuple(layer.take(f"{gate}gate_preact.{tensor}") for gate in "if")


def _projections(layer: Weights, tensor: str, o: Any) -> tuple[Tensor, ...]:
    """Queries, keys, values and output gates, from one matrix or from four."""
    if o.weight_mode == "fused":
        keys, values = int(o.hidden_size * o.qk_dim_factor), int(o.hidden_size * o.v_dim_factor)
        q, k, v, gate = layer.take(f"qkv_opreact.{tensor}").split([keys, keys, values, values])
        return q, k, v, gate
    return tuple(layer.take(f"{name}.{tensor}") for name in ("q", "k", "v", "ogate_preact"))


add_importer(*LAYER_NAMES, build=build_layer, convert=convert_layer)
add_importer(BLOCK, build=build_block, convert=convert_block)
