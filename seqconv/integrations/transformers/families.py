"""The model families that were checked, and what is corrected in them."""

from dataclasses import dataclass

from seqconv_kernels._core.errors import argument_error

CHUNKS = "a prompt given in several chunks continues from the state of the last one"
PADDING = "with biased projections, left padding does not reach real tokens"
TIME_STEP = "adapters on dt_proj act"
CLAMP = "time steps are clamped in single steps too"
ROWS = "single steps of several rows do not mix them"
ANY_LENGTH = "in training mode sequences of any length"
PACKED = "packed documents are kept apart, on every device and for any number of rows"

_MAMBA = (CHUNKS, PADDING, TIME_STEP, PACKED)
_MAMBA2 = (PADDING, CLAMP, PACKED)
_DELTA = (PACKED,)
_CONV = (PADDING, PACKED)


@dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
        corrected: what differs from transformers, because it is wrong there.
        packing: whether packed documents are kept apart; the attention of glm5_next and qwen4_exp chooses tokens by
            an indexer, which does not know of documents.
        masks_documents: whether its attention layers keep documents apart that ``position_ids`` mark.
    """

    corrected: tuple[str, ...] = ()
    packing: bool = True
    masks_documents: bool = True


FAMILIES = {
    "bamba": Family(_MAMBA2),
    "bailing_hybrid": Family(_DELTA),
    "falcon_h1": Family(_MAMBA2),
    "falcon_mamba": Family(_MAMBA),
    "glm5_next": Family(packing=False),
    "granitemoehybrid": Family(_MAMBA2, masks_documents=False),
    "inkling": Family((PACKED,)),
    "inkling2": Family((PACKED,)),
    "jamba": Family(_MAMBA),
    "kimi_linear": Family(_DELTA),
    "lfm2": Family(_CONV),
    "lfm2_moe": Family(_CONV),
    "lfm3": Family(_CONV),
    "mamba": Family(_MAMBA),
    "mamba2": Family(_MAMBA2),
    "minimax": Family(_DELTA),
    "nemotron_h": Family(_MAMBA2),
    "olmo_hybrid": Family(_DELTA),
    "qwen3_5": Family(_DELTA),
    "qwen3_5_moe": Family(_DELTA),
    "qwen3_next": Family(_DELTA),
    "qwen4_exp": Family(packing=False),
    "recurrent_gemma": Family((CHUNKS, PACKED)),
    "rwkv": Family((ROWS, PACKED)),
    "xlstm": Family((ANY_LENGTH, PACKED)),
    "zamba": Family((CHUNKS, PADDING, PACKED)),
    "zamba2": Family(_MAMBA2),
    "zaya": Family(_CONV),
}
"""By the name of the modelling file."""


def family_of(file: str) -> str:
    """Name of the family of a modelling file: ``transformers.models.mamba.modeling_mamba`` is ``mamba``.

    Files from elsewhere (code that comes with a checkpoint) go by their whole name: they were not checked, whatever
    they call themselves.
    """
    own, name = file.startswith("transformers.models."), file.rsplit(".modeling_", 1)[-1]
    return name if own else file


def check_packing(family: str) -> Family:
    """The family; raise where packed documents were not checked.

    Raises:
        ValueError: always then, since mixing documents shows in no output.
    """
    known = FAMILIES.get(family)
    if known is None or not known.packing:
        served = ", ".join(sorted(name for name, f in FAMILIES.items() if f.packing))
        remedy = "pad the documents into rows of a batch instead"
        raise argument_error("accelerate", f"packed documents in a model of family {family!r}", served, remedy)
    return known
