"""What has to run wherever the package was installed: every op, every mixer, training, the report on the machine.

Needs nothing but the installed package: ``python tests/smoke.py``.
"""

import torch

from seqconv import SeqConvConfig, SeqConvForCausalLM, create_mixer, list_mixers
from seqconv.cli.doctor import choices, example_arguments, ops, versions

torch.manual_seed(0)
for name, (_, function, _) in ops().items():
    arguments = example_arguments(name, "cpu", torch.float64)
    want = function(**arguments, implementation="reference")
    torch.testing.assert_close(function(**arguments), want, rtol=1e-8, atol=1e-8)
for name in list_mixers():
    mixer, x = create_mixer(name, 8).double().eval(), torch.randn(2, 33, 8, dtype=torch.float64)
    if mixer.state_kind == "none":
        assert mixer(x).shape == x.shape
        continue
    y, state = mixer.prefill(x[:, :32])
    y_t, _ = mixer.step(x[:, 32], state)
    torch.testing.assert_close(y_t, mixer(x)[:, 32], rtol=1e-6, atol=1e-8)

config = SeqConvConfig(
    vocab_size=32, hidden_size=16, layer_pattern=["mamba", "hyena", "attention"], num_hidden_layers=3
)
model, ids = SeqConvForCausalLM(config), torch.randint(0, 32, (2, 24))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
losses = []
for _ in range(3):
    optimizer.zero_grad()
    losses.append(loss := model(ids, labels=ids).loss)
    loss.backward()
    optimizer.step()
assert losses[-1] < losses[0]
assert model.generate(ids, max_new_tokens=2, do_sample=False).shape == (2, 26)

print(len(list_mixers()), {choice.taken for choice in choices("cpu", torch.float32)}, versions())
