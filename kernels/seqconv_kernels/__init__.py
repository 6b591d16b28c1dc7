"""Fused sequence operations: one call, several implementations, a readable reference for each.

Importing this package compiles nothing, probes no device and imports no optional package.
"""

from .causal_conv1d import causal_conv1d, causal_conv1d_step
from .cross_selective_scan import cross_selective_scan
from .delta_rule import delta_rule, delta_rule_step
from .diagonal_step import diagonal_step
from .dilated_conv import dilated_conv, dilated_conv_step, unroll_rings
from .direct_conv import direct_conv_step
from .dplr_delta_rule import dplr_delta_rule, dplr_delta_rule_step
from .fft_conv import fft_conv
from .fft_conv2d import fft_conv2d
from .gated_linear_attention import gated_linear_attention, gated_linear_attention_step
from .linear_scan import linear_scan, linear_scan_step
from .rnn import rnn, rnn_step
from .selective_scan import selective_scan, selective_scan_step
from .skinny_linear import skinny_linear
from .ssd import ssd, ssd_step
from .ssm_kernel import cauchy, vandermonde

__all__ = [
    "cauchy",
    "causal_conv1d",
    "causal_conv1d_step",
    "cross_selective_scan",
    "delta_rule",
    "delta_rule_step",
    "diagonal_step",
    "dilated_conv",
    "dilated_conv_step",
    "direct_conv_step",
    "dplr_delta_rule",
    "dplr_delta_rule_step",
    "fft_conv",
    "fft_conv2d",
    "gated_linear_attention",
    "gated_linear_attention_step",
    "linear_scan",
    "linear_scan_step",
    "rnn",
    "rnn_step",
    "selective_scan",
    "selective_scan_step",
    "skinny_linear",
    "ssd",
    "ssd_step",
    "unroll_rings",
    "vandermonde",
]
