"""A cache that ``generate`` returned continues in a second turn, for every mixer: as if the whole text came at once."""

import pytest
import torch

from seqconv import list_mixers
from seqconv.hf import SeqConvConfig, SeqConvForCausalLM
from tolerances import assert_near


@pytest.mark.parametrize("name", list_mixers())
def test_a_second_turn_of_generate_continues_the_text(name):
    torch.manual_seed(0)
    config = SeqConvConfig(vocab_size=50, hidden_size=16, layer_pattern=[name], num_hidden_layers=2)
    model = SeqConvForCausalLM(config).double().eval()
    text, cache = torch.randint(50, (2, 20)), None
    for more in (5, 60):
        turn = model.generate(
            text, attention_mask=torch.ones_like(text), past_key_values=cache, max_new_tokens=4, do_sample=False,
            output_logits=True, return_dict_in_generate=True, pad_token_id=0, eos_token_id=None,
        )  # fmt: skip
        with torch.no_grad():
            want = model(turn.sequences).logits[:, -5:-1]
        assert_near(torch.stack(turn.logits, 1), want, dtype=torch.float32, what=f"before {more} more")
        text, cache = torch.cat([turn.sequences, torch.randint(50, (2, more))], 1), turn.past_key_values
