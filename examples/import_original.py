"""Import an original layer: the weights of a Mamba layer, as trained elsewhere, in a module with an exact state.

The layer comes from transformers, whose parameters carry the names of the original project's. Its outputs and
those of the imported layer are compared, then the imported layer continues the same sequence token by token.

    python examples/import_original.py
"""

import torch
from torch import Tensor
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer

from seqconv import Mixer
from seqconv.interop import from_original

WIDTH, LENGTH = 64, 128


def original_layer() -> MambaMixer:
    """A freshly initialised layer; ``load_state_dict`` would fill it from a checkpoint."""
    config = MambaConfig(hidden_size=WIDTH, state_size=16, intermediate_size=2 * WIDTH, time_step_rank=4)
    return MambaMixer(config, layer_idx=0).eval()


def decode(mixer: Mixer, x: Tensor, prompt: int) -> Tensor:
    """The outputs over ``x``: the first ``prompt`` tokens at once, the others one by one."""
    y, state = mixer.prefill(x[:, :prompt])
    outputs = [y]
    for t in range(prompt, x.shape[1]):
        y_t, state = mixer.step(x[:, t], state)
        outputs.append(y_t[:, None])
    return torch.cat(outputs, dim=1)


@torch.no_grad()
def main() -> None:
    """Import, compare, decode."""
    torch.manual_seed(0)
    original, x = original_layer(), torch.randn(2, LENGTH, WIDTH)
    imported = from_original("state-spaces/mamba:Mamba", original.state_dict(), d_model=WIDTH, d_state=16, dt_rank=4)
    assert isinstance(imported, Mixer)
    want = original(x)
    for name, got in {"forward": imported(x), "prefill and steps": decode(imported, x, LENGTH // 2)}.items():
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-5)
        print(f"{name}: largest difference {(got - want).abs().max():.1e} on a scale of {want.abs().max():.1e}")


if __name__ == "__main__":
    main()
