"""A step checks its inputs once per generation: that hides no wrong input, and few functions run per token.

Counts of Python function entries do not depend on the machine, times do.
"""

import subprocess
import sys
from typing import Any

import pytest
import torch

from seqconv import create_mixer
from seqconv_kernels._core import native

compiled = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))

STEP_ENTRIES = 140
"""Of one step of Mamba: 253 when each op and layer checked every token."""
LAYER_ENTRIES = 120
"""Of one token in one layer of a Mamba language model: 190 when layers were called one by one."""


COUNT = """
import sys, torch
from seqconv import SeqConvConfig, SeqConvForCausalLM, create_mixer

def entries(run):
    count = 0
    def note(frame, event, argument):
        nonlocal count
        count += event == "call"
    sys.setprofile(note)
    run()
    sys.setprofile(None)
    return count - 1

def of_a_token(layers):
    sizes = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": layers}
    model = SeqConvForCausalLM(SeqConvConfig(mixer="mamba", mlp="none", norm="rms", **sizes)).eval()
    ids, cache = torch.tensor([[1]]), None
    for _ in range(3):
        cache = model(input_ids=ids, past_key_values=cache, use_cache=True).past_key_values
    return entries(lambda: model(input_ids=ids, past_key_values=cache, use_cache=True))

with torch.no_grad():
    mixer, x, state = create_mixer("mamba", 16).eval(), torch.randn(2, 16), None
    for _ in range(3):
        _, state = mixer.step(x, state)
    print(entries(lambda: mixer.step(x, state)), (of_a_token(5) - of_a_token(1)) // 4)
"""


@compiled
def test_a_step_and_a_layer_enter_few_functions():
    # In a process of its own: shape annotations are checked in this one, which enters functions, too.
    step, layer = map(int, subprocess.check_output([sys.executable, "-c", COUNT], text=True).split())
    assert 50 < step <= STEP_ENTRIES
    assert 50 < layer <= LAYER_ENTRIES


def decoding_mixer(**options: Any) -> tuple[Any, torch.Tensor, Any]:
    """A mixer, a token, and a state after some steps."""
    torch.manual_seed(0)
    mixer, x = create_mixer("mamba", 16, **options).eval(), torch.randn(2, 16)
    state = None
    for _ in range(3):
        _, state = mixer.step(x, state)
    return mixer, x, state


WRONG = {
    "width": (lambda x: x[:, :8], "wanted .*d_model=16"),
    "rank": (lambda x: x[:, None], "wanted .*\\(batch, d_model\\)"),
    "dtype": (lambda x: x.double(), r"x of dtype torch\.float64"),
    "device": (lambda x: x.to("meta"), "x on meta"),
    "rows": (lambda x: x[:1], "a state of 2 rows for 1 inputs"),
}


@pytest.mark.parametrize("case", WRONG)
@torch.no_grad()
def test_a_wrong_token_raises_at_every_step_what_it_raises_at_the_first(case, unannotated):
    make, message = WRONG[case]
    mixer, x, state = decoding_mixer()
    for checked in (state, state.clone()):  # a copy is not known to be checked
        with pytest.raises(ValueError, match=message):
            mixer.step(make(x), checked)
    mixer.step(x, state)


@torch.no_grad()
def test_a_state_of_another_mixer_raises(unannotated):
    mixer, x, _ = decoding_mixer()
    _, _, other = decoding_mixer(d_state=8)
    with pytest.raises(ValueError, match="with sizes"):
        mixer.step(x, other)
    begun = create_mixer("mamba", 16, d_state=8).step(x)[1]  # after a first step neither has compared sizes
    with pytest.raises(ValueError, match="with sizes"):
        create_mixer("mamba", 16).step(x, begun)


@torch.no_grad()
def test_moving_the_mixer_is_noticed_by_the_next_step():
    mixer, x, state = decoding_mixer()
    mixer.double()
    with pytest.raises(ValueError, match=r"x of dtype torch\.float32"):
        mixer.step(x, state)


@torch.no_grad()
def test_a_token_that_autocast_permitted_raises_without_it():
    mixer, x, state = decoding_mixer()
    mixer.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        _, state = mixer.step(x, state)
        _, state = mixer.step(x, state)
    with pytest.raises(ValueError, match=r"x of dtype torch\.float32"):
        mixer.step(x, state)


def test_what_a_state_remembers_holds_no_tensor():
    mixer, x, state = decoding_mixer()
    _, after = mixer.step(x, state)
    assert after.checked is not None
    assert not any(isinstance(value, torch.Tensor) for value in after.checked)
    assert after.select(torch.tensor([1])).checked is None
    assert after.clone().checked is None
