"""Padding masks and packed sequences: the two ways of putting sequences of different lengths into one tensor."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seqconv_kernels._core.errors import argument_error


def check_mask(operation: str, mask: Bool[Tensor, "batch length"], x: Tensor) -> None:
    """Raise for a mask that is not one contiguous run of True per row (a row without any token is allowed).

    Raises:
        ValueError: wrong dtype, wrong shape, or a hole between real tokens.
    """
    if mask.dtype != torch.bool:
        raise argument_error(
            operation, f"a mask of dtype {mask.dtype}", "torch.bool, True at real tokens", "use mask.bool()"
        )
    if mask.shape != x.shape[:2]:
        raise argument_error(
            operation,
            f"a mask of shape {tuple(mask.shape)}",
            f"(batch, length) = {tuple(x.shape[:2])}",
            "build the mask from the same batch",
        )
    if torch.compiler.is_compiling() or mask.device.type == "meta":
        return
    if has_holes(mask):
        raise argument_error(
            operation,
            "a mask with a hole between real tokens",
            "padding on the left or right only",
            "pack separate documents with cu_seqlens instead",
        )


def has_holes(mask: Bool[Tensor, "batch length"]) -> bool:
    """Whether a row has padding between real tokens."""
    runs = mask[:, 0] + (mask[:, 1:] & ~mask[:, :-1]).sum(1)
    return bool((runs > 1).any())


def ends_in_padding(mask: Bool[Tensor, "batch length"]) -> bool:
    """Whether a row with tokens ends in padding."""
    return bool((mask.any(1) & ~mask[:, -1]).any())


def padding_first(mask: Bool[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
    """The order of every row's positions in which all padding comes before the real tokens."""
    return mask.byte().argsort(dim=1, stable=True)


def check_left_padding(operation: str, mask: Bool[Tensor, "batch length"]) -> None:
    """Raise for padding on the right, after which a state would have to be that of an earlier token.

    Raises:
        ValueError: a row ends in padding although it holds tokens.
    """
    if torch.compiler.is_compiling() or mask.device.type == "meta":
        return
    if ends_in_padding(mask):
        raise argument_error(
            operation,
            "a mask with padding on the right",
            "padding on the left only: rows that end in a token",
            "pad prompts on the left (tokenizer.padding_side = 'left')",
        )


def unpack(
    x: Float[Tensor, "1 total d_model"], cu_seqlens: Int[Tensor, " bounds"]
) -> tuple[Float[Tensor, "segments length d_model"], Bool[Tensor, "segments length"]]:
    """Spread packed segments over the batch, padded with zeros on the right, and the mask that says where."""
    lengths = cu_seqlens.diff()
    mask = torch.arange(int(lengths.max()), device=x.device) < lengths.to(x.device)[:, None]
    padded = x.new_zeros(*mask.shape, x.shape[-1])
    padded[mask] = x[0]
    return padded, mask


def pack(
    x: Float[Tensor, "segments length d_model"], mask: Bool[Tensor, "segments length"]
) -> Float[Tensor, "1 total d_model"]:
    """Inverse of :func:`unpack`."""
    return x[mask][None]


def zero_padding(x: Float[Tensor, "batch length *rest"], mask: Bool[Tensor, "batch length"] | None) -> Tensor:
    """``x`` with zeros at padded positions (also where it was not finite)."""
    if mask is None:
        return x
    return x.masked_fill(~mask.reshape(*mask.shape, *[1] * (x.dim() - 2)), 0)
