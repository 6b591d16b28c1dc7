"""What readers of hybrids have in common: attention, Mamba-2, MLPs, experts and layers of their own kind each."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error, unknown_name

from ..configurations import Configuration, require
from ..importer import Weights
from ..language_models import MIXER_NORM, MLP_NORM, Read, language_model
from ..state_space.mamba import convert_mamba2, mamba2_options

MLPS = {"gelu_pytorch_tanh": "geglu_tanh", "gelu": "geglu", "silu": "swiglu", "swish": "swiglu", "relu": "reglu"}
"""The gated MLP of an activation."""
REMEDY = "load it with transformers' own AutoModelForCausalLM.from_pretrained and pass it to seqconv.accelerate"
ATTENTION, LINEAR = "full_attention", "linear_attention"
KINDS = {ATTENTION: ATTENTION, "attention": ATTENTION, LINEAR: LINEAR, "mamba": LINEAR}
"""Names of kinds of layers in newer and older configurations."""

HYBRID = frozenset({
    "attention_dropout", "output_router_logits", "router_aux_loss_coef", "router_jitter_noise", "z_loss_coefficient",
    "max_position_embeddings", "num_logits_to_keep", "pretraining_tp", "use_mamba_kernels", "use_mambapy",
    "use_associative_scan", "intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size",
    "shared_intermediate_size",
})  # fmt: skip
"""Names without effect in hybrids: training alone, speed, lengths, and widths known from the shapes of tensors."""
POSITIONS = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor", "factor",
                       "original_max_position_embeddings", "mrope_section", "mrope_interleaved"})  # fmt: skip
"""Names in ``rope_parameters``; the last three change nothing for text that is not rescaled by its length."""

Part = tuple[dict[str, Any], dict[str, Tensor]]
"""Options of a mixer, or options of the block for its MLP, and the tensors."""


@dataclass(frozen=True, kw_only=True)
class RotaryConfiguration(Configuration):
    """Positions of attention, nested as newer files have them or flat as older ones do."""

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = HYBRID

    rope_parameters: dict[str, Any] | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_theta: int | float | None = None
    partial_rotary_factor: float | None = None


def rotation(c: RotaryConfiguration, head_dim: int, *, theta: float = 10000.0, factor: float = 1.0) -> dict[str, Any]:
    """Options of the attention mixer for its positions; ``theta`` and ``factor`` are the original's defaults."""
    given: Mapping[str, Any] = {**(c.rope_scaling or {}), **(c.rope_parameters or {})}
    kind = given.get("rope_type", given.get("type", "default"))
    require("rope_type", kind, ("default", "linear"), REMEDY)
    for name in given:
        if name not in POSITIONS:
            raise unknown_name("load_checkpoint", "option of rope_parameters", name, POSITIONS)
    flat = {"rope_theta": c.rope_theta, "partial_rotary_factor": c.partial_rotary_factor}
    values = {"rope_theta": theta, "partial_rotary_factor": factor, **{k: v for k, v in flat.items() if v is not None}}
    values |= {name: given[name] for name in values if given.get(name) is not None}
    found = {"rotary_base": float(values["rope_theta"]), "rotary_dim": int(head_dim * values["partial_rotary_factor"])}
    return found | ({"rotary_scaling": float(given["factor"])} if kind == "linear" else {})


def expansion(inner: int, width: int) -> int | float:
    """Inner channels per channel, such that ``int(expansion * width)`` is ``inner``."""
    whole, rest = divmod(inner, width)
    return whole if rest == 0 else (inner + 0.5) / width


def attention(
    w: Weights, *, output: str = "o_proj", bias: bool = False, o_bias: bool | None = None
) -> dict[str, Tensor]:
    """Queries, keys and values in one projection."""
    found = {f"qkv_proj.{kind}": torch.cat([w.take(f"{n}_proj.{kind}") for n in "qkv"]) for kind in affine(bias)}
    return found | {f"o_proj.{kind}": w.take(f"{output}.{kind}") for kind in affine(bias if o_bias is None else o_bias)}


def mamba2(
    w: Weights,
    *,
    norm_eps: float,
    num_heads: int,
    head_dim: int,
    d_model: int,
    **hyper: Any,
) -> Part:
    """Mamba-2 with ``num_heads * head_dim`` inner channels; ``hyper`` as the original's arguments."""
    hyper |= {"d_model": d_model, "expand": expansion(num_heads * head_dim, d_model), "headdim": head_dim}
    options = mamba2_options(**hyper) | {"norm_eps": norm_eps}
    return {name: value for name, value in options.items() if name != "d_model"}, convert_mamba2(w, hyper)


