"""Every mixer side by side: parameters, state after a short and a long context, time of a forward pass and of a token.

python examples/compare_mixers.py --d-model 128 --length 1024
"""

import time
from collections.abc import Callable
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from seqconv import Mixer, State, create_mixer, list_mixers


def milliseconds(call: Callable[[], object], repeats: int = 3) -> float:
    """Least time of a call: what it costs when nothing else disturbs it."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def kilobytes(state: State) -> float:
    """Memory of a state."""
    sizes: list[int] = []
    state.map(lambda t: sizes.append(t.numel() * t.element_size()) or t)
    return sum(sizes) / 1e3


def compare(mixer: Mixer, length: int) -> tuple[float, ...]:
    """Parameters, state in kB after a quarter and after all of ``length``, forward and step in ms."""
    x = torch.randn(1, length, mixer.d_model)
    y, state = mixer.prefill(x, mixer.init_state(1, max_length=length + 1))
    torch.testing.assert_close(y, mixer(x), rtol=1e-2, atol=1e-3)
    _, early = mixer.prefill(x[:, : length // 4], mixer.init_state(1, max_length=length + 1))
    parameters = sum(p.numel() for p in mixer.parameters())
    token = milliseconds(lambda: mixer.step(x[:, -1], state.clone()))
    return parameters, kilobytes(early), kilobytes(state), milliseconds(lambda: mixer(x)), token


@torch.inference_mode()
def main(
    d_model: Annotated[int, typer.Option(help="Width.")] = 128,
    length: Annotated[int, typer.Option(help="Context.")] = 1024,
    pattern: Annotated[str, typer.Option(help="Which mixers.")] = "*",
) -> None:
    """Print one row per mixer."""
    torch.manual_seed(0)
    context = f"state at {length // 4}", f"at {length}"
    table = Table(
        "mixer", "parameters", *context, "forward", "token", title=f"d_model {d_model}, float32, one sequence"
    )
    for name in list_mixers(pattern):
        mixer = create_mixer(name, d_model).eval()
        if not mixer.causal:
            continue  # no state to compare
        numbers = compare(mixer, length)
        formats = "{:,}", "{:.1f} kB", "{:.1f} kB", "{:.2f} ms", "{:.3f} ms"
        table.add_row(name, *(text.format(n) for text, n in zip(formats, numbers, strict=True)))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
