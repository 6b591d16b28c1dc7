"""The configurations of other projects' language models: names, types and defaults, as their own classes have them.

The fields are the options that change what a trained model computes. ``WITHOUT_EFFECT`` names the others that were
read in the original: they act on initial values, losses, speed or the dtype of intermediate results, or the shapes of
tensors tell the same. ``FIXED`` names options of other versions, with the values that are supported. A name of none of
them raises (:mod:`~seqconv.interop.option_names`). :func:`read_configuration` fills in the defaults, since a file may
leave out what equals the default of the project that wrote it.
"""

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, Literal, TypeVar

from seqconv_kernels._core.errors import argument_error

from .option_names import check_names

ConfigurationT = TypeVar("ConfigurationT", bound="Configuration")


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """What the configurations of all language models have.

    Attributes:
        WITHOUT_EFFECT: further names of the original on which no result depends; those of the bases count too.
        FIXED: further names, and the values of each that are supported.
    """

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset()
    FIXED: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None


@dataclass(frozen=True, kw_only=True)
class MambaConfiguration(Configuration):
    """``MambaConfig`` of transformers 5.23.0, models/mamba/configuration_mamba.py.

    Without effect, by modeling_mamba.py: initial values of time steps, ``residual_in_fp32`` (dtype of the residual
    sum), ``use_mambapy``, ``use_associative_scan`` (speed). ``intermediate_size`` is no field there, but a file's value
    overrides ``expand * hidden_size``. Files made from those of mamba_ssm keep names of it, which nothing reads.
    """

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({
        "time_step_scale", "time_step_min", "time_step_max", "time_step_init_scheme", "time_step_floor",
        "rescale_prenorm_residual", "residual_in_fp32", "use_mambapy", "use_falcon_mambapy", "use_associative_scan",
        "d_model", "d_inner", "n_layer", "fused_add_norm", "pad_vocab_size_multiple",
    })  # fmt: skip
    FIXED: ClassVar[Mapping[str, tuple[Any, ...]]] = {"rms_norm": (True,), "ssm_cfg": ({}, None)}

    hidden_size: int = 768
    num_hidden_layers: int = 32
    state_size: int = 16
    expand: int | float = 2
    intermediate_size: int | None = None
    conv_kernel: int = 4
    time_step_rank: int | Literal["auto"] = "auto"
    use_bias: bool = False
    use_conv_bias: bool = True
    hidden_act: str = "silu"
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 0


@dataclass(frozen=True, kw_only=True)
class FalconMambaConfiguration(MambaConfiguration):
    """``FalconMambaConfig`` of transformers 5.23.0: as ``MambaConfig``, and the ε of the norms of δ, B and C."""

    mixer_rms_eps: float = 1e-6


@dataclass(frozen=True, kw_only=True)
class Mamba2Configuration(Configuration):
    """``Mamba2Config`` of transformers 5.23.0, models/mamba2/configuration_mamba2.py.

    Without effect, by modeling_mamba2.py: as in Mamba, and ``time_step_rank``. The gate comes before the norm, which is
    over the channels of each group; ``norm_before_gate`` of some files is read by nothing.
    """

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = MambaConfiguration.WITHOUT_EFFECT | frozenset({
        "time_step_rank", "norm_before_gate", "intermediate_size",
    })  # fmt: skip
    FIXED: ClassVar[Mapping[str, tuple[Any, ...]]] = MambaConfiguration.FIXED

    hidden_size: int = 4096
    num_hidden_layers: int = 64
    num_heads: int = 128
    head_dim: int = 64
    state_size: int = 128
    n_groups: int = 8
    expand: int | float = 2
    conv_kernel: int = 4
    chunk_size: int = 256
    time_step_limit: list[float] = field(default_factory=lambda: [0.0, float("inf")])
    use_bias: bool = False
    use_conv_bias: bool = True
    hidden_act: str = "silu"
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = False
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2


FLA = frozenset({"attn_mode", "fuse_cross_entropy", "fuse_linear_cross_entropy", "use_l2warp",
                 "max_position_embeddings", "hidden_ratio", "intermediate_size"})  # fmt: skip
"""Names without effect in models of fla: speed, the loss, attention layers, widths known from the MLP's shapes."""


@dataclass(frozen=True, kw_only=True)
class GLAConfiguration(Configuration):
    """``GLAConfig`` of fla-org/flash-linear-attention, fla/models/gla/configuration_gla.py at commit bc3b101.

    Without effect, by modeling_gla.py and layers/gla.py: what :data:`FLA` has, and ``use_gk`` and ``use_gv``, which
    nothing reads. ``fuse_norm`` changes names of tensors alone; ``share_conv_kernel`` of older files is told by the
    tensors of the convolutions.
    """

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = FLA | frozenset({
        "fuse_swiglu", "use_gk", "use_gv", "share_conv_kernel",
    })  # fmt: skip

    hidden_size: int = 2048
    num_hidden_layers: int = 24
    expand_k: int | float = 0.5
    expand_v: int | float = 1.0
    num_heads: int = 4
    num_kv_heads: int | None = None
    feature_map: str | None = None
    use_short_conv: bool = False
    conv_size: int = 4
    use_output_gate: bool = True
    clamp_min: int | float | None = None
    hidden_act: str = "swish"
    elementwise_affine: bool | None = True
    norm_eps: float = 1e-6
    fuse_norm: bool = True
    attn: dict[str, Any] | None = None
    attnres_block_size: int | None = None
    tie_word_embeddings: bool = False
    pad_token_id: int | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2


