"""What all seqconv models share: how weights start, how checkpoints are read, checked and written."""

import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init

from seqconv_kernels._core.errors import argument_error, unknown_name

from ..attention.softmax import IMPLEMENTATIONS
from ..parameters import mark_vectors, restore_optimizer_options, wide_default_dtype
from ..quantization import Int8Linear, int8_layers, place_int8_layers, without_int8
from ..weight_decay import honour_marks
from .configuration import SeqConvConfig
from .embeddings import InputMap
from .initialization import is_part_of_backbone, materialize, reset_what_was_not_loaded
from .saving.atomic_save import written_whole
from .saving.model_card import write_model_card
from .saving.remote import auto_map, register_for


class SeqConvPreTrainedModel(PreTrainedModel):
    """Base of the seqconv models."""

    config_class: Any = SeqConvConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["Block"]  # noqa: RUF012  (transformers declares it so)

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        config.check()
        super().__init__(config, *args, **kwargs)

    def post_init(self) -> None:
        """As in transformers; first gives memory to what was built on the meta device, and then values."""
        materialize(self)
        super().post_init()
        self._place_int8_layers()
        self.all_tied_weights_keys = without_int8(self, self.all_tied_weights_keys)
        mark_vectors(self)
        restore_optimizer_options(self)

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """As in ``nn.Module``; a ``Trainer`` that collects parameters to decay is told which are marked not to."""
        honour_marks()
        return super().named_children()

    def init_weights(self) -> None:
        """As in transformers.

        Raises:
            ValueError: int8 layers without values; they get them from a checkpoint alone.
        """
        empty = next((n for n, m in self.named_modules() if isinstance(m, Int8Linear) and m.is_empty), None)
        if empty is not None:
            operation, got = f"{type(self).__name__}.init_weights", f"an int8 layer without values ({empty})"
            raise argument_error(
                operation, got, "floating weights", "read a checkpoint, or set config.int8_layers=None"
            )
        super().init_weights()

    def initialize_weights(self) -> None:
        """As in transformers, computed in float32 whatever the parameters are."""
        dtype = torch.get_default_dtype()
        torch.set_default_dtype(wide_default_dtype())
        try:
            super().initialize_weights()
        finally:
            torch.set_default_dtype(dtype)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initial values of the parameters and buffers that no checkpoint gave.

        Modules of the backbone, and norms, have ``reset_parameters``; embeddings and heads are drawn here.
        """
        if isinstance(module, nn.Linear | nn.Embedding) and not is_part_of_backbone(module):
            std = module.in_features**-0.5 if isinstance(module, InputMap) else self.config.initializer_range
            init.normal_(module.weight, mean=0.0, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                init.zeros_(module.bias)
        else:
            reset_what_was_not_loaded(module)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, but a checkpoint that does not fit raises instead of being loaded in part.

        Checkpoints of other projects (:func:`seqconv.list_checkpoints`) are converted on the way.

        A head may be new (fine-tuning another kind of model); everything below it must be there, in the right
        shapes. Pickled code is never run: ``.bin`` files are read with ``weights_only=True``.

        Raises:
            ValueError: missing, extra or misshapen tensors, a damaged or unsafe file, ``weights_only=False``.
        """
        if not kwargs.pop("weights_only", True):
            remedy = "leave it out; convert the checkpoint to safetensors if it does not load"
            raise argument_error(
                _reading(cls), "weights_only=False", "weights_only=True: pickled code is never run", remedy
            )
        from ..interop.checkpoint import read_foreign

        source = pretrained_model_name_or_path
        wants_info = kwargs.pop("output_loading_info", False)
        ignore = kwargs.pop("ignore_mismatched_sizes", False)
        foreign = read_foreign(source, {**kwargs, "ignore_mismatched_sizes": ignore}, cls.config_class)
        if foreign is not None:
            source, kwargs = None, foreign
        kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True, "weights_only": True}
        with _damage_named(cls, source):
            loaded: Any = super().from_pretrained(source, *args, **kwargs)
        model, info = loaded
        if foreign is not None:
            model.name_or_path = model.config.name_or_path = str(pretrained_model_name_or_path)
        restore_optimizer_options(model)
        model._check_report(info, ignore)
        return (model, info) if wants_info else model

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As in transformers; a save that fails leaves the folder as it was.

        A model after :func:`seqconv.quantize` is saved with its int8 weights and their scales.

        Raises:
            ValueError: layers of torch's own quantisers, whose packed weights ``from_pretrained`` can not read.
        """
        packed = next((n for n, m in self.named_modules() if type(m).__module__.startswith("torch.ao.nn.")), None)
        if packed is not None:
            operation, got = f"{type(self).__name__}.save_pretrained", f"a layer that torch.ao quantized ({packed})"
            remedy = "save the floating model, or quantize it by seqconv.quantize"
            raise argument_error(operation, got, "floating weights, or those of seqconv.quantize", remedy)
        self._note_int8_layers()
        if self._auto_class is None:  # the code of another class is not written: it can not be named
            self.config.auto_map = auto_map(*(kind.__name__ for kind in self.config_class.__mro__))
        if kwargs.get("push_to_hub") or not kwargs.get("is_main_process", True):
            super().save_pretrained(save_directory, *args, **kwargs)
            return
        with written_whole(save_directory) as partial:
            super().save_pretrained(partial, *args, **kwargs)
            write_model_card(self, partial, instead_of=Path(save_directory))

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoModel") -> None:
        """As in transformers; checkpoints of seqconv's own classes name them without a copy of their code."""
        super().register_for_auto_class(auto_class)
        if cls.__module__.startswith("seqconv."):
            register_for(cls.config_class.__name__, getattr(auto_class, "__name__", auto_class), cls.__name__)
            cls._auto_class = None

    def set_attn_implementation(self, attn_implementation: Any, *args: Any, **kwargs: Any) -> None:
        """As in transformers, for the attention mixers among the layers.

        Raises:
            ValueError: an implementation other than ``"sdpa"`` and ``"eager"``.
        """
        super().set_attn_implementation(attn_implementation, *args, **kwargs)
        use_attention(self, self.config._attn_implementation)

    def _check_and_adjust_attn_implementation(self, attn_implementation: str | None, *args: Any, **kwargs: Any) -> str:
        if attn_implementation not in (None, *IMPLEMENTATIONS):
            wanted = " or ".join(map(repr, IMPLEMENTATIONS))
            remedy = "take one of them, or leave attn_implementation out"
            raise argument_error(type(self).__name__, f"attn_implementation={attn_implementation!r}", wanted, remedy)
        return attn_implementation or IMPLEMENTATIONS[0]

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        """As in transformers, but for layers with int8 weights, which are their own."""
        tied = getattr(self, "all_tied_weights_keys", None)
        if tied:
            self.all_tied_weights_keys = without_int8(self, tied)
        super().tie_weights(*args, **kwargs)

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Embedding:
        """As in transformers.

        Raises:
            ValueError: a head with int8 weights, or an adaptive one, whose bands have sizes of their own.
        """
        if new_num_tokens is not None and getattr(self.config, "adaptive_cutoffs", None) is not None:
            operation = f"{type(self).__name__}.resize_token_embeddings"
            wanted, remedy = "one table of vectors", "build a model with another vocab_size and adaptive_cutoffs"
            raise argument_error(operation, "an adaptive embedding", wanted, remedy)
        if new_num_tokens is not None and isinstance(self.get_output_embeddings(), Int8Linear):
            operation = f"{type(self).__name__}.resize_token_embeddings"
            raise argument_error(operation, "a head with int8 weights", "a floating head", "resize, and then quantize")
        return super().resize_token_embeddings(new_num_tokens, *args, **kwargs)

    def _place_int8_layers(self) -> None:
        """Replace the layers whose int8 weights the configuration names: the inner model's first, then the head's.

        A head that another class was saved with stays out.
        """
        layers = getattr(self.config, "int8_layers", None) or {}
        inner = self._modules.get(self.base_model_prefix)
        saved_as = self.config.architectures or ([] if inner is None else [type(self).__name__])
        own = dict((self if inner is None else inner).named_modules()) if layers else {}
        if inner is not None:
            layers = {n: g for n, g in layers.items() if n not in own} if type(self).__name__ in saved_as else {}
        elif type(self).__name__ not in saved_as:
            layers = {n: g for n, g in layers.items() if n in own}
        place_int8_layers(self, layers)

    def _note_int8_layers(self) -> None:
        """Write into the configuration which layers have int8 weights."""
        found = {n.removeprefix(f"{self.base_model_prefix}."): g for n, g in int8_layers(self).items()}
        if found or hasattr(self.config, "int8_layers"):
            self.config.int8_layers = found or None
        if isinstance(self.get_output_embeddings(), Int8Linear):
            self.config.tie_word_embeddings = False

    def _wants_dict(self, return_dict: bool | None) -> bool:
        return bool(self.config.return_dict if return_dict is None else return_dict)

    def _loss(self, **arguments: Any) -> Tensor:
        """The loss that transformers gives to the class of this name."""
        function: Callable[..., Tensor] = cast(Any, self).loss_function
        return function(**arguments)

    def _check_report(self, info: Mapping[str, Any], ignore_mismatched_sizes: bool) -> None:
        """Raise for what the loading report lists, except a head that is new here."""
        same = type(self).__name__ in (self.config.architectures or [])
        prefix = f"{self.base_model_prefix}."
        inner = {name for name, _ in self.named_modules(remove_duplicate=False)}
        whole = self.base_model_prefix not in inner

        def bad(names: Iterable[str], *, accept_head: bool) -> list[str]:
            return sorted(n for n in names if whole or n.startswith(prefix) or not accept_head)

        missing = bad(info["missing_keys"], accept_head=not same)
        own = (n for n in info["unexpected_keys"] if same or not whole or "backbone." in n)
        extra = bad(own, accept_head=not same)
        misshapen = {n: (tuple(a), tuple(b)) for n, a, b in info["mismatched_keys"]}
        wrong = bad(misshapen, accept_head=ignore_mismatched_sizes)
        wrong = [n for n in wrong if not (ignore_mismatched_sizes and _is_other_vocabulary(n, *misshapen[n]))]
        found = [f"without {_some(missing)}"] if missing else []
        found += [f"with the extra tensors {_some(extra)}"] if extra else []
        found += [f"with {n} of shape {misshapen[n][0]}, not {misshapen[n][1]}" for n in wrong[:4]]
        if found:
            remedy = (
                "check that config.json belongs to these weights and that all files were copied; save the model again "
                "with save_pretrained if it does not"
            )
            raise argument_error(
                _reading(type(self)), f"a checkpoint {' and '.join(found)}", "its own tensors alone", remedy
            )


