"""Configurations of the models that only these tasks need, and their place among transformers' Auto classes.

Importing ``lra`` enters them, so that every run's checkpoints load through ``AutoModel…from_pretrained``. The models
themselves are imported at their first use.
"""

from collections.abc import Mapping
from typing import Any, no_type_check

from seqconv import SeqConvConfig
from seqconv.hf.deferred import deferred
from seqconv_kernels._core.errors import unknown_name

COMPARISONS = ("s4", "mega", "jax")
READOUTS = ("every", "last")


@no_type_check  # as SeqConvConfig
class PairConfig(SeqConvConfig):
    """Of :class:`lra.models.pairs.PairClassifier`.

    Args:
        comparison: how the features of both texts are compared: ``s4``, ``mega`` or ``jax``.

    Raises:
        ValueError: unknown comparison; otherwise as :class:`SeqConvConfig`.
    """

    model_type = "seqconv-pair"
    comparison: str = "s4"

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        _choose(self, "comparison", COMPARISONS)


@no_type_check  # as SeqConvConfig
class AutoEncoderConfig(SeqConvConfig):
    """Of :class:`lra.models.autoencoder.AutoEncoder`; ``max_position_embeddings`` bounds what it can rebuild."""

    model_type = "seqconv-autoencoder"


@no_type_check  # as SeqConvConfig
class SignalConfig(SeqConvConfig):
    """Of :class:`lra.models.regression.SignalRegressor`.

    Args:
        readout: ``every``, one number at every sample, or ``last``, ``num_labels`` numbers after the last.

    Raises:
        ValueError: unknown readout; otherwise as :class:`SeqConvConfig`.
    """

    model_type = "seqconv-signal"
    readout: str = "every"

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        _choose(self, "readout", READOUTS)


def _choose(config: SeqConvConfig, name: str, known: tuple[str, ...]) -> None:
    if getattr(config, name) not in known:
        raise unknown_name(type(config).__name__, name, str(getattr(config, name)), known)


AUTO: Mapping[str, tuple[type[SeqConvConfig], str, str]] = {
    "AutoModelForSequenceClassification": (PairConfig, "lra.models.pairs", "PairClassifier"),
    "AutoModelForTokenClassification": (AutoEncoderConfig, "lra.models.autoencoder", "AutoEncoder"),
    "AutoModelForTimeSeriesPrediction": (SignalConfig, "lra.models.regression", "SignalRegressor"),
}
"""Auto classes of transformers, and what they build for which configuration."""


def register_auto_classes() -> None:
    """Enter the configurations and models into transformers' Auto classes; again does nothing more."""
    import transformers

    for auto, (config, source, name) in AUTO.items():
        transformers.AutoConfig.register(config.model_type, config, exist_ok=True)
        getattr(transformers, auto).register(config, deferred(source, name, config, auto), exist_ok=True)
