"""delta_rule against transformers' chunked fallback (Qwen3-Next) and chunked matrix products here, float32."""

from functools import partial
from typing import Any

from torch import Tensor
from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule

import seqconv_kernels as K
from seqconv_kernels.delta_rule.shapes import SHAPES, example_inputs

from .contenders import Run, compare

NAMES = ("8 heads of 64, 4096 tokens", "qwen3-next-80b, 2048 tokens")


def measure(seconds: float) -> list[dict[str, object]]:
    """One row per shape and direction: milliseconds of each contender."""
    rows = []
    contenders: dict[str, Run] = {
        "seqconv": partial(K.delta_rule, implementation="cpu"),
        "transformers": _fallback,
        "chunked in PyTorch": partial(K.delta_rule, implementation="chunked"),
    }
    for name in NAMES:
        rows += compare("delta_rule", name, example_inputs(SHAPES[name]), contenders, seconds)
    return rows


def _fallback(log_decay: Tensor, **inputs: Any) -> Tensor:
    names = {"q": "query", "k": "key", "v": "value", "beta": "beta"}
    o: Tensor = torch_chunk_gated_delta_rule(g=log_decay, **{names[k]: v for k, v in inputs.items()})[0]
    return o
