"""Parameters that are only there while their module is called: what offloading and sharding do to them."""

import accelerate
import pytest
import torch

from mixer_cases import build, each_default, inputs
from tolerances import assert_near


@each_default
@pytest.mark.parametrize("buffers", [False, True])
@pytest.mark.usefixtures("unannotated")
@torch.no_grad()
def test_offloaded_parameters_are_read_inside_their_modules_alone(case, buffers):
    """Each module's tensors are on the meta device except during its own call, in every form."""
    x, mixer = inputs(9), build(case)
    want = mixer(x)
    accelerate.cpu_offload(mixer, execution_device=torch.device("cpu"), offload_buffers=buffers)
    assert all(parameter.is_meta for parameter in mixer.parameters())
    assert_near(mixer(x), want, what="forward")
    if not mixer.causal:
        return
    first, state = mixer.prefill(x[:, :5])
    second, state = mixer.prefill(x[:, 5:7], state)
    outputs = [first, second]
    for t in (7, 8):
        y, state = mixer.step(x[:, t], state)
        outputs.append(y[:, None])
    assert_near(torch.cat(outputs, 1), want, what="prefill and steps")
    first, state = mixer.step(x[:, 0])
    assert_near(first, want[:, 0], what="first step")
