"""selective_scan against transformers' fallback, on the shapes of Mamba-130M, float32, without the gate."""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers.models.mamba.modeling_mamba import mamba_selective_scan

import seqconv_kernels as K
from seqconv_kernels.selective_scan.shapes import SHAPES, example_inputs

from .measure import check_close, interleaved

LENGTHS = ("mamba-130m, 512 tokens", "mamba-130m, 2048 tokens", "mamba-130m, 8192 tokens")
LONGEST_QUADRATIC = 512  # the fallback's backward is quadratic in the length


def measure(seconds: float) -> list[dict[str, object]]:
    """One row per shape and direction: milliseconds of each contender."""
    rows = []
    for name in LENGTHS:
        inputs = example_inputs(SHAPES[name], gate=False)
        backward = SHAPES[name].length <= LONGEST_QUADRATIC
        for direction, wrap in (("forward", _forward), ("forward + backward", _both))[: 1 + backward]:
            runs = {contender: wrap(run, inputs) for contender, run in CONTENDERS.items()}
            results = {contender: run() for contender, run in runs.items()}
            for contender, result in results.items():
                check_close(f"selective_scan, {contender}", result, results["seqconv"])
            rows.append({"shape": name, "direction": direction, "ms": interleaved(runs, seconds=seconds)})
        if not backward:
            run = _both(CONTENDERS["seqconv"], inputs)
            ms = interleaved({"seqconv": run}, seconds=seconds)
            rows.append({"shape": name, "direction": "forward + backward", "ms": ms})
    return rows


def _ours(inputs: dict[str, Tensor | bool]) -> Tensor:
    return K.selective_scan(**inputs, implementation="cpu")  # type: ignore[arg-type, return-value]


def _fallback(arrange: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor | bool]], Tensor]:
    def run(inputs: dict[str, Tensor | bool]) -> Tensor:
        along = {k: arrange(inputs[k].mT) for k in ("u", "delta", "B", "C")}  # type: ignore[union-attr]
        weights = {k: inputs[k] for k in ("D", "delta_bias", "delta_softplus")}
        y = mamba_selective_scan(along["u"], along["delta"], inputs["A"], along["B"], along["C"], **weights)
        return y.mT

    return run


CONTENDERS: dict[str, Callable[[dict[str, Tensor | bool]], Tensor]] = {
    "seqconv": _ours,
    "transformers, channel-last": _fallback(lambda t: t),
    "transformers, channel-first": _fallback(Tensor.contiguous),
}


def _forward(run: Callable[..., Tensor], inputs: dict[str, Tensor | bool]) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.no_grad():
            return run(inputs)

    return call


def _both(run: Callable[..., Tensor], inputs: dict[str, Tensor | bool]) -> Callable[[], Tensor]:
    leaves = {k: v.clone().requires_grad_() for k, v in inputs.items() if isinstance(v, Tensor)}
    weight = torch.randn(inputs["u"].shape, generator=torch.Generator().manual_seed(0))  # type: ignore[union-attr]

    def call() -> Tensor:
        gradients = torch.autograd.grad(run(inputs | leaves), list(leaves.values()), weight)
        return torch.cat([g.flatten() / g.abs().max() for g in gradients])

    return call
