"""Names in the configurations of other projects on which no result of a model depends, whatever the model.

A reader reads some names of a configuration, knows of others that they change no result (initial values, losses, speed,
dtypes of intermediate results, what the shapes of tensors determine), and accepts a few with one value alone. Every
other name raises: it may be a new option, or a new name of a known one, whose default would be a wrong model.
"""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from seqconv_kernels._core.errors import argument_error

GENERATION = frozenset({
    "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty",
    "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores",
    "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values",
    "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens", "max_new_tokens",
})  # fmt: skip
"""Options of ``generate``, which older files hold too."""

GENERIC = GENERATION | frozenset({
    "model_type", "architectures", "auto_map", "transformers_version", "_name_or_path", "name_or_path", "_commit_hash",
    "dtype", "torch_dtype", "use_bfloat16", "torchscript", "_attn_implementation", "attn_implementation",
    "_attn_implementation_autoset", "vocab_size", "use_cache", "output_attentions", "output_hidden_states",
    "return_dict", "problem_type", "id2label", "label2id", "num_labels", "finetuning_task", "task_specific_params",
    "is_decoder", "is_encoder_decoder", "cross_attention_hidden_size", "tie_encoder_decoder", "decoder_start_token_id",
    "sep_token_id", "prefix", "tokenizer_class", "chunk_size_feed_forward", "tf_legacy_loss", "initializer_range",
    "initializer_factor",
})  # fmt: skip
"""Names that any model of transformers may have; embeddings are compared with ``vocab_size`` elsewhere."""

GENERIC_FIXED: Mapping[str, tuple[Any, ...]] = {
    "pruned_heads": ({}, None),
    "add_cross_attention": (False,),
    "quantization_config": (None,),
}
"""Names of the same kind, with the values that mean nothing."""


def check_names(config: Mapping[str, Any], known: Collection[str], fixed: Mapping[str, tuple[Any, ...]]) -> None:
    """Raise for a name of a configuration that nothing is known of, or for another value than the only known ones.

    Args:
        known: names that are read, or on which no result depends, beyond the generic ones.
        fixed: names with the values that are supported.

    Raises:
        ValueError: there is one.
    """
    fixed = {**GENERIC_FIXED, **fixed}
    for name, value in config.items():
        if name in fixed and value not in fixed[name]:
            wanted = " or ".join(map(repr, fixed[name]))
            remedy = "load it with the project that wrote it: this variant is not supported"
            raise argument_error("load_checkpoint", f"{name}={value!r}", wanted, remedy)
        if name not in known and name not in GENERIC and name not in fixed:
            raise _unknown(name, {*known, *GENERIC, *fixed})


def without(config: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """A configuration, and the one of the language model in it, without the names that the caller ignores.

    Raises:
        ValueError: a name that it does not have.
    """
    found = {name: without_known(value, names) if name == "text_config" else value for name, value in config.items()}
    inner = config.get("text_config", {})
    for name in names:
        if name not in config and name not in inner:
            got, wanted = f"ignored_options with {name!r}", f"names of the configuration: {', '.join(sorted(config))}"
            raise argument_error("load_checkpoint", got, wanted, "leave it out")
    return without_known(found, names)


def without_known(config: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The same for one mapping."""
    return {name: value for name, value in config.items() if name not in names}


def _unknown(name: str, known: Collection[str]) -> ValueError:
    near = get_close_matches(name, sorted(known), n=3, cutoff=0.5)
    spelt = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    remedy = f"{spelt}pass ignored_options=[{name!r}] if no result depends on it"
    got, wanted = f"the option {name!r} in the configuration", "options that were read in the original's source"
    return argument_error("load_checkpoint", got, wanted, remedy)
