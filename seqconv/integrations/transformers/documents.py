"""Packed documents in the arguments of a transformers model: where they begin, and what attention layers need to know.

The recurrent layers take boundaries over the rows laid one after the other. Attention layers of transformers find these
from ``position_ids`` that start again, but only without a mask and without a cache: both are left out where
documents are packed, and padding becomes documents of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...hf.arguments.packed_arguments import packed_bounds

BOUNDS = ("cu_seqlens", "cu_seq_lens_q", "cu_seq_lens_k", "seq_idx")
CACHES = ("cache", "cache_params", "past_key_values", "state")


@dataclass(frozen=True)
class Documents:
    """Boundaries of documents.

    Attributes:
        bounds: first token of each document in the rows one after the other, and the end: int32.
        rows: of the batch.
        length: of a row.
    """

    bounds: Tensor
    rows: int
    length: int

    def pack(self, x: Tensor) -> Tensor:
        """(rows, length, ...) -> (1, rows * length, ...)."""
        return x.reshape(1, -1, *x.shape[2:])

    def unpack(self, y: Tensor) -> Tensor:
        """Inverse of :meth:`pack`."""
        return y.reshape(self.rows, -1, *y.shape[2:])

    def position_ids(self) -> Tensor:
        """(rows, length): each token's place in its document."""
        lengths = self.bounds.diff().long()
        starts = torch.repeat_interleave(self.bounds[:-1].long(), lengths)
        places = torch.arange(self.rows * self.length, device=self.bounds.device) - starts
        return places.view(self.rows, self.length)

    def attention_mask(self, dtype: torch.dtype) -> Tensor:
        """(rows, 1, length, length): zero where a token sees another of its document, else the least number."""
        place = self.position_ids()
        lag = torch.arange(self.length, device=place.device)
        lag = lag[:, None] - lag
        seen = (lag >= 0) & (lag <= place[:, :, None])
        return torch.zeros(seen.shape, dtype=dtype, device=place.device).masked_fill(~seen, torch.finfo(dtype).min)[
            :, None
        ]


@torch.compiler.disable  # type: ignore[untyped-decorator]  # where documents begin is data, not shape
def find_documents(given: Mapping[str, Any]) -> Documents | None:
    """Documents in the named arguments of a model's ``forward``; ``None`` where a row is one document.

    Raises:
        ValueError: boundaries that disagree or fit no inputs; boundaries together with a cache.
    """
    inputs = next((t for name in ("input_ids", "inputs_embeds") if (t := given.get(name)) is not None), None)
    if inputs is None:
        return None
    shape = (int(inputs.shape[0]), int(inputs.shape[1]))
    boundaries = {name: given[name] for name in BOUNDS if given.get(name) is not None}
    cached = any(given.get(name) is not None for name in CACHES) or given.get("use_cache") is True
    mask = given.get("attention_mask")
    if not boundaries:
        if cached and mask is not None and not _is_padding_mask(mask):
            return None  # generate made it, and its positions may be those of padding
        restarts = _restarts(given.get("position_ids"), mask if _is_padding_mask(mask) else None, shape)
        if restarts is None:
            return None
        boundaries = {"seq_idx": restarts}
    bounds = packed_bounds(
        "accelerate",
        shape,
        cu_seqlens=boundaries.pop("cu_seqlens", None),
        position_ids=None,
        mask=mask if _is_padding_mask(mask) else None,
        arguments=boundaries,
    )
    if bounds is None or len(bounds) == shape[0] + 1:
        return None
    if cached:
        remedy = "pass use_cache=False and no cache: packed documents are for training and scoring"
        raise argument_error("accelerate", "packed documents together with a cache", "one of them", remedy)
    return Documents(bounds.to(inputs.device), *shape)


def changed_arguments(
    documents: Documents, given: Mapping[str, Any], takes_positions: bool, mask_dtype: torch.dtype | None
) -> dict[str, Any]:
    """Arguments under which the attention layers keep the documents apart too.

    Args:
        documents: of the call.
        given: its arguments.
        takes_positions: whether the model has an argument ``position_ids``.
        mask_dtype: of a mask over queries and keys, where positions alone do not do; ``None`` for no mask.
    """
    mask = None if mask_dtype is None else documents.attention_mask(mask_dtype)
    changes: dict[str, Any] = {"use_cache": False, "attention_mask": mask}
    if takes_positions:
        changes["position_ids"] = _positions(documents, given.get("position_ids"))
    return changes


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _positions(documents: Documents, given: Tensor | None) -> Tensor:
    """Positions that start again where documents begin and nowhere else: those given, if they do.

    Of the positions of images (three rows, or four with those of the text first) only the text's are told apart.
    """
    own = documents.position_ids()
    if given is None:
        return own
    if given.dim() == 3:
        return torch.cat([own[None].to(given), given[-3:].expand(-1, *own.shape)])
    same = ((given.diff() != 1) == (own[:, 1:] == 0)).all()
    return given if bool(same) else own


def _is_padding_mask(mask: Any) -> TypeGuard[Tensor]:
    return isinstance(mask, Tensor) and mask.dim() == 2


def _restarts(position_ids: Any, mask: Tensor | None, shape: tuple[int, int]) -> Tensor | None:
    """Number of each token's document, by positions that do not go on by one; ``None`` without any."""
    if not isinstance(position_ids, Tensor) or shape[1] < 2 or position_ids.shape[-1] != shape[1]:
        return None
    if position_ids.dim() == 3 and position_ids.shape[0] == 4:
        position_ids = position_ids[0]  # text positions; the other three are those of images
    if position_ids.dim() != 2:
        return None
    starts = position_ids.expand(shape).diff() != 1
    if mask is not None:
        real = mask[:, -shape[1] :].bool()
        starts = starts & real[:, 1:] & real[:, :-1]  # after padding nothing starts again
    return F.pad(starts, (1, 0)).int().cumsum(1) if bool(starts.any()) else None
