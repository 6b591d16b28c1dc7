"""Writing a checkpoint of another project as one of seqconv: configuration, weights, tokenizer, generation, card."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from .checkpoint import kind_of, load_checkpoint
from .files import Source
from .hybrids.striped_hyena import CHARACTERS, END, PADDING

if TYPE_CHECKING:
    from ..hf import SeqConvForCausalLM

OPERATION = "convert"
TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
VERIFIED_TOKENS = (2, 48)
"""Rows and length of the tokens that both models are given."""
TOLERANCE = 1e-3
"""Largest difference of logits, over their largest magnitude, between two float32 computations of one model."""


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        folder: where.
        kind: the original's ``model_type``, or the name of a kind without one.
        parameters: how many there are.
        dtype: that of the weights, but for those that stay in float32.
        tokenizer: whether the original had one, which is in the folder then.
        difference: largest difference of logits from the original's over the largest logit; ``None``: not verified.
    """

    folder: Path
    kind: str
    parameters: int
    dtype: torch.dtype
    tokenizer: bool
    difference: float | None


def convert(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    verify: bool = False,
    tokenizer: bool = True,
    ignored_options: Sequence[str] = (),
    **hub: Any,
) -> Conversion:
    """Write a checkpoint that :func:`~seqconv.interop.load_checkpoint` reads as one of seqconv: all of it, or nothing.

    Args:
        source: a folder, a repository of the hub or a file of weights of another project.
        folder: a new or empty folder. It gets ``config.json``, safetensors, the generation configuration, the
            tokenizer and a model card.
        dtype: of the weights; as in the original by default. Parameters that stay in float32 do so.
        verify: compare the logits with those of the original in transformers, in float32, before anything is written.
        tokenizer: whether to write the original's tokenizer, if it has one.
        ignored_options: as in ``load_checkpoint``.
        **hub: where and how files are fetched, as in ``from_pretrained``: ``revision``, ``token``, ``cache_dir``,
            ``local_files_only`` …

    Raises:
        ValueError: as ``load_checkpoint``; a folder with files in it; a checkpoint that is seqconv's own; a tokenizer
            that cannot be loaded; an original that transformers cannot load, or whose logits differ, with ``verify``.
    """
    from ..hf.saving.atomic_save import written_whole

    place, target = Source(os.fspath(source), hub), Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise argument_error(OPERATION, f"{str(target)!r}, which exists", "a new or empty folder", "choose another")
    kind = _kind(place)
    ignored = {"ignored_options": ignored_options} if ignored_options else {}
    model = load_checkpoint(source, **ignored, **hub)
    words = _tokenizer(place) if tokenizer else None
    difference = _difference(model, place, kind) if verify else None
    if dtype is not None:
        model = model.to(dtype)
    model.config.training_data = (
        f"The weights are those of another project's checkpoint (`{kind}`), converted; its card says what they were "
        "trained on, and its licence holds."
    )
    with written_whole(target) as partial:
        model.save_pretrained(partial)
        if words is not None:
            words.save_pretrained(partial)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Conversion(target, kind, parameters, model.dtype, words is not None, difference)


def _kind(place: Source) -> str:
    """What the checkpoint is; errors of its files are those of loading it."""
    kind = kind_of(place.configuration() or {}) or "without model_type"
    if kind == "seqconv":
        got, wanted = f"{place.name!r}, a checkpoint of seqconv", "one of another project"
        raise argument_error(OPERATION, got, wanted, "load it with from_pretrained; save_pretrained writes it again")
    return kind


def _tokenizer(place: Source) -> Any:
    """The original's tokenizer; ``None`` if it has none."""
    from transformers import AutoTokenizer

    from ..hf.tokenizer import byte_tokenizer

    if (place.configuration() or {}).get("tokenizer_type") == CHARACTERS:
        return byte_tokenizer(end=END, padding=PADDING)
    if all(place.find(file) is None for file in TOKENIZER_FILES):
        return None
    try:
        return AutoTokenizer.from_pretrained(place.name, trust_remote_code=False, **place.hub)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        got = f"a tokenizer in {place.name!r} that cannot be loaded ({' '.join(str(error).split())})"
        remedy = "convert without the tokenizer (--no-tokenizer) and save it into the folder yourself"
        raise argument_error(OPERATION, got, "one that transformers has code for", remedy) from error


@torch.no_grad()
def _difference(model: "SeqConvForCausalLM", place: Source, kind: str) -> float:
    """The largest difference of logits over the largest logit, both models in float32."""
    original = _original(place, kind)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, int(model.config.vocab_size), VERIFIED_TOKENS, generator=generator)
    dtype, wanted = model.dtype, original(ids, use_cache=False).logits.float()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()} if dtype != torch.float32 else {}
    found: Tensor = model.float()(ids).logits
    if state:
        model.to(dtype).load_state_dict(state)
    difference = float((found - wanted).abs().max() / wanted.abs().max())
    if not difference <= TOLERANCE:
        got = f"logits that differ from the original's by {difference:.1e} of the largest one"
        remedy = "report the checkpoint, and use the original in transformers meanwhile"
        raise argument_error(OPERATION, got, f"at most {TOLERANCE:g}", remedy)
    return difference


def _original(place: Source, kind: str) -> Any:
    """The original's own model in float32."""
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(
            place.name, dtype=torch.float32, trust_remote_code=False, **place.hub
        ).eval()
    except (OSError, ValueError, KeyError) as error:
        got = f"verify for a checkpoint {kind!r}, which transformers cannot load ({' '.join(str(error).split())})"
        raise argument_error(OPERATION, got, "a kind that transformers has code for", "leave out verify") from error