def gated_mlp(
    w: Weights,
    *,
    act: str = "silu",
    bias: bool = False,
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
) -> Part:
    """``names``: gate, value and output projection."""
    require("hidden_act", act, tuple(MLPS), REMEDY)
    tensors = {f"up.{kind}": torch.cat([w.take(f"{n}.{kind}") for n in names[:2]]) for kind in affine(bias)}
    tensors |= {f"down.{kind}": w.take(f"{names[2]}.{kind}") for kind in affine(bias)}
    return {"mlp": MLPS[act], "mlp_hidden": tensors["down.weight"].shape[1], "mlp_bias": bias}, tensors


def experts(
    w: Weights,
    *,
    number: int,
    router: str,
    act: str = "silu",
    shared: Part | None = None,
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
    stacked: tuple[str, str] = ("experts.gate_up_proj", "experts.down_proj"),
    correction: str | None = None,
    **options: Any,
) -> Part:
    """Experts and the shared one; ``options`` those of the router.

    Each has tensors of its own, ``names``, or the tensors ``stacked`` hold those of all.
    """
    require("hidden_act", act, tuple(MLPS), REMEDY)
    tensors = {"router.proj.weight": w.take(router)}
    if correction is not None:
        tensors["router.correction"] = w.take(correction).float()
    if stacked[0] in w:
        ups, downs = (w.take(name).unbind() for name in stacked)
        each = [{"up.weight": up, "down.weight": down} for up, down in zip(ups, downs, strict=True)]
    else:
        each = [gated_mlp(w.part(f"experts.{i}."), act=act, names=names)[1] for i in range(number)]
    tensors |= {f"experts.{i}.{name}": t for i, one in enumerate(each) for name, t in one.items()}
    choice = {"expert": MLPS[act], "num_experts": number, "correction": correction is not None, **options}
    if shared is not None:
        choice["shared_hidden"] = shared[0]["mlp_hidden"]
        tensors |= {f"shared.{name}": t for name, t in shared[1].items()}
    hidden = each[0]["down.weight"].shape[1]
    return {"mlp": "moe", "mlp_hidden": hidden, "mlp_bias": False, "mlp_options": choice}, tensors


def affine(bias: bool) -> list[str]:
    """Tensors of a linear layer."""
    return ["weight", "bias"] if bias else ["weight"]


def layer_kinds(given: list[str] | None, default: Iterable[str], depth: int) -> list[str]:
    """What each layer is: attention or the other mixer."""
    kinds = list(default) if given is None else given
    for kind in kinds:
        require("layer_types", kind, tuple(KINDS), REMEDY)
    if len(kinds) != depth:
        got = f"{len(kinds)} layer_types for {depth} layers"
        raise argument_error("load_checkpoint", got, "one for each", "correct the configuration")
    return [KINDS[kind] for kind in kinds]


@dataclass
class Layers:
    """Layers of a pattern and their tensors, in the order of the stack.

    Attributes:
        norm: tensors of a norm.
    """

    specs: list[Any] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    norm: tuple[str, ...] = ("weight",)

    def add(self, norms: tuple[Weights, str, str], mixer: tuple[str, Part] | None, mlp: Part | None) -> None:
        """A layer; ``norms``: the tensors around it, and the names of its norms, of which a missing part has none."""
        part, *names = norms
        spec: dict[str, Any] = {"mixer": "none", "mlp": "none"}
        block = f"model.backbone.blocks.{len(self.specs)}"
        for given, name, original in zip((mixer, mlp), (MIXER_NORM, MLP_NORM), names, strict=True):
            if given is not None:
                self.tensors |= {f"{block}.{name}.{kind}": part.take(f"{original}.{kind}") for kind in self.norm}
        if mixer is not None:
            kind, (options, tensors) = mixer
            spec |= {"mixer": kind, "options": options}
            self.tensors |= {f"{block}.mixer.{name}": t for name, t in tensors.items()}
        if mlp is not None:
            spec |= mlp[0]
            self.tensors |= {f"{block}.mlp.{name}": t for name, t in mlp[1].items()}
        self.specs.append(spec)

    def model(
        self,
        c: Any,
        weights: Weights,
        *,
        final: str,
        embedding: str = "model.embed_tokens.weight",
        tied: bool | None = None,
        **shape: Any,
    ) -> Read:
        """Embeddings, the layers, the norm ``final``, the head; ``shape``: further options of the model."""
        tied = c.tie_word_embeddings if tied is None else tied
        for kind in self.norm:
            self.tensors[f"model.backbone.norm.{kind}"] = weights.take(f"{final}.{kind}")
        return language_model(c, weights, embedding, self.specs, self.tensors, shape, tied)
