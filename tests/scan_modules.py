"""Golden layers whose cases store ``in.*``, ``cot.y``, ``out.*`` per variant and share parameters between variants."""

from typing import Any

import torch

from golden_cases import Case, Imported, assert_close, check_gradients, load_variant
from seqconv import State

RTOL, ATOL = 1e-9, 1e-10


def import_variant(original: str, folder: str, variant: str, owner: str) -> tuple[Case, Imported]:
    """A variant, and the module with the parameters and hyper-parameters of ``owner``."""
    source = load_variant(folder, owner)
    case = source if variant == owner else load_variant(folder, variant)
    return case, Imported(original, source.group("param"), source.meta["cfg"])


def check_layer(case: Case, imported: Imported, grad_rtol: float = RTOL, **options: Any) -> None:
    """Output, gradient of the input, gradients of all parameters."""
    (name, given), *others = case.group("in").items()
    assert not others
    x = given.double().requires_grad_()
    y = imported(x, **options)
    assert_close(y, case.tensors["out.y"], RTOL, ATOL, f"{case.name}: output")
    (y * case.tensors["cot.y"]).sum().backward()
    assert x.grad is not None
    want = case.tensors[f"grad.in.{name}"]
    scale = max(want.abs().max().item(), 1.0)
    assert_close(x.grad, want, grad_rtol, max(ATOL, grad_rtol * scale), f"{case.name}: gradient of the input")
    atol = max(ATOL, grad_rtol * max(t.abs().max().item() for t in case.group("grad.param").values()))
    check_gradients(imported, case.group("grad.param"), grad_rtol, atol)


def prefill_then_step(imported: Imported, x: torch.Tensor, prompt: int) -> tuple[torch.Tensor, State, State]:
    """Outputs for ``prompt`` tokens at once and the others one by one; the states after the prompt and at the end."""
    module = imported.module
    module.load_state_dict(imported.weights)
    with torch.no_grad():
        y, state = module.prefill(x[:, :prompt])
        outputs, after_prompt = [y], state.clone()
        for t in range(prompt, x.shape[1]):
            y_t, state = module.step(x[:, t], state)
            outputs.append(y_t[:, None])
    return torch.cat(outputs, dim=1), after_prompt, state
