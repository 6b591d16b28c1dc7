"""The backbone on the embeddings of its modality, with the calling conventions of transformers."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from seqconv_kernels._core.errors import argument_error

from ..backbone import BackboneState
from ..layers.norms import create_norm
from ..packing import check_mask, ends_in_padding, has_holes, padding_first, zero_padding
from ..state import InitialState, State, call_with_state
from .adaptive.build import make_embedding
from .arguments.cache_argument import CACHE, given_cache
from .arguments.checks import HOLDS, boolean_mask, check_arguments, check_ids, require_tensor, wrong_input
from .arguments.packed_arguments import packed_bounds
from .base import SeqConvPreTrainedModel, use_attention
from .cache import SeqConvCache
from .configuration import SeqConvConfig
from .embeddings import (
    FrameEmbedding,
    PatchEmbedding,
    PositionEmbedding,
    SpectrogramEmbedding,
    TubeletEmbedding,
    positions_of,
)
from .initialization import make_backbone


class SeqConvModel(SeqConvPreTrainedModel):
    """Embeddings and backbone; outputs hidden states.

    Raises:
        ValueError: a configuration that :meth:`SeqConvConfig.check` rejects.
    """

    def __init__(self, config: SeqConvConfig) -> None:
        config.modality = config.modality or "text"
        super().__init__(config)
        self.main_input_name = config.main_input_name
        with torch.device("meta"):  # post_init gives memory and values
            if config.modality == "text":
                self.embed_tokens = make_embedding(config)
            elif config.modality == "image":
                self.embed_pixels: nn.Module = PatchEmbedding(config)
            elif config.modality == "video":
                self.embed_pixels = TubeletEmbedding(config)
            else:
                kind = SpectrogramEmbedding if config.audio_input == "spectrogram" else FrameEmbedding
                self.embed_frames: nn.Module = kind(config)
            self.positions = PositionEmbedding(config)
            norm, norm_options = (config.norm, config.norm_options or {}) if config.embedding_norm else ("none", {})
            self.embedding_norm = create_norm(norm, config.hidden_size, **norm_options)
            self.backbone = make_backbone(config)
        use_attention(self.backbone, config._attn_implementation)
        self.post_init()

    @property
    def causal(self) -> bool:
        """Whether an output depends on no later input."""
        return self.backbone.causal

    def get_input_embeddings(self) -> nn.Module:
        """The module that makes vectors of inputs: of token ids, or of patches of pixels or frames of sound."""
        if self.config.modality == "text":
            return cast(nn.Module, self.embed_tokens)
        embedding = self.embed_frames if self.config.modality == "audio" else self.embed_pixels
        return cast(nn.Module, embedding.projection)

    def embed(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        input_values: Tensor | None = None,
        input_features: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Embeddings (batch, length, d_model) without positions, and the mask of their tokens.

        Raises:
            ValueError: none or several inputs, an input of another modality, token ids outside the vocabulary.
        """
        given = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "pixel_values": pixel_values}
        given |= {"input_values": input_values, "input_features": input_features}
        self._check_inputs({name: value for name, value in given.items() if value is not None})
        input_values = input_features if input_values is None else input_values
        mask = None if attention_mask is None else boolean_mask(type(self).__name__, attention_mask)
        if inputs_embeds is not None:
            return self._scaled(inputs_embeds), mask
        if input_values is not None:
            embedded: tuple[Tensor, Tensor | None] = self.embed_frames(input_values, mask)
            return embedded
        if pixel_values is not None:
            return self.embed_pixels(pixel_values), mask
        assert input_ids is not None
        check_ids(type(self).__name__, input_ids, self.embed_tokens.num_embeddings)
        return self._scaled(self.embed_tokens(input_ids)), mask

    def _scaled(self, embedded: Tensor) -> Tensor:
        scale = self.config.embedding_scale if self.config.modality == "text" else 1.0
        return embedded if scale == 1.0 else embedded * scale

    def _check_inputs(self, named: dict[str, Tensor]) -> None:
        modality = self.config.modality
        features = modality == "audio" and self.config.audio_input != "waveform"
        for name, value in named.items():
            if (name in HOLDS and modality not in HOLDS[name][0]) or (name == "input_features" and not features):
                raise wrong_input(type(self).__name__, name, modality)
            require_tensor(type(self).__name__, name, value)
        if len(named) != 1:
            wanted = f"{self.main_input_name} or inputs_embeds"
            remedy = f"pass one of them; config.modality is {modality!r}"
            raise argument_error(type(self).__name__, " and ".join(named) or "no input", wanted, remedy)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: SeqConvCache | None = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        input_values: Tensor | None = None,
        input_features: Tensor | None = None,
        use_cache: bool | None = None,
        cu_seqlens: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast | tuple[Any, ...]:
        """Hidden states of all tokens.

        Args:
            input_ids, pixel_values, input_values, input_features, inputs_embeds: one of them.
            attention_mask: 1 at real tokens, (batch, length), or with what the cache has seen in front. Padding may be
                anywhere, between tokens too: outputs are those of the tokens without it.
            position_ids: for positions added to the embeddings; where they start again at 0, a packed sequence begins.
            past_key_values: state to continue from, as an earlier call returned it; ``cache`` in transformers 5.24 and
                later, where outputs call it so. Both names are taken in every version.
            use_cache: return the state after the last token of every row; by default where the model is causal, in
                evaluation, and no row ends in padding.
            cu_seqlens: boundaries of packed sequences, (segments + 1,), in the rows one after the other;
                ``cu_seq_lens_q``, ``cu_seq_lens_k`` and ``seq_idx`` (batch, length) say the same.
            output_hidden_states: also return the input of every block and the output.

        Raises:
            ValueError: inputs that do not fit together; a state asked of a model that has none, or after padding
                on the right.
        """
        x, mask = self.embed(input_ids, attention_mask, inputs_embeds, pixel_values, input_values, input_features)
        rows, length = x.shape[:2]
        packing: dict[str, Any] = {"cu_seqlens": cu_seqlens, "position_ids": position_ids, "mask": mask}
        bounds = packed_bounds(type(self).__name__, (rows, length), arguments=kwargs, **packing)
        past_key_values = given_cache(type(self).__name__, past_key_values, kwargs)
        check_arguments(type(self).__name__, kwargs, self.config.modality)
        cache = self._cache(past_key_values, use_cache, mask, bounds)
        mask, whole = self._split_mask(mask, x, cache)
        if position_ids is None:
            seen = 0 if cache is None else cache.get_seq_length()
            if whole is None and cache is not None and cache.mask is not None:
                whole = cache.full_mask(torch.ones((rows, length), dtype=torch.bool, device=x.device))
            total = length if bounds is None else rows * length
            position_ids = positions_of(whole, bounds, total, seen, x.device)
            position_ids = position_ids if bounds is None else position_ids.view(-1, length)
        x = self.embedding_norm(self.positions(x, position_ids), mask)
        wants_hidden = bool(self.config.output_hidden_states if output_hidden_states is None else output_hidden_states)
        mask = mask if self.config.mask_padding != "pooling" else None
        order = None if mask is None else self._order(mask, bounds, cache)
        given = (x, mask)
        x, mask = _reordered(order, x, mask)
        if bounds is not None:
            y, *hidden = self._packed(x, mask, bounds, wants_hidden)
        elif cache is None:
            outputs = self.backbone(x, mask=mask, output_hidden_states=wants_hidden)
            y, *hidden = outputs if wants_hidden else (outputs,)
        else:
            y, after, *hidden = self._continue(x, mask, cache, wants_hidden)
            cache.put(after, *given, lambda x, state, mask: self._reread(x, state, mask, cache))
        if order is not None:
            back = order.argsort(1)[..., None]
            y, hidden = y.take_along_dim(back, 1), [tuple(h.take_along_dim(back, 1) for h in hs) for hs in hidden]
        found: dict[str, Any] = {"last_hidden_state": y, CACHE: cache}
        output = BaseModelOutputWithPast(**found, hidden_states=hidden[0] if wants_hidden else None)
        return output if self._wants_dict(return_dict) else output.to_tuple()

    def _packed(self, x: Tensor, mask: Tensor | None, bounds: Tensor, wants_hidden: bool) -> list[Any]:
        """Packed sequences, row after row; outputs and hidden states, zero at padding."""
        outputs = self.backbone(x.flatten(0, 1)[None], cu_seqlens=bounds, output_hidden_states=wants_hidden)
        y, *hidden = outputs if wants_hidden else (outputs,)
        y = zero_padding(y.view(x.shape), mask)
        return [y, *(tuple(zero_padding(h.view(x.shape), mask) for h in states) for states in hidden)]

    def _continue(self, x: Tensor, mask: Tensor | None, cache: SeqConvCache, wants_hidden: bool) -> tuple[Any, ...]:
        """Read tokens from the cache's state; outputs, the state after them and hidden states."""
        state: State = cache.take(x.shape[0]) or InitialState(cache.max_length)
        length, cuts = x.shape[1], cache.cuts(x.shape[1])
        if not cuts:
            return self._read(x, state, mask, wants_hidden)
        start, parts = 0, []
        for stop in sorted({*cuts, length}):
            part = None if mask is None else mask[:, start:stop]
            y, state, *hidden = self._read(x[:, start:stop], state, part, wants_hidden)
            if stop in cuts:
                cache.keep(stop, cast(BackboneState, state))
            parts.append((y, *(hidden[0] if wants_hidden else ())))
            start = stop
        y, *layers = (torch.cat(outputs, dim=1) for outputs in zip(*parts, strict=True))
        return y, state, *([tuple(layers)] if wants_hidden else [])

    def _read(self, x: Tensor, state: State, mask: Tensor | None, wants_hidden: bool) -> tuple[Any, ...]:
        """Outputs, the state after them and, if wanted, hidden states; one token without a mask is a step."""
        alone = x.shape[1] == 1 and mask is None
        y, after, *hidden = self.backbone(x[:, 0] if alone else x, state, mask=mask, output_hidden_states=wants_hidden)
        if alone:
            y, hidden = y[:, None], [tuple(h[:, None] for h in states) for states in hidden]
        return y, after, *hidden

    def _reread(
        self, x: Tensor, state: BackboneState | None, mask: Tensor | None, cache: SeqConvCache
    ) -> BackboneState:
        x, mask = _reordered(None if mask is None else self._order(mask, None, cache), x, mask)
        before = state or InitialState(cache.max_length)
        after: BackboneState = call_with_state(self.backbone, x, before, mask=mask)[1]
        return after

    def _cache(
        self, cache: object, use_cache: bool | None, mask: Tensor | None, bounds: Tensor | None
    ) -> SeqConvCache | None:
        """The cache of this call, new if need be; ``None`` if none is wanted or possible."""
        name = type(self).__name__
        if cache is not None and not isinstance(cache, SeqConvCache):
            remedy = "leave past_key_values out, or pass what an earlier call returned"
            if "Static" in type(cache).__name__:
                remedy += "; generate(cache_implementation='static') makes a cache of constant size"
            wanted = "a SeqConvCache, which holds states instead of keys and values"
            raise argument_error(name, f"past_key_values of type {type(cache).__name__}", wanted, remedy)
        asked = use_cache or (use_cache is None and cache is not None)
        if not asked and (use_cache is False or self.training or not self.config.use_cache):
            return None
        possible = self.causal and bounds is None and self.config.modality == "text"
        if possible and (asked or mask is None or not ends_in_padding(mask)):
            return SeqConvCache() if cache is None else cache
        if not asked:
            return None
        wants = "a causal text model and no packed sequences: only those have a state"
        got, remedy = "use_cache=True", "pass use_cache=False"
        if cache is not None:
            got, remedy = "past_key_values", "leave it out: pass whole sequences"
        raise argument_error(name, got, wants, remedy)

    def _split_mask(
        self, mask: Tensor | None, x: Tensor, cache: SeqConvCache | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """The mask of the new tokens, and of all tokens; ``None`` where all are real."""
        if mask is None:
            return None, None
        seen, length = (0 if cache is None else cache.get_seq_length()), x.shape[1]
        if mask.shape not in {(x.shape[0], length), (x.shape[0], seen + length)}:
            wanted = f"(batch, length) = {tuple(x.shape[:2])}"
            wanted += f", or with {seen} earlier tokens in front" if seen else ""
            got = f"an attention_mask of shape {tuple(mask.shape)}"
            raise argument_error(type(self).__name__, got, wanted, "pass the mask that belongs to these inputs")
        new = mask[:, -length:]
        if seen and mask.shape[1] == length and cache is not None:
            mask = cache.full_mask(new)
        if torch.compiler.is_compiling():
            return new, mask
        if mask.shape[1] > length and cache is not None:
            cache.check_earlier(type(self).__name__, mask)
        return (None if bool(new.all()) else new), mask

    def _order(self, mask: Tensor, bounds: Tensor | None, cache: SeqConvCache | None) -> Tensor | None:
        """The order of positions in which the backbone takes this mask; ``None``: as they are."""
        if torch.compiler.is_compiling():
            return None
        if bounds is not None or self.config.mask_padding != "everywhere":
            check_mask(type(self).__name__, mask, mask)
            return None
        if not has_holes(mask) and (cache is None or not ends_in_padding(mask)):
            return None
        if cache is not None and cache.cuts(mask.shape[1]):
            wanted, remedy = "padding on the left where states are kept", "read the prompt by itself, without padding"
            raise argument_error(type(self).__name__, "padding between tokens and states_at", wanted, remedy)
        return padding_first(mask)


def _reordered(order: Tensor | None, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Inputs and their mask with the positions of every row in that order."""
    if order is None or mask is None:
        return x, mask
    return x.take_along_dim(order[..., None], 1), mask.take_along_dim(order, 1)
