"""SaShiMi (Goel et al. 2022, arXiv 2202.09729) for waveforms of 16,000 samples a second, as tokens of 8 bits.

``sashimi_config("sashimi_sc09")`` is a configuration of a language model, ``to_transformers("sashimi_sc09")`` the model
with fresh weights. Sizes and options: ``configs/experiment/audio/sashimi-*.yaml``, ``configs/dataset/*.yaml`` and
``configs/model/{sashimi,unet,layer/s4}.yaml`` of state-spaces/s4 at e757cef. Losses and numbers of parameters:
``models/sashimi/README.md`` there; of the music models it has none. The model with skip connections has the 6.8 million
parameters of the README. For the other one it says 4.1, of the first version; these configurations give 4.76 in the
code of that commit, as here. The original's head has a bias, 256 numbers more.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

from seqconv_kernels._core.errors import unknown_name

if TYPE_CHECKING:
    from ..hf.configuration import SeqConvConfig

SAMPLES_PER_SECOND = 16_000
SIZES: Mapping[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 8, "mixer": "s4", "mlp": "gelu", "mlp_ratio": 2.0, "pool_sizes": [4, 4],
    "pool_expand": 2, "vocab_size": 256, "tie_word_embeddings": False,
}  # fmt: skip


@dataclass(frozen=True)
class PublishedSashimi:
    """A published model of waveforms.

    Attributes:
        data: what it was trained on.
        length: samples of a training sequence.
        quantization: ``"mu-law"`` (:mod:`seqconv.audio.mu_law`) or ``"linear"``.
        options: of the configuration, beyond :data:`SIZES`.
        millions: parameters, in millions.
        loss: published negative log-likelihood of a sample, in bits; ``None`` where the source has none.
        source: of the options.
    """

    data: str
    length: int
    quantization: str
    options: Mapping[str, Any]
    millions: float
    source: str
    loss: float | None = None
    sampling_rate: int = field(default=SAMPLES_PER_SECOND)


def _source(experiment: str) -> str:
    return f"https://github.com/state-spaces/s4/blob/e757cef/configs/experiment/audio/{experiment}.yaml"


_S4: Mapping[str, Any] = {"dt_transform": "softplus"}
_ONE_SSM: Mapping[str, Any] = {"mixer_options": {**_S4, "n_ssm": 1}}
SASHIMI: Mapping[str, PublishedSashimi] = {
    "sashimi_beethoven": PublishedSashimi(
        "Beethoven's piano sonatas", 128_000, "linear", _ONE_SSM, 4.76, _source("sashimi-beethoven")
    ),
    "sashimi_sc09": PublishedSashimi(
        "spoken digits (SC09)", 16_000, "mu-law", _ONE_SSM, 4.76, _source("sashimi-sc09"), 1.891
    ),
    "sashimi_sc09_unet": PublishedSashimi(
        "spoken digits (SC09)",
        16_000,
        "mu-law",
        {"mixer_options": dict(_S4), "pool_unet": True},
        6.84,
        _source("sashimi-sc09-unet"),
        1.873,
    ),
    "sashimi_youtubemix": PublishedSashimi(
        "piano music (YouTubeMix)", 131_072, "mu-law", _ONE_SSM, 4.76, _source("sashimi-youtubemix")
    ),
}


def list_sashimi(pattern: str = "*") -> list[str]:
    """Names of the published models of waveforms that match a shell pattern, sorted."""
    return sorted(name for name in SASHIMI if fnmatch(name, pattern))


def sashimi_config(name: str, **options: Any) -> "SeqConvConfig":
    """The configuration of a published model of waveforms.

    Args:
        name: one of :func:`list_sashimi`.
        **options: of the configuration, in the place of the published ones.

    Raises:
        ValueError: an unknown name; the nearest are named.
    """
    from ..hf.configuration import SeqConvConfig

    if name not in SASHIMI:
        raise unknown_name("sashimi_config", "model", name, SASHIMI)
    return SeqConvConfig(**{**SIZES, **SASHIMI[name].options, **options})
