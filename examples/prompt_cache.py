"""A prompt cache: requests with the same prefix read it once.

States of past prompts are kept every few tokens. A new request looks for the longest beginning that it shares with one
of them, goes on from a copy of that state, and reads only what is left. A state of a recurrent model has one size
whatever it has read, so thousands of them fit where keys and values of one prompt would.

python examples/prompt_cache.py --mixer mamba --every 32
"""

import copy
from collections import OrderedDict
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from transformers import set_seed

from seqconv import SeqConvConfig, SeqConvForCausalLM
from seqconv.hf.cache import SeqConvCache
from seqconv.hf.tokenizer import byte_tokenizer

Key = tuple[int, ...]


class PromptCache:
    """States of prompts by their tokens, the least recently used dropped first.

    Args:
        model: a causal language model; the states are those of its weights.
        every: tokens between two states of a prompt.
        entries: states that are kept.
    """

    def __init__(self, model: SeqConvForCausalLM, *, every: int = 32, entries: int = 256) -> None:
        self.model, self.every, self.entries = model, every, entries
        self.states: OrderedDict[Key, SeqConvCache] = OrderedDict()
        self.read = self.reused = 0

    @torch.no_grad()
    def generate(self, ids: Tensor, **options: Any) -> Tensor:
        """As ``model.generate`` for one prompt, (1, length); the prompt's states are kept for later ones."""
        tokens = tuple(ids[0].tolist())
        cache, known = self._longest(tokens)
        last = len(tokens) - 1  # generate reads the last token itself
        if known < last:
            self.model(ids[:, known:last], past_key_values=cache)
            for position in cache.states_at:
                if known < position <= last:
                    self._keep(tokens[:position], cache.at(position))
        self.reused, self.read = self.reused + known, self.read + len(tokens) - known
        generated: Any = self.model.generate(ids, past_key_values=cache, **options)
        return generated

    def _longest(self, tokens: Key) -> tuple[SeqConvCache, int]:
        """A cache after the longest beginning of ``tokens`` that is known, and its length."""
        positions = range(self.every, len(tokens), self.every)
        for position in reversed(positions):
            found = self.states.get(tokens[:position])
            if found is not None:
                self.states.move_to_end(tokens[:position])
                cache = copy.deepcopy(found)
                cache.states_at = positions
                return cache, position
        return SeqConvCache(states_at=positions), 0

    def _keep(self, tokens: Key, cache: SeqConvCache) -> None:
        self.states[tokens] = cache
        while len(self.states) > self.entries:
            self.states.popitem(last=False)


def main(
    mixer: Annotated[str, typer.Option(help="See `seqconv list`.")] = "mamba",
    width: Annotated[int, typer.Option(help="d_model.")] = 128,
    layers: Annotated[int, typer.Option(help="Blocks.")] = 4,
    every: Annotated[int, typer.Option(help="Tokens between two states.")] = 32,
    new_tokens: Annotated[int, typer.Option(help="Tokens that each request asks for.")] = 8,
) -> dict[str, int]:
    """Serve three requests with one instruction, compare with a model that reads everything; returns the counts."""
    set_seed(0)
    tokenizer = byte_tokenizer()
    config = SeqConvConfig(
        vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=layers, mixer=mixer, initializer_range=0.5
    )
    model = SeqConvForCausalLM(config).eval()
    cache = PromptCache(model, every=every)
    instruction = "You translate from English to French. Answer with the translation alone, without explanations. "
    options = {"max_new_tokens": new_tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    for question in ("Good morning!", "Good night!", "Good morning! How are you?"):
        ids = tokenizer(instruction + question, return_tensors="pt")["input_ids"]
        want: Any = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        got = cache.generate(ids, attention_mask=torch.ones_like(ids), **options)
        print(f"{ids.shape[1]} tokens: {cache.reused} reused and {cache.read} read so far")
        if not torch.equal(got, want):
            raise RuntimeError("the cached prompt gave other tokens")
    return {"reused": cache.reused, "read": cache.read, "states": len(cache.states)}


if __name__ == "__main__":
    typer.run(main)
