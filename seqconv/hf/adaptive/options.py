"""Options of adaptive embeddings and softmaxes, checked when a configuration is made."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, cast, no_type_check

from seqconv_kernels._core.errors import argument_error, unknown_name

from ..option_values import is_number, require

INITS = ("fairseq", "transformer_xl")


@no_type_check  # a run-time checker would raise before the checks below do
@dataclass(frozen=True)
class AdaptiveOptions:
    """Options of an adaptive embedding and softmax.

    Attributes:
        factor: by which the width shrinks from band to band.
        project: bands have a projection; without, ``factor`` is 1 and all vectors have the width of the model.
        head_projection: the head projects for the frequent band too, by a matrix of its own (Transformer-XL).
        tie_projections: the head's other projections are those of the embedding, where the vectors are tied.
        bias: of the logits.
        dropout: after the projections of the head.
        hidden_dropout: of the hidden states that enter the head.
        embedding_dropout: of the vectors before they are projected.
        init: ``fairseq``: vectors N(0, init_scale² / d_i), matrices uniform by Xavier; ``transformer_xl``, as in
            state-spaces/s4: the same vectors, projections N(0, init_scale² / d), clusters and the head's own
            projection zero.
        init_scale: see ``init``.
        bias_scale: biases start uniform in ± bias_scale / √d.

    Raises:
        ValueError: a value of another kind.
    """

    factor: float = 4.0
    project: bool = True
    head_projection: bool = False
    tie_projections: bool = True
    bias: bool = False
    dropout: float = 0.0
    hidden_dropout: float = 0.0
    embedding_dropout: float = 0.0
    init: str = "fairseq"
    init_scale: float = 1.0
    bias_scale: float = 0.0

    def __post_init__(self) -> None:
        def is_probability(value: object) -> bool:
            return is_number(value) and 0 <= cast(float, value) < 1

        wanted: Mapping[str, tuple[Callable[[Any], bool], str]] = {
            **{field.name: (lambda v: isinstance(v, bool), "True or False") for field in fields(self)},
            **dict.fromkeys(
                ("dropout", "hidden_dropout", "embedding_dropout"), (is_probability, "a probability in [0, 1)")
            ),
            "factor": (lambda v: is_number(v) and v >= 1, "a number of at least 1"),
            "init": (lambda v: v in INITS, " or ".join(INITS)),
            "init_scale": (lambda v: is_number(v) and v > 0, "a number above 0"),
            "bias_scale": (lambda v: is_number(v) and v >= 0, "a number of at least 0"),
        }
        for name, (holds, kind) in wanted.items():
            if not holds(getattr(self, name)):
                got = f"{name}={getattr(self, name)!r}"
                raise argument_error("adaptive_options", got, kind, f"correct {name}")
        if not self.project and (self.factor != 1 or self.head_projection):
            got = f"project=False, factor={self.factor}, head_projection={self.head_projection}"
            raise argument_error("adaptive_options", got, "factor=1 without projections", "take project=True")


def read_adaptive_options(given: Mapping[str, Any] | None) -> AdaptiveOptions:
    """Options by name.

    Raises:
        ValueError: an unknown name (the nearest are given), or a value of another kind.
    """
    known = [field.name for field in fields(AdaptiveOptions)]
    for name in given or {}:
        if name not in known:
            raise unknown_name("adaptive_options", "option", name, known)
    return AdaptiveOptions(**(given or {}))


def check_adaptive(vocab_size: int, d_model: int, cutoffs: object, options: AdaptiveOptions) -> None:
    """Raise for cutoffs that do not cut the vocabulary into bands.

    Raises:
        ValueError: not rising within the vocabulary, or so many bands that the last has no width.
    """
    given = list(cutoffs) if isinstance(cutoffs, Sequence) and not isinstance(cutoffs, str) else []
    whole = bool(given) and all(isinstance(c, int) and not isinstance(c, bool) for c in given)
    if not whole or any(a >= b for a, b in pairwise([0, *given, vocab_size])):
        got, wanted = f"adaptive_cutoffs={cutoffs!r}", f"rising numbers between 0 and vocab_size={vocab_size}"
        raise argument_error("adaptive softmax", got, wanted, "correct adaptive_cutoffs")
    if d_model // options.factor ** len(given) < 1:
        got = f"{len(given) + 1} bands with hidden_size={d_model} and factor={options.factor}"
        raise argument_error("adaptive softmax", got, "at least one channel in each", "cut less often, or less sharply")


def check_config(config: Any) -> None:
    """Raise for a configuration whose ``adaptive_cutoffs`` and ``adaptive_options`` no model can be built from.

    Raises:
        ValueError: as :func:`check_adaptive` and :class:`AdaptiveOptions`; options without cutoffs; together with
            another modality than text, or with logits that are scaled or bounded.
    """
    options = read_adaptive_options(config.adaptive_options)
    if config.adaptive_cutoffs is None:
        require("adaptive_options", config.adaptive_options, lambda v: not v, "none without adaptive_cutoffs")
        return
    check_adaptive(config.vocab_size, config.hidden_size, config.adaptive_cutoffs, options)
    if config.modality not in (None, "text") or config.logits_scale != 1.0 or config.logits_soft_cap is not None:
        got = f"adaptive_cutoffs with modality={config.modality!r}, logits_scale={config.logits_scale}"
        got += f", logits_soft_cap={config.logits_soft_cap}"
        raise argument_error("SeqConvConfig", got, "text, and logits as they are", "leave these options out")
