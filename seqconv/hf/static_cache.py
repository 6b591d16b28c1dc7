"""A cache whose tensors keep their sizes from token to token, so that a decoding step is compiled once.

For ``generate(cache_implementation="static")``. Recurrent states have one size already, caches of attention get
one up to the longest context (:meth:`seqconv.state.State.with_capacity`). Counts are tensors: a number that changes
with every token would be compiled, or captured in a CUDA graph, again and again.
"""

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from seqconv_kernels._core.errors import argument_error

from ..audio.sashimi import Sashimi
from ..backbone import Backbone, BackboneState
from ..decoding.history import Prefill
from .cache import SeqConvCache


class StaticSeqConvCache(SeqConvCache):
    """State of a causal model between calls, in tensors of fixed sizes.

    Args:
        backbone: the model's, whose states it holds.
        max_length: longest context, prompt and new tokens together.

    Raises:
        ValueError: a layer whose state cannot have a fixed size: long convolutions without a recurrence.
    """

    def __init__(self, backbone: Backbone | Sashimi, max_length: int) -> None:
        super().__init__(max_length)
        if not isinstance(backbone, Backbone):
            got, wanted = "cache_implementation='static' and pool_sizes", "layers of one rate of time"
            remedy = "leave cache_implementation out: which levels a token reaches depends on its place"
            raise argument_error("StaticSeqConvCache", got, wanted, remedy)
        self._backbone = backbone
        layers = self._initial(1).layers
        grows = [f"{i} ({_name(backbone, i)})" for i, state in enumerate(layers) if not state.has_fixed_shape]
        if grows:
            got = f"cache_implementation='static' and layers whose states have no fixed size: {', '.join(grows)}"
            wanted = "recurrent mixers, attention, and filters that are short or have a recurrence"
            remedy = "leave cache_implementation out, or replace these filters (seqconv.distill)"
            raise argument_error("StaticSeqConvCache", got, wanted, remedy)
        self._count: Tensor | None = None

    @property
    def is_compileable(self) -> bool:
        """Yes: nothing changes its size."""
        return True

    def take(self, rows: int) -> BackboneState:
        """The state to continue from, in tensors of their final sizes from the first token on."""
        state = super().take(rows)
        return self._initial(rows) if state is None else state

    def put(self, after: BackboneState, inputs: Tensor, mask: Tensor | None, prefill: Prefill) -> None:
        """As in the base; the mask is kept where a call has one, counts are tensors, strides are always the same."""
        self._record(inputs, mask, prefill)
        if mask is not None:
            self.mask = self.full_mask(mask)
        count = torch.zeros((), dtype=torch.int64, device=inputs.device) if self._count is None else self._count
        self._count = count + inputs.shape[1]
        self.state, self._batch_size = pytree.tree_map_only(Tensor, _own, after), inputs.shape[0]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens read so far, padding included."""
        return 0 if self._count is None else int(self._count)

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._count = None

    def _initial(self, rows: int) -> BackboneState:
        assert self.max_length is not None
        state = self._backbone.init_state(rows, max_length=self.max_length).with_capacity(self.max_length)
        for layer in state.layers:
            for part in (layer.mixer, layer.mlp):
                if part is not None:  # padding in front of a prompt: the state of its row waits
                    part.not_begun = next(part._leaves()).tensor.new_ones(rows, dtype=torch.bool)
        return state


def _own(tensor: Tensor) -> Tensor:
    """Contiguous and, after an eager call, in memory of its own: views of other tensors are compiled in another way."""
    return tensor.contiguous() if torch.compiler.is_compiling() else tensor.clone(memory_format=torch.contiguous_format)


def _name(backbone: Backbone, layer: int) -> str:
    mixer = backbone.layers[layer].mixer
    return "none" if mixer is None else mixer.name