@dataclass(frozen=True, kw_only=True)
class XLSTMConfiguration(Configuration):
    """``xLSTMConfig`` of transformers 5.23.0, models/xlstm/configuration_xlstm.py.

    Without effect, by modeling_xlstm.py: kernels, chunks and modes (speed), dtypes of intermediate results, and
    ``add_out_norm``, which nothing reads. ``embedding_dim`` and ``num_blocks`` are other names of ``hidden_size`` and
    ``num_hidden_layers``.
    """

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({
        "chunk_size", "chunkwise_kernel", "sequence_kernel", "step_kernel", "mode", "max_inference_chunksize",
        "return_last_states", "norm_reduction_force_float32", "autocast_kernel_dtype", "inference_state_dtype",
        "add_out_norm",
    })  # fmt: skip

    hidden_size: int | None = 4096
    embedding_dim: int | None = None
    num_hidden_layers: int | None = 32
    num_blocks: int | None = None
    num_heads: int = 8
    head_dim: int | None = None
    use_bias: bool = False
    norm_eps: float = 1e-6
    qk_dim_factor: int | float = 0.5
    v_dim_factor: int | float = 1.0
    eps: float = 1e-6
    ffn_proj_factor: int | float = 2.667
    ffn_round_up_to_multiple_of: int = 64
    gate_soft_cap: int | float = 15.0
    output_logit_soft_cap: int | float = 30.0
    weight_mode: str = "single"
    tie_word_embeddings: bool = False
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2


@dataclass(frozen=True, kw_only=True)
class MambaSsmConfiguration(Configuration):
    """``MambaConfig`` of state-spaces/mamba, mamba_ssm/models/config_mamba.py at commit e9594ce.

    ``residual_in_fp32`` and ``fused_add_norm`` change dtypes and speed (modules/block.py there). ``vocab_size`` is
    rounded up to ``pad_vocab_size_multiple``; the embeddings say what it was.
    """

    d_model: int = 2560
    d_intermediate: int = 0
    n_layer: int = 64
    vocab_size: int = 50277
    ssm_cfg: dict[str, Any] = field(default_factory=dict)
    attn_layer_idx: list[int] = field(default_factory=list)
    attn_cfg: dict[str, Any] = field(default_factory=dict)
    rms_norm: bool = True
    residual_in_fp32: bool = True
    fused_add_norm: bool = True
    pad_vocab_size_multiple: int = 8
    tie_embeddings: bool = True


NOT_NEGATIVE = frozenset({"d_intermediate", "num_experts", "num_local_experts", "num_dense_layers",
                          "expert_layer_offset", "attn_layer_offset", "num_nextn_predict_layers"})  # fmt: skip
"""Numbers that may be 0; all others are at least 1."""


def read_configuration(kind: type[ConfigurationT], config: Mapping[str, Any]) -> ConfigurationT:
    """The options of a configuration file that count, with the defaults of the project that wrote it.

    Raises:
        ValueError: a name that nothing is known of, a missing one without a default, a value of another type than the
            option's, or a size below 1.
    """
    hints, names = typing.get_type_hints(kind), {f.name for f in fields(kind)}
    harmless, fixed = set[str](), dict[str, tuple[Any, ...]]()
    for base in kind.__mro__:
        harmless |= vars(base).get("WITHOUT_EFFECT", frozenset())
        fixed = {**vars(base).get("FIXED", {}), **fixed}
    check_names(config, names | harmless, fixed)
    needed = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    if missing := sorted(needed - config.keys()):
        got, wanted = f"a configuration without {', '.join(missing)}", "all options that have no default"
        raise argument_error("load_checkpoint", got, wanted, "complete the configuration")
    known = {name: config[name] for name in names if name in config}
    for name, value in known.items():
        if not _is_of(value, hints[name]):
            raise _wrong(name, value, str(getattr(hints[name], "__name__", hints[name])))
        least = 0 if name in NOT_NEGATIVE else 1
        if type(value) is int and not name.endswith("_id") and value < least:
            raise _wrong(name, value, f"at least {least}")
    return kind(**known)


def require(name: str, value: Any, wanted: Any, remedy: str) -> None:
    """Raise unless an option has one of the values that can be imported.

    Raises:
        ValueError: it has not.
    """
    if value not in wanted:
        raise argument_error("load_checkpoint", f"{name}={value!r}", " or ".join(map(repr, wanted)), remedy)


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON is of an annotated type: unions, lists and mappings of simple types."""
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_is_of(value, part) for part in typing.get_args(hint))
    if origin is Literal:
        return value in typing.get_args(hint)
    if origin is list:
        return isinstance(value, list | tuple) and all(_is_of(item, typing.get_args(hint)[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _wrong(name: str, value: Any, wanted: str) -> ValueError:
    return argument_error("load_checkpoint", f"{name}={value!r} in config.json", wanted, "correct the configuration")
