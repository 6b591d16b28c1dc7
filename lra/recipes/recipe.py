"""A recipe: everything a run depends on, as one typed dataclass that can be overridden, written down and read back."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from seqconv.registry import check_mixer_options, mixer_config
from seqconv_kernels._core.errors import argument_error, unknown_name

from ..options import convert, parse
from ..tasks import create_task

Options = dict[str, Any]
_FIXED = ("name", "task", "mixer", "mixer_options", "task_options", "model_options")
GROUPS = ("mixer", "task", "model")
"""Prefixes of options that are no fields: those of the mixer, of the task, and further ones of the model."""
_SIZES = (
    "d_model",
    "n_layers",
    "mlp_every",
    "patch_size",
    "batch_size",
    "accumulate",
    "steps",
    "eval_every",
    "warmup_power",
)
_RATES = ("warmup_steps", "lr", "weight_decay", "special_lr", "max_grad_norm", "classifier_hidden")
_SET_BY_TASK = (
    "hidden_size", "num_hidden_layers", "layer_pattern", "vocab_size", "max_position_embeddings", "pad_token_id",
    "eos_token_id", "num_labels", "problem_type", "modality", "image_size", "num_channels",
)  # fmt: skip
PARALLEL = ("ddp", "fsdp")
SCHEDULES = {"cosine": "cosine", "linear": "linear", "rsqrt": "inverse_sqrt", "constant": "constant_with_warmup"}
_NAMES = {"schedule": tuple(SCHEDULES), "precision": ("float32", "bfloat16", "float16"), "parallel": PARALLEL}


@dataclass(frozen=True)
class Recipe:
    """A task, a model and how to train it.

    Attributes:
        name: ``task/mixer`` for listings.
        task, task_options: as :func:`lra.tasks.create_task`.
        mixer, mixer_options: as :func:`seqconv.create_mixer`.
        model_options: further options of the model, as :class:`seqconv.SeqConvConfig`: those that no field here sets.
        d_model, n_layers: width and number of blocks.
        norm, norm_placement: as :class:`seqconv.blocks.Block`.
        mlp, mlp_ratio: per-token network after the mixer, as :class:`seqconv.blocks.Block`.
        mlp_every: only every ``mlp_every``-th block has that network.
        dropout, tie_dropout: of the outputs of each block; tied: whole channels of a row.
        input_dropout: of the embeddings.
        mlp_dropout: of the hidden activations of the per-token network.
        position_embedding: ``none``, ``learned`` or ``sinusoidal``.
        patch_size: pixels a side of what an image's token is; 1 reads it pixel by pixel.
        pooling: from token features to the sequence's, over true tokens.
        mask_padding: ``everywhere``, ``mixer_inputs`` (zeroed at padding; norms take padding for tokens, as in S4), or
            ``pooling`` (mixers and norms take padding for tokens).
        classifier_hidden: width of the classifier's hidden layer; 0 for a linear classifier.
        classifier_dropout: before the classifier.
        batch_size: sequences per optimiser step.
        accumulate: forward passes that an optimiser step is split into.
        steps: optimiser steps.
        warmup_steps, warmup_power: the learning rate rises from 0 as ``(step / warmup_steps) ** warmup_power``.
        lr, weight_decay: AdamW; a mixer's own parameters may have their own.
        decay_all: decay biases, norms and a mixer's own parameters too, as optimisers without groups do.
        special_lr: upper bound of the learning rates that mixers set for their own parameters.
        schedule: ``cosine`` or ``linear`` to 0, ``rsqrt``, ``constant``; after the warm-up.
        beta1, beta2, eps: AdamW.
        max_grad_norm: gradients are scaled down to this norm; 0 leaves them alone.
        eval_every: steps between evaluations (and checkpoints).
        precision: ``float32``, ``bfloat16`` or ``float16`` under autocast.
        compile: whether the model runs through ``torch.compile``.
        parallel: what several processes do: ``ddp``, each a copy of the model, or ``fsdp``, each a share of it.
        seed: of the parameters and of the order of the data.
        source: where the numbers come from, and what is our own reading.
        reduced: whether this is a scaled-down protocol, not to be compared with published numbers.
    """

    name: str
    task: str
    mixer: str
    task_options: dict[str, Any] = field(default_factory=dict)
    mixer_options: dict[str, Any] = field(default_factory=dict)
    model_options: dict[str, Any] = field(default_factory=dict)
    d_model: int = 256
    n_layers: int = 6
    norm: str = "batch"
    norm_placement: str = "post"
    mlp: str = "none"
    mlp_ratio: float = 2.0
    mlp_every: int = 1
    dropout: float = 0.0
    tie_dropout: bool = False
    input_dropout: float = 0.0
    mlp_dropout: float = 0.0
    position_embedding: str = "none"
    patch_size: int = 1
    pooling: str = "mean"
    mask_padding: str = "everywhere"
    classifier_hidden: int = 0
    classifier_dropout: float = 0.0
    batch_size: int = 32
    accumulate: int = 1
    steps: int = 100_000
    warmup_steps: int = 1000
    warmup_power: int = 1
    lr: float = 1e-2
    weight_decay: float = 0.05
    decay_all: bool = False
    special_lr: float = 1e-3
    schedule: str = "cosine"
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    max_grad_norm: float = 0.0
    eval_every: int = 1000
    precision: str = "float32"
    compile: bool = False
    parallel: str = "ddp"
    seed: int = 0
    source: str = ""
    reduced: bool = False

    def __post_init__(self) -> None:
        for name, known in _NAMES.items():
            if getattr(self, name) not in known:
                raise unknown_name(f"recipe {self.name}", name, getattr(self, name), known)
        wrong = [name for name in _SIZES if getattr(self, name) < 1]
        wrong += [name for name in _RATES if not getattr(self, name) >= 0]
        if wrong or self.batch_size % self.accumulate:
            got = ", ".join(f"{n}={getattr(self, n)}" for n in wrong or ["batch_size", "accumulate"])
            wanted = "sizes of at least 1, rates of at least 0, a batch_size that accumulate divides"
            raise argument_error(f"recipe {self.name}", got, wanted, "correct the override")
        create_task(self.task, self.task_options)
        check_mixer_options(self.mixer, self.mixer_options)
        further = further_model_options() if self.model_options else []
        for name in self.model_options:
            if name not in further:
                raise unknown_name(f"recipe {self.name}", "model option", name, further)
        if self.n_layers % self.mlp_every:
            got, wanted = f"n_layers={self.n_layers}, mlp_every={self.mlp_every}", "a multiple of mlp_every"
            raise argument_error(f"recipe {self.name}", got, wanted, "correct the override")

    def override(self, changes: Mapping[str, Any]) -> "Recipe":
        """The recipe with other values.

        Args:
            changes: by field name, ``mixer.<option>``, ``task.<option>`` or ``model.<option>``; values may be text.

        Raises:
            ValueError: an unknown name (the nearest are named), or a value of another type.
        """
        fields = {f.name: f.type for f in dataclasses.fields(self) if f.name not in _FIXED}
        own: dict[str, Any] = {}
        options: dict[str, Any] = {f"{group}_options": dict(getattr(self, f"{group}_options")) for group in GROUPS}
        for name, value in changes.items():
            group, _, option = name.partition(".")
            if option and group in GROUPS:
                options[f"{group}_options"][option] = parse(value) if isinstance(value, str) else value
            elif name in fields:
                own[name] = convert(f"recipe {self.name}", name, value, fields[name])
            else:
                known = [*fields, *(f"mixer.{o.name}" for o in dataclasses.fields(mixer_config(self.mixer)))]
                raise unknown_name(f"recipe {self.name}", "override", name, known)
        return dataclasses.replace(self, **own, **options)

    def overridable(self) -> dict[str, tuple[Any, str]]:
        """What :meth:`override` takes, with the recipe's value and the type of each."""
        task, options = create_task(self.task, self.task_options), mixer_config(self.mixer)(**self._own_mixer_options())
        parts: tuple[tuple[str, Any], ...] = (("", self), ("mixer.", options), ("task.", task))
        found = {
            prefix + field.name: (getattr(part, field.name), getattr(field.type, "__name__", str(field.type)))
            for prefix, part in parts
            for field in dataclasses.fields(part)
            if prefix or field.name not in _FIXED
        }
        wrapped = self.mixer_options.keys() - self._own_mixer_options().keys()
        found |= {f"mixer.{name}": (self.mixer_options[name], "bool") for name in wrapped}
        return found | {f"model.{name}": (value, type(value).__name__) for name, value in self.model_options.items()}

    def _own_mixer_options(self) -> dict[str, Any]:
        """Without ``bidirectional`` where a wrapper takes it."""
        own = {field.name for field in dataclasses.fields(mixer_config(self.mixer))}
        return {name: value for name, value in self.mixer_options.items() if name in own}

    def as_dict(self) -> dict[str, Any]:
        """All fields, JSON-able."""
        return dataclasses.asdict(self)


def further_model_options() -> list[str]:
    """Options of :class:`seqconv.SeqConvConfig` that neither a field of a recipe nor its task sets."""
    from seqconv import SeqConvConfig

    own = {f.name for f in dataclasses.fields(Recipe)} | set(_SET_BY_TASK)
    return sorted({f.name for f in dataclasses.fields(SeqConvConfig)} - own)