def use_attention(model: nn.Module, implementation: Any) -> None:
    """Let all attention mixers of a model compute in one way."""
    for module in model.modules():
        if hasattr(type(module), "attn_implementation"):
            cast(Any, module).attn_implementation = implementation


@contextmanager
def _damage_named(cls: type, path: Any) -> Iterator[None]:
    """Say which checkpoint is damaged or unsafe, and what to do."""
    try:
        yield
    except (SafetensorError, EOFError) as error:
        got = f"a damaged file in {str(path)!r} ({error})"
        raise argument_error(
            _reading(cls), got, "whole safetensors files", "copy or download the checkpoint again"
        ) from error
    except TypeError as error:
        option = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if option is None:
            raise
        raise unknown_name(_reading(cls), "option", option[1], vars(SeqConvConfig())) from error
    except FileNotFoundError as error:
        got = f"a missing file in {str(path)!r} ({error})"
        raise argument_error(_reading(cls), got, "all files of a checkpoint", "copy or download them again") from error
    except pickle.UnpicklingError as error:
        got = f"a pickled file in {str(path)!r} that holds more than tensors"
        remedy = "do not trust this file; ask for the checkpoint as safetensors"
        raise argument_error(_reading(cls), got, "tensors alone: pickled code is never run", remedy) from error


def _is_other_vocabulary(name: str, saved: tuple[int, ...], built: tuple[int, ...]) -> bool:
    """Whether embeddings, or the head that is tied to them, differ in the number of tokens alone."""
    return name.endswith(("embed_tokens.weight", "lm_head.weight")) and saved[1:] == built[1:]


def _reading(cls: type) -> str:
    return f"{cls.__name__}.from_pretrained"


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
