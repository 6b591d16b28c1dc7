"""delta_rule against transformers' chunked fallback (Qwen3-Next), fla's and chunked matrix products here, float32."""

from functools import partial
from importlib.util import find_spec
from inspect import unwrap
from typing import Any

from torch import Tensor
from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule

import seqconv_kernels as K
from seqconv_kernels.delta_rule.cases import SHAPES, Shape, example_inputs

from .case import Case, Run

NAMES = ("8 heads of 64, 4096 tokens", "qwen3-next-80b, 2048 tokens")
SWEEP = (256, 512, 1024, 2048, 4096, 8192)


def case(name: str) -> Case:
    """One shape of the table."""
    return _case(SHAPES[name], name)


def sweep(length: int) -> Case:
    """The shape of the plots."""
    return _case(Shape(1, length, 8, 64, 64), f"8 heads of 64, {length} tokens")


def _case(shape: Shape, name: str) -> Case:
    contenders: dict[str, Run] = {
        "seqconv": partial(K.delta_rule, implementation="cpu"),
        "transformers": _fallback,
        "chunked in PyTorch": partial(K.delta_rule, implementation="chunked"),
    }
    if shape.v_heads in (None, shape.heads) and find_spec("fla"):
        contenders["fla, naive chunks"] = _fla
    work = 6.0 * shape.batch * shape.length * (shape.v_heads or shape.heads) * shape.d_k * shape.d_v
    return Case("delta_rule", name, shape.length, example_inputs(shape), contenders, operations=work)


def _fallback(log_decay: Tensor, **inputs: Any) -> Tensor:
    fallback = unwrap(torch_chunk_gated_delta_rule)  # not what transformers puts in its place where fla is installed
    names = {"q": "query", "k": "key", "v": "value", "beta": "beta"}
    o: Tensor = fallback(g=log_decay, **{names[k]: v for k, v in inputs.items()})[0]
    return o


def _fla(log_decay: Tensor, **inputs: Any) -> Tensor:
    from fla.ops.gated_delta_rule.naive import naive_chunk_gated_delta_rule

    o: Tensor = naive_chunk_gated_delta_rule(g=log_decay, **inputs)[0]
    return o
