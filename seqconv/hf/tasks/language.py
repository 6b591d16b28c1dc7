"""Language models: the next token, or the masked ones."""

from typing import Any, cast

import torch
from torch import Tensor
from transformers import GenerationMixin
from transformers.generation.configuration_utils import GenerationMode
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast, MaskedLMOutput

from seqconv_kernels._core.errors import argument_error

from ...packing import ends_in_padding
from ..adaptive.build import TIED, make_head, tied_names
from ..adaptive.layers import IGNORED, AdaptiveSoftmax
from ..arguments.cache_argument import CACHE, CURRENT, given_cache
from ..arguments.checks import require_tensor
from ..arguments.packed_arguments import packed_bounds
from ..base import SeqConvPreTrainedModel
from ..cache import SeqConvCache
from ..configuration import SeqConvConfig
from ..model import SeqConvModel
from ..static_cache import StaticSeqConvCache
from .heads import require_modality
from .per_token import PerTokenModel


class SeqConvForCausalLM(SeqConvPreTrainedModel, GenerationMixin):
    """A causal language model.

    Raises:
        ValueError: a layer or a norm that is not causal.
    """

    _tied_weights_keys = TIED  # of a head without bands

    def __init__(self, config: SeqConvConfig) -> None:
        require_modality(type(self).__name__, config, "text")
        super().__init__(config)
        self.model = SeqConvModel(config)
        if not self.model.causal:
            non_causal = [i for i, block in enumerate(self.model.backbone.layers) if not block.causal]
            remedy = "take bidirectional=False and norms of single tokens, or SeqConvForMaskedLM"
            raise argument_error(
                type(self).__name__, f"layers {non_causal} that are not causal", "causal layers", remedy
            )
        with torch.device("meta"):
            self.lm_head = make_head(config)
        self._tied_weights_keys = tied_names(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: SeqConvCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        cu_seqlens: Tensor | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits (batch, length, vocab_size) of the next tokens; other arguments and errors as ``SeqConvModel``.

        Args:
            labels: (batch, length), the tokens themselves, -100 where none counts; adds ``loss``, the mean
                cross-entropy of the next tokens. No packed sequence predicts the first token of the one after it. In
                training an adaptive softmax gives the loss alone, and no logits.
            logits_to_keep: compute only this number of last logits (0: all), or those at these positions.
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "inputs_embeds": inputs_embeds}
        for name, value in inputs.items():
            require_tensor(type(self).__name__, name, value)
        tokens = inputs_embeds if input_ids is None else input_ids
        packing: dict[str, Any] = {"cu_seqlens": cu_seqlens, "position_ids": position_ids, "mask": attention_mask}
        bounds = None
        if tokens is not None and tokens.dim() > 1:
            shape = (tokens.shape[0], tokens.shape[1])
            bounds = packed_bounds(type(self).__name__, shape, arguments=kwargs, **packing)
        inputs |= {"position_ids": position_ids, "cu_seqlens": bounds}
        use_cache = False if labels is not None and use_cache is None else use_cache
        past_key_values = given_cache(type(self).__name__, past_key_values, kwargs)
        asked: dict[str, Any] = {"use_cache": use_cache, "past_key_values": past_key_values}
        asked |= {"output_hidden_states": output_hidden_states, "return_dict": True}
        outputs = cast(BaseModelOutputWithPast, self.model(**inputs, **asked, **kwargs))
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        hidden, count = cast(Tensor, outputs.last_hidden_state), kwargs.get("num_items_in_batch")
        if labels is not None and bounds is not None:
            starts = bounds[:-1].to(labels.device, torch.long)
            labels = labels.flatten().index_fill(0, starts, -100).view(labels.shape)
        adaptive, loss = isinstance(self.lm_head, AdaptiveSoftmax), None
        if adaptive and labels is not None:
            loss = self._adaptive_loss(hidden, labels, count)
        logits = None if adaptive and labels is not None and self.training else self.logits_of(hidden[:, kept])
        if labels is not None and not adaptive:
            sizes: dict[str, Any] = {"vocab_size": self.config.vocab_size}
            sizes |= {} if count is None else {"num_items_in_batch": count}
            loss = self._loss(logits=logits, labels=labels, **sizes)
        found: dict[str, Any] = {CACHE: getattr(outputs, CACHE), "hidden_states": outputs.hidden_states}
        output = CausalLMOutputWithPast(loss=loss, logits=logits, **found)
        return output if self._wants_dict(return_dict) else output.to_tuple()

    def logits_of(self, hidden: Tensor) -> Tensor:
        """Logits (batch, length, vocab_size) of the next tokens from hidden states; as ``forward`` returns them."""
        logits: Tensor = self.lm_head(hidden)
        scale, cap = self.config.logits_scale, self.config.logits_soft_cap
        logits = logits if scale == 1.0 else logits * scale
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _adaptive_loss(self, hidden: Tensor, labels: Tensor, count: Tensor | int | None) -> Tensor:
        """What the next tokens cost, by default in the mean, without the logits of all tokens."""
        targets = labels[:, 1:].to(hidden.device)
        costs: Tensor = self.lm_head(hidden[:, :-1], targets)
        return costs.sum() / ((targets != IGNORED).sum() if count is None else count)

    def prepare_inputs_for_generation(  # type: ignore[override]  # transformers annotates its self by a protocol
        self,
        input_ids: Any,
        next_sequence_length: int | None = None,
        past_key_values: Any = None,
        attention_mask: Any = None,
        inputs_embeds: Any = None,  # named here, as is the cache: ``generate`` looks for them among the parameters
        cache: Any = None,
        **kwargs: Any,
    ) -> Any:
        """As in transformers; reads the whole text again where its mask hides tokens that the cache has read.

        ``generate`` feeds padding to rows that have ended; the mask of the next turn hides it.

        Raises:
            ValueError: a mask that is shorter than the text.
        """
        # ``generate`` drops a mask of ones, after it has counted the positions by it.
        masks = (m for m in (attention_mask, kwargs.get("position_ids")) if isinstance(m, Tensor))
        covered = next((m.shape[-1] for m in masks), None)
        starts = kwargs.get("is_first_iteration") and inputs_embeds is None
        if starts and covered is not None and covered < input_ids.shape[1]:
            got = f"a mask of {covered} tokens for a text of {input_ids.shape[1]}"
            remedy = "pass the mask of the whole text, the earlier turns included, or none"
            raise argument_error(f"{type(self).__name__}.generate", got, "a mask for every token", remedy)
        cache = given_cache(type(self).__name__, past_key_values, {CURRENT: cache})
        cached = isinstance(cache, SeqConvCache) and next_sequence_length is not None
        masked = isinstance(attention_mask, Tensor) and attention_mask.dim() == 2
        if isinstance(cache, SeqConvCache) and not cached and inputs_embeds is None:
            seen = cache.get_seq_length()  # assisted generation passes all tokens to an earlier turn's cache
            next_sequence_length = input_ids.shape[1] - seen if 0 < seen < input_ids.shape[1] else None
            cached = next_sequence_length is not None
        first = cached and masked and kwargs.get("is_first_iteration")
        if first and not cache.agrees_with(attention_mask):
            cache.reset()
            next_sequence_length = None
        if next_sequence_length == 1 and not first and isinstance(cache, StaticSeqConvCache):
            attention_mask = None  # the token is real, and a mask of all tokens would grow
        inputs = {CACHE: cache, "attention_mask": attention_mask, "inputs_embeds": inputs_embeds}
        return cast(Any, super()).prepare_inputs_for_generation(input_ids, next_sequence_length, **inputs, **kwargs)

    def _prepare_cache_for_generation(
        self,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        generation_mode: Any,
        batch_size: int,
        max_cache_length: int,
    ) -> Any:
        """Make the cache of ``generate``; states know the longest context, and can go back if they must."""
        self._check_cache_implementation(generation_config.cache_implementation)
        cache, mask = model_kwargs.get(CACHE), model_kwargs.get("attention_mask")
        name = f"{type(self).__name__}.generate"
        if mask is not None and mask.dim() == 2 and ends_in_padding(mask.bool()):
            remedy = "pad prompts on the left (tokenizer.padding_side = 'left')"
            wanted = "prompts that end in a real token"
            raise argument_error(name, "prompts with padding on the right", wanted, remedy)
        if isinstance(cache, SeqConvCache) and mask is not None and not generation_config.is_assistant:
            seen = cache.get_seq_length()
            if seen and mask.shape[1] <= seen:
                wanted = f"more tokens than the {seen} that the cache has read"
                remedy = "pass the whole text so far with the new tokens at its end, or leave past_key_values out"
                raise argument_error(name, f"a prompt of {mask.shape[1]} tokens", wanted, remedy)
        if cache is not None or generation_config.use_cache is False:
            return
        longest = max(max_cache_length, getattr(generation_config, "max_cache_len", None) or 0)
        cache = self._new_cache(generation_config.cache_implementation, longest)
        if generation_config.is_assistant or generation_mode == GenerationMode.ASSISTED_GENERATION:
            cache.activate_past_recording()
        model_kwargs[CACHE] = cache

    def _new_cache(self, implementation: str | None, longest: int) -> SeqConvCache:
        if implementation == "static":
            return StaticSeqConvCache(self.model.backbone, longest)
        return SeqConvCache(max_length=longest)

    def _check_cache_implementation(self, implementation: str | None) -> None:
        if implementation in (None, "dynamic", "static"):
            return
        op, remedy = f"{type(self).__name__}.generate", "leave cache_implementation out"
        raise argument_error(op, f"cache_implementation={implementation!r}", "None, 'dynamic' or 'static'", remedy)

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """Not here: transformers' continuous batching keeps keys and values in pages and has no place for states.

        Raises:
            ValueError: always; ``generate_batch`` calls it.
        """
        got, wanted = "a model with states", "attention layers alone, whose keys and values are in pages"
        remedy = "batch requests with seqconv.hf.cache_rows.concat_caches and split_cache, or call generate"
        raise argument_error(f"{type(self).__name__}.generate_batch", got, wanted, remedy)

    @staticmethod
    def create_masks_for_generate(config: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        """The mask as it is: transformers asks for one of four axes where a step is compiled."""
        return attention_mask


class SeqConvForMaskedLM(PerTokenModel):
    """A language model of masked tokens; with ``bidirectional=True`` it depends on both sides."""

    _tied_weights_keys = TIED  # of a head without bands
    output_type = MaskedLMOutput

    def __init__(self, config: SeqConvConfig) -> None:
        super().__init__(config)
        with torch.device("meta"):
            self.lm_head = make_head(config)
        self._tied_weights_keys = tied_names(config)
        self.post_init()

    def _output(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.lm_head(hidden)
        return logits
