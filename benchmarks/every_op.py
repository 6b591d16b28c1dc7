"""Every op at the size at which it is measured, for comparisons of seqconv with itself."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

import seqconv_kernels as K
from seqconv_kernels.causal_conv1d import shapes as causal_conv1d
from seqconv_kernels.delta_rule import shapes as delta_rule
from seqconv_kernels.fft_conv import shapes as fft_conv
from seqconv_kernels.gated_linear_attention import shapes as gated_linear_attention
from seqconv_kernels.linear_scan import shapes as linear_scan
from seqconv_kernels.selective_scan import shapes as selective_scan
from seqconv_kernels.ssd import shapes as ssd
from seqconv_kernels.ssm_kernel import shapes as ssm_kernel
from seqconv_kernels.tree_conv import shapes as tree_conv

Call = tuple[Callable[..., Any], Mapping[str, Any]]


def calls() -> dict[str, Call]:
    """The ops and their inputs, float32."""
    s4 = ssm_kernel.SHAPES["S4D, Path-X"]
    heads = "8 heads of 64, 4096 tokens"
    return {
        "selective_scan": (
            K.selective_scan,
            selective_scan.example_inputs(selective_scan.SHAPES["mamba-130m, 2048 tokens"], gate=False),
        ),
        "fft_conv": (K.fft_conv, fft_conv.example_inputs(fft_conv.SHAPES["4k, 256 channels"])),
        "causal_conv1d": (
            K.causal_conv1d,
            causal_conv1d.example_inputs(causal_conv1d.SHAPES["mamba-130m, 2048 tokens"]),
        ),
        "vandermonde": (K.vandermonde, ssm_kernel.vandermonde_inputs(s4)),
        "cauchy": (_parts_of_cauchy, ssm_kernel.cauchy_inputs(s4)),
        "linear_scan": (K.linear_scan, linear_scan.example_inputs(linear_scan.SHAPES["s5 on 16384 tokens"])),
        "ssd": (K.ssd, ssd.example_inputs(ssd.SHAPES[heads])),
        "gated_linear_attention": (
            K.gated_linear_attention,
            gated_linear_attention.example_inputs(gated_linear_attention.SHAPES[heads]),
        ),
        "delta_rule": (K.delta_rule, delta_rule.example_inputs(delta_rule.SHAPES[heads])),
        "tree_conv": (K.tree_conv, tree_conv.example_inputs(tree_conv.SHAPES["tree of reach 4096, 8192 tokens"])),
    }


def _parts_of_cauchy(**inputs: Any) -> Tensor:
    return torch.view_as_real(K.cauchy(**inputs))
